//! Each flag that runc 1.4 documents, and the forms of its lists.

use serde_json::Value;

use super::Runtime;
use super::world::{self, Check};

/// A command, its flags with no value, and those with one.
type Flags = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const FLAGS: &[Flags] = &[
    (
        "checkpoint",
        &[
            "--leave-running",
            "--tcp-established",
            "--tcp-skip-in-flight",
            "--link-remap",
            "--ext-unix-sk",
            "--shell-job",
            "--lazy-pages",
            "--file-locks",
            "--pre-dump",
            "--auto-dedup",
        ],
        &[
            ("--image-path", "i"),
            ("--work-path", "w"),
            ("--parent-path", "../p"),
            ("--status-fd", "1"),
            ("--page-server", "127.0.0.1:27"),
            ("--manage-cgroups-mode", "soft"),
            ("--empty-ns", "network"),
        ],
    ),
    ("delete", &["--force", "-f"], &[]),
    ("events", &["--stats"], &[("--interval", "3s")]),
    (
        "exec",
        &["--tty", "-t", "--detach", "-d", "--no-new-privs", "--ignore-paused"],
        &[
            ("--console-socket", "s"),
            ("--pidfd-socket", "s"),
            ("--cwd", "/"),
            ("--env", "A=b"),
            ("-e", "A=b"),
            ("--user", "1:2"),
            ("-u", "1"),
            ("--additional-gids", "7"),
            ("-g", "7"),
            ("--process", "p"),
            ("-p", "p"),
            ("--pid-file", "p"),
            ("--process-label", "l"),
            ("--apparmor", "a"),
            ("--cap", "CAP_KILL"),
            ("-c", "CAP_KILL"),
            ("--preserve-fds", "1"),
            ("--cgroup", "/"),
        ],
    ),
    ("kill", &["--all", "-a"], &[]),
    ("pause", &[], &[]),
    ("ps", &[], &[("--format", "json"), ("-f", "table")]),
    ("resume", &[], &[]),
    ("start", &[], &[]),
    ("state", &[], &[]),
    (
        "update",
        &[],
        &[
            ("--resources", "r"),
            ("-r", "-"),
            ("--blkio-weight", "100"),
            ("--cpu-period", "1000"),
            ("--cpu-quota", "1000"),
            ("--cpu-burst", "1"),
            ("--cpu-share", "7"),
            ("--cpu-rt-period", "1"),
            ("--cpu-rt-runtime", "1"),
            ("--cpuset-cpus", "0"),
            ("--cpuset-mems", "0"),
            ("--memory", "1g"),
            ("--cpu-idle", "1"),
            ("--memory-reservation", "1m"),
            ("--memory-swap", "-1"),
            ("--pids-limit", "7"),
            ("--kernel-memory", "1"),
            ("--kernel-memory-tcp", "1"),
            ("--l3-cache-schema", "L3:0=f"),
            ("--mem-bw-schema", "MB:0=50"),
        ],
    ),
];

/// These make containers: what is missing here is the bundle.
const WITH_BUNDLE: &[Flags] = &[
    (
        "create",
        &["--no-pivot", "--no-new-keyring"],
        &[
            ("-b", "gone"),
            ("--console-socket", "s"),
            ("--pidfd-socket", "s"),
            ("--pid-file", "p"),
            ("--preserve-fds", "1"),
        ],
    ),
    (
        "run",
        &["--detach", "-d", "--keep", "--no-subreaper", "--no-pivot", "--no-new-keyring"],
        &[
            ("-b", "gone"),
            ("--console-socket", "s"),
            ("--pidfd-socket", "s"),
            ("--pid-file", "p"),
            ("--preserve-fds", "1"),
        ],
    ),
    (
        "restore",
        &[
            "--tcp-established",
            "--ext-unix-sk",
            "--shell-job",
            "--file-locks",
            "--detach",
            "-d",
            "--no-subreaper",
            "--no-pivot",
            "--auto-dedup",
            "--lazy-pages",
        ],
        &[
            ("--console-socket", "s"),
            ("--image-path", "i"),
            ("--work-path", "w"),
            ("--manage-cgroups-mode", "soft"),
            ("-b", "gone"),
            ("--pid-file", "p"),
            ("--empty-ns", "network"),
            ("--lsm-profile", "apparmor:x"),
            ("--lsm-mount-context", "x"),
        ],
    ),
];

const UNKNOWN: &str = "flag provided but not defined";

pub(super) fn every_flag_of_runc_is_taken() -> Check {
    let r = Runtime::new()?;
    // Without a bundle or container each ends there, with its flags read.
    let end = |words: &[&str], reason: &str| -> Check {
        let (code, text) = r.bad(words)?;
        r.world.same(&format!("taken: {words:?}: {text}"), text.contains(UNKNOWN), false)?;
        r.world.same(&format!("code of {words:?}"), code == 1 || words[0] == "exec", true)?;
        r.world.has(&text, reason)
    };
    for (command, switches, values) in FLAGS {
        let rest: &[&str] = if *command == "exec" { &["gone", "true"] } else { &["gone"] };
        let forms = switches.iter().map(|one| vec![*one]);
        for form in forms.chain(values.iter().map(|(name, value)| vec![*name, *value])) {
            let words = [&[*command], form.as_slice(), rest].concat();
            // Forced, a container that is not there is deleted already.
            if *command == "delete" {
                r.good(&words)?;
            } else {
                end(&words, "does not exist")?;
            }
        }
        r.world.has(&r.bad(&[&[*command, "--no-such"], rest].concat())?.1, UNKNOWN)?;
    }
    for (command, switches, values) in WITH_BUNDLE {
        let forms = switches.iter().map(|one| vec![*one]);
        for form in forms.chain(values.iter().map(|(name, value)| vec![*name, *value])) {
            end(&[&[*command, "--bundle", "none"], form.as_slice(), &["c"]].concat(), "")?;
        }
        r.world.has(&r.bad(&[*command, "--no-such", "c"])?.1, UNKNOWN)?;
    }
    std::fs::create_dir_all(r.root())?;
    for (name, value) in [("--log", "l"), ("--log-format", "json"), ("--rootless", "auto")] {
        r.good(&[name, value, "list"])?;
    }
    for words in [&["--debug", "list"][..], &["--systemd-cgroup", "list"], &["features"]] {
        r.good(words)?;
    }
    Ok(())
}

pub(super) fn lists_and_processes_in_each_form() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.save()?;
    r.world.has(&r.bad(&["list"])?.1, "no such file or directory")?;
    std::fs::create_dir(r.root())?;
    r.world.same("nothing", r.good(&["list", "-f", "json"])?.trim(), "[]")?;
    r.detached(&["run", "-d", "--pid-file", "pid", "c"])?;
    let pid = std::fs::read_to_string(r.world.path("pid"))?;
    r.world.same("ids", r.good(&["list", "-q"])?.trim(), "c")?;
    let list: Value = serde_json::from_str(&r.good(&["list", "--format", "json"])?)?;
    r.world.same("id", list[0]["id"].as_str(), Some("c"))?;
    r.world.same("status", list[0]["status"].as_str(), Some("running"))?;
    r.world.same("pid", list[0]["pid"].to_string(), pid.clone())?;
    r.world.same("owner", list[0]["owner"].as_str(), Some("root"))?;
    r.world.has(&r.good(&["list"])?, "ID")?;
    r.world.same("processes", r.good(&["ps", "-f", "json", "c"])?.trim(), &format!("[{pid}]"))?;
    let table = r.good(&["ps", "c", "-o", "pid,args"])?;
    r.world.same("lines", table.lines().count(), 2)?;
    r.world.has(&table, &format!("{pid} sleep 1000"))?;
    for command in [&["list", "-f", "yaml"][..], &["ps", "-f", "yaml", "c"]] {
        r.world.has(&r.bad(command)?.1, "invalid format option")?;
    }
    r.good(&["kill", "--all", "c", "9"])?;
    world::until("its end", || Ok(r.status("c")? == "stopped"))?;
    r.world.has(&r.bad(&["kill", "c"])?.1, "container not running")?;
    r.good(&["kill", "-a", "c", "KILL"])?;
    r.good(&["delete", "c"])?;
    r.world.has(&r.bad(&["delete", "c"])?.1, "does not exist")
}
