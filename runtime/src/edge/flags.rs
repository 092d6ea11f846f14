//! The commands and their flags, as runc has them, and the text that lists them.

use std::fmt::Write;

use super::args::{Flag, Order, switch, value};

/// One command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) operands: &'static str,
    /// How many operands there may be.
    pub(crate) count: (usize, usize),
    pub(crate) order: Order,
    pub(crate) flags: &'static [Flag],
}

const MANY: usize = usize::MAX;

pub(crate) const GLOBAL: &[Flag] = &[
    value(&["root"], "folder of the containers' states"),
    value(&["log"], "file for messages; without it they go to standard error"),
    value(&["log-format"], "text or json"),
    switch(&["systemd-cgroup"], "have systemd make the cgroups; cgroupsPath is slice:prefix:name"),
    switch(&["debug"], "more messages"),
    value(&["rootless"], "true, false or auto: whether missing rights to cgroups are passed over"),
    value(&["criu"], "the criu program"),
    switch(&["version", "v"], "print the version"),
    switch(&["help", "h"], "print this"),
];

const BUNDLE: Flag = value(&["bundle", "b"], "folder of the bundle; the working directory without");
const CONSOLE: Flag = value(&["console-socket"], "socket that gets the terminal's master");
const PID_FILE: Flag = value(&["pid-file"], "file for the process' pid");
const PIDFD: Flag = value(&["pidfd-socket"], "socket that gets a pidfd of the process");
const PRESERVE: Flag = value(&["preserve-fds"], "how many descriptors from 3 on are passed");
const NO_PIVOT: Flag = switch(&["no-pivot"], "no pivot_root: for a host that runs from a ramdisk");
const KEYRING: Flag = switch(&["no-new-keyring"], "keep the caller's session keyring");
const DETACH: Flag = switch(&["detach", "d"], "return when the process runs");
const SUBREAPER: Flag =
    switch(&["no-subreaper"], "do not reap the container's orphans while waiting");
const FORMAT: Flag = value(&["format", "f"], "table or json");
const IMAGE: Flag = value(&["image-path"], "folder of the checkpoint; checkpoint without");
const WORK: Flag = value(&["work-path"], "folder for criu's logs");
const TCP: Flag = switch(&["tcp-established"], "allow open TCP connections");
const TCP_FLIGHT: Flag = switch(&["tcp-skip-in-flight"], "leave out TCP connections being opened");
const UNIX: Flag = switch(&["ext-unix-sk"], "allow external unix sockets");
const SHELL: Flag = switch(&["shell-job"], "allow shell jobs");
const LOCKS: Flag = switch(&["file-locks"], "keep file locks");
const LAZY: Flag = switch(&["lazy-pages"], "copy memory when it is touched");
const MODE: Flag = value(&["manage-cgroups-mode"], "soft, full, strict or ignore");
const EMPTY: Flag = value(&["empty-ns"], "make this namespace (network) without its properties");
const DEDUP: Flag = switch(&["auto-dedup"], "remove what a parent image has");
const LINKS: Flag = switch(&["link-remap"], "remap unlinked files");

pub(crate) const VERBS: &[Verb] = &[
    Verb {
        name: "checkpoint",
        about: "checkpoint a running container",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            IMAGE,
            WORK,
            value(&["parent-path"], "image of an earlier pre-dump, relative to the image's folder"),
            switch(&["leave-running"], "go on running"),
            TCP,
            TCP_FLIGHT,
            LINKS,
            UNIX,
            SHELL,
            LAZY,
            value(&["status-fd"], "descriptor that gets a NUL when lazy pages are served"),
            value(&["page-server"], "ADDRESS:PORT of a page server"),
            LOCKS,
            switch(&["pre-dump"], "dump memory only, and go on running"),
            MODE,
            EMPTY,
            DEDUP,
        ],
    },
    Verb {
        name: "create",
        about: "create a container",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[BUNDLE, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, KEYRING, PRESERVE],
    },
    Verb {
        name: "delete",
        about: "delete any resources held by a container",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[switch(&["force", "f"], "kill it first, and be content if there is none")],
    },
    Verb {
        name: "events",
        about: "display container events such as OOM notifications, cpu, memory, and IO usage",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            value(&["interval"], "time between two figures; 5s without"),
            switch(&["stats"], "print the figures once"),
        ],
    },
    Verb {
        name: "exec",
        about: "execute a new process inside a container",
        operands: "<container-id> [command [args...]]",
        count: (1, MANY),
        order: Order::FlagsFirst,
        flags: &[
            CONSOLE,
            PIDFD,
            value(&["cwd"], "working directory"),
            value(&["env", "e"], "NAME=VALUE, more than once"),
            switch(&["tty", "t"], "a terminal of its own"),
            value(&["user", "u"], "UID[:GID]"),
            value(&["additional-gids", "g"], "further groups, more than once"),
            value(&["process", "p"], "process.json"),
            DETACH,
            PID_FILE,
            value(&["process-label"], "SELinux label"),
            value(&["apparmor"], "AppArmor profile"),
            switch(&["no-new-privs"], "set no_new_privs"),
            value(&["cap", "c"], "a capability more, more than once"),
            PRESERVE,
            value(
                &["cgroup"],
                "[CONTROLLER[,...]:]PATH below the container's cgroup, more than once",
            ),
            switch(&["ignore-paused"], "also into a paused container"),
            SUBREAPER,
        ],
    },
    Verb {
        name: "kill",
        about: "send the specified signal (default: SIGTERM) to the container's init process",
        operands: "<container-id> [signal]",
        count: (1, 2),
        order: Order::Anywhere,
        flags: &[switch(&["all", "a"], "to all processes of the container")],
    },
    Verb {
        name: "list",
        about: "list containers started with the given root",
        operands: "",
        count: (0, 0),
        order: Order::Anywhere,
        flags: &[FORMAT, switch(&["quiet", "q"], "ids only")],
    },
    Verb {
        name: "pause",
        about: "suspend all processes inside the container",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[],
    },
    Verb {
        name: "ps",
        about: "display the processes running inside a container",
        operands: "<container-id> [ps options]",
        count: (1, MANY),
        order: Order::FlagsFirst,
        flags: &[FORMAT],
    },
    Verb {
        name: "restore",
        about: "restore a container from a previous checkpoint",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            CONSOLE,
            IMAGE,
            WORK,
            TCP,
            UNIX,
            SHELL,
            LOCKS,
            MODE,
            BUNDLE,
            DETACH,
            PID_FILE,
            SUBREAPER,
            NO_PIVOT,
            EMPTY,
            DEDUP,
            LAZY,
            value(&["lsm-profile"], "TYPE:NAME of the security profile to restore with"),
            value(&["lsm-mount-context"], "SELinux context of the mounts"),
        ],
    },
    Verb {
        name: "resume",
        about: "resume all processes that have been previously paused",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[],
    },
    Verb {
        name: "run",
        about: "create and run a container",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            BUNDLE,
            CONSOLE,
            PIDFD,
            DETACH,
            switch(&["keep"], "keep the container's state after its end"),
            PID_FILE,
            SUBREAPER,
            NO_PIVOT,
            KEYRING,
            PRESERVE,
        ],
    },
    Verb {
        name: "spec",
        about: "create a new specification file",
        operands: "",
        count: (0, 0),
        order: Order::Anywhere,
        flags: &[BUNDLE, switch(&["rootless"], "for an ordinary user")],
    },
    Verb {
        name: "start",
        about: "execute the user defined process in a created container",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[],
    },
    Verb {
        name: "state",
        about: "output the state of a container",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[],
    },
    Verb {
        name: "update",
        about: "update container resource constraints",
        operands: "<container-id>",
        count: (1, 1),
        order: Order::Anywhere,
        flags: &[
            value(
                &["resources", "r"],
                "file of resources as in config.json, or - for standard input",
            ),
            value(&["blkio-weight"], "10 to 1000"),
            value(&["cpu-period"], "microseconds"),
            value(&["cpu-quota"], "microseconds in each period; -1 for no limit"),
            value(&["cpu-burst"], "microseconds that may be saved up"),
            value(&["cpu-share", "cpu-shares"], "relative weight, 2 to 262144"),
            value(&["cpu-rt-period"], "real-time period in microseconds (v1)"),
            value(&["cpu-rt-runtime"], "real-time limit in microseconds (v1)"),
            value(&["cpuset-cpus"], "CPUs to use, as 0-2,7"),
            value(&["cpuset-mems"], "memory nodes to use"),
            value(&["kernel-memory"], "has no effect"),
            value(&["kernel-memory-tcp"], "bytes of TCP buffers (v1)"),
            value(&["memory"], "bytes, with a unit or without; -1 for no limit"),
            value(&["cpu-idle"], "1: run only when nothing else does"),
            value(&["memory-reservation"], "bytes that are kept when memory is short"),
            value(&["memory-swap"], "bytes of memory and swap together; -1 for no limit"),
            value(&["pids-limit"], "tasks; -1 for no limit"),
            value(&["l3-cache-schema"], "Intel RDT's schema of the L3 cache"),
            value(&["mem-bw-schema"], "Intel RDT's schema of the memory's bandwidth"),
        ],
    },
    Verb {
        name: "features",
        about: "show the enabled features",
        operands: "",
        count: (0, 0),
        order: Order::Anywhere,
        flags: &[],
    },
];

/// The name by which this program was called: callers that run it in runc's place read their own.
pub(crate) fn program() -> String {
    let name = std::env::args_os().next();
    let name = name.as_deref().and_then(|name| std::path::Path::new(name).file_name());
    name.map_or_else(|| "wharf-runtime".to_owned(), |name| name.to_string_lossy().into_owned())
}

pub(crate) fn verb(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

fn list_flags(text: &mut String, flags: &[Flag]) {
    for flag in flags {
        let names: Vec<_> = flag
            .names
            .iter()
            .map(|name| format!("{}{name}", if name.len() == 1 { "-" } else { "--" }))
            .collect();
        let names = names.join(", ") + if flag.value { " value" } else { "" };
        // Writing to a string can't fail.
        let _ = writeln!(text, "   {names:<32}  {}", flag.help);
    }
}

/// What `--help` prints.
pub(crate) fn usage() -> String {
    let name = program();
    let mut text = format!(
        "NAME:\n   {name} - Open Container Initiative runtime\n\nUSAGE:\n   {name} [global options] command [command options] [arguments...]\n\nVERSION:\n   {}\n\nCOMMANDS:\n",
        env!("CARGO_PKG_VERSION")
    );
    for verb in VERBS {
        let _ = writeln!(text, "   {:<12}{}", verb.name, verb.about);
    }
    text.push_str("\nGLOBAL OPTIONS:\n");
    list_flags(&mut text, GLOBAL);
    text.pop();
    text
}

/// What `COMMAND --help` prints.
pub(crate) fn usage_of(verb: &Verb) -> String {
    let name = program();
    let mut text = format!(
        "NAME:\n   {name} {} - {}\n\nUSAGE:\n   {name} {} [command options] {}\n\nOPTIONS:\n",
        verb.name, verb.about, verb.name, verb.operands
    );
    list_flags(&mut text, verb.flags);
    list_flags(&mut text, &[switch(&["help", "h"], "print this")]);
    text.pop();
    text
}
