//! The flags of each command, as runc has them, and the text that lists them.

use super::args::{Flag, switch, value};

pub(crate) const GLOBAL: [Flag; 9] = [
    value(&["root"]),
    value(&["log"]),
    value(&["log-format"]),
    switch(&["systemd-cgroup"]),
    switch(&["debug"]),
    value(&["rootless"]),
    value(&["criu"]),
    switch(&["version", "v"]),
    switch(&["help", "h"]),
];
pub(crate) const CREATE: [Flag; 9] = [
    value(&["bundle", "b"]),
    value(&["console-socket"]),
    value(&["pid-file"]),
    value(&["preserve-fds"]),
    switch(&["no-pivot"]),
    switch(&["no-new-keyring"]),
    switch(&["detach", "d"]),
    switch(&["no-subreaper"]),
    switch(&["keep"]),
];
pub(crate) const EXEC: [Flag; 17] = [
    value(&["process", "p"]),
    value(&["console-socket"]),
    value(&["pid-file"]),
    value(&["cwd"]),
    value(&["env", "e"]),
    value(&["user", "u"]),
    value(&["additional-gids", "g"]),
    value(&["cap", "c"]),
    value(&["preserve-fds"]),
    value(&["process-label"]),
    value(&["apparmor"]),
    value(&["cgroup"]),
    switch(&["tty", "t"]),
    switch(&["detach", "d"]),
    switch(&["no-new-privs"]),
    switch(&["ignore-paused"]),
    switch(&["no-subreaper"]),
];
pub(crate) const UPDATE: [Flag; 14] = [
    value(&["resources", "r"]),
    value(&["memory"]),
    value(&["memory-reservation"]),
    value(&["memory-swap"]),
    value(&["kernel-memory"]),
    value(&["cpu-shares", "cpu-share"]),
    value(&["cpu-quota"]),
    value(&["cpu-period"]),
    value(&["cpu-burst"]),
    value(&["cpu-idle"]),
    value(&["cpuset-cpus"]),
    value(&["cpuset-mems"]),
    value(&["pids-limit"]),
    value(&["blkio-weight"]),
];

pub(crate) const USAGE: &str =
    "wharf-runtime [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND

create   --bundle DIR [--console-socket S] [--pid-file F] [--preserve-fds N] [--no-pivot] ID
start    ID
run      [--detach] and the flags of create, ID
state    ID
kill     [--all] ID [SIGNAL]
delete   [--force] ID
exec     [--process FILE | --cwd D -e K=V -u UID[:GID]] [--tty] [--detach] ID [ARG...]
ps       [--format table|json] ID [ps's own options]
list     [--format table|json] [--quiet]
pause    ID
resume   ID
update   [--resources FILE|-] [--memory N] [--cpu-shares N] [--pids-limit N] ... ID
events   [--stats] [--interval DURATION] ID
spec     [--bundle DIR] [--rootless]
features";
