//! What the commands print: lists, figures, a default spec, what this runtime can do.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::CommandError;
use super::container::Container;
use super::store::Store;
use crate::logic::capabilities::BY_BIT;

/// One line of standard output; a reader that is gone wants no more.
pub(crate) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(crate) fn state(container: &Container) {
    print(&serde_json::to_string_pretty(&container.state()).unwrap_or_default());
}

/// What `--version` prints; callers read the second word of the line that has "version" in it.
pub(crate) fn version() {
    print(&format!(
        "{} version {}\ncommit: {}\nspec: {SPEC}",
        super::flags::program(),
        env!("CARGO_PKG_VERSION"),
        option_env!("WHARF_COMMIT").unwrap_or("unknown"),
    ));
}

/// Version of the OCI runtime spec.
const SPEC: &str = "1.3.0";

/// How a list is to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Table,
    Json,
    Ids,
}

/// All containers. One that can't be read is named and does not hide the others.
pub(crate) fn list(store: &Store, form: Form, warn: impl Fn(&str)) -> Result<(), CommandError> {
    let mut all = Vec::new();
    for id in store.ids()? {
        match Container::load(store, &id) {
            Ok(container) => all.push(container),
            Err(CommandError::NoContainer { .. }) => {}
            Err(error) => warn(&format!("{id}: {error}")),
        }
    }
    match form {
        Form::Ids => all.iter().for_each(|c| print(&c.record.id)),
        Form::Json => {
            let states: Vec<_> = all.iter().map(Container::state_with_owner).collect();
            print(&serde_json::to_string(&states).unwrap_or_default());
        }
        Form::Table => {
            let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
            let rows = all.iter().map(|c| {
                [
                    c.record.id.clone(),
                    c.task.as_ref().map_or(0, |t| t.pid).to_string(),
                    c.status.name().to_owned(),
                    c.record.bundle.display().to_string(),
                    c.record.created.clone(),
                    super::container::user_name(c.record.owner),
                ]
            });
            columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
        }
    }
    Ok(())
}

/// Columns as wide as what is in them, twelve at least.
fn columns(rows: &[[String; 6]]) {
    let width = |at: usize| rows.iter().map(|row| row[at].len() + 1).max().unwrap_or(0).max(12);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        print(cells.collect::<String>().trim_end());
    }
}

/// The processes: pids as JSON, or ps' own lines about them.
pub(crate) fn processes(pids: &[i32], form: Form, options: &[String]) -> Result<(), CommandError> {
    if form == Form::Json {
        print(&json!(pids).to_string());
        return Ok(());
    }
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default } else { options };
    let output = Command::new("ps")
        .args(options)
        .output()
        .map_err(|source| CommandError::File { action: "run", path: "ps".to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let head = lines.next().unwrap_or("");
    let Some(column) = head.split_whitespace().position(|title| title == "PID") else {
        return Err(CommandError::Usage("ps printed no PID column".to_owned()));
    };
    print(head);
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            print(line);
        }
    }
    Ok(())
}

/// A spec to begin with.
pub(crate) fn default_spec(rootless: Option<(u32, u32)>) -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let quiet = ["nosuid", "noexec", "nodev"];
    let mut mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ]);
    let mut linux = json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "mount"}, {"type": "cgroup"}],
        "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys",
            "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
            "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if !crate::flow::cgroup::host_is_v2()
        && let Some(list) = linux["namespaces"].as_array_mut()
    {
        // As runc has it: v1's cgroups are bound into the container one by one.
        list.retain(|namespace| namespace["type"] != "cgroup");
    }
    if let Some((uid, gid)) = rootless {
        // One id is mapped, and nothing may be limited: no group 5, no cgroup.
        mounts[2]["options"] =
            json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]);
        if let Some(list) = mounts.as_array_mut() {
            list.pop();
        }
        linux["resources"] = Value::Null;
        linux["namespaces"] = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "mount"}, {"type": "cgroup"}, {"type": "user"}]);
        linux["uidMappings"] = json!([{"containerID": 0, "hostID": uid, "size": 1}]);
        linux["gidMappings"] = json!([{"containerID": 0, "hostID": gid, "size": 1}]);
        mounts[5] = json!({"destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
        if let Some(linux) = linux.as_object_mut() {
            linux.remove("resources");
        }
    }
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "wharf",
        "mounts": mounts,
        "linux": linux,
    })
}

/// Writes the default spec; one that is there is kept.
pub(crate) fn write_spec(dir: &Path, rootless: bool) -> Result<(), CommandError> {
    let ids = (crate::sys::cred::own_uid(), crate::sys::cred::own_gid());
    let path = dir.join("config.json");
    let file =
        |source| CommandError::File { action: "write", path: path.display().to_string(), source };
    let mut out = fs::File::create_new(&path).map_err(file)?;
    out.write_all(pretty(&default_spec(rootless.then_some(ids))).as_bytes()).map_err(file)
}

fn seccomp_features() -> Value {
    json!({
        "enabled": cfg!(any(target_arch = "x86_64", target_arch = "aarch64")),
        "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
        "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
            "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
        "archs": if cfg!(target_arch = "x86_64") {
            json!(["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"])
        } else {
            json!(["SCMP_ARCH_AARCH64"])
        },
        "knownFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_TSYNC"],
        "supportedFlags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_TSYNC"],
    })
}

/// What this runtime can do, in the words of the OCI's features document.
pub(crate) fn features() {
    let capabilities: Vec<String> = BY_BIT.iter().map(|c| format!("CAP_{c}")).collect();
    let options = [
        "async",
        "atime",
        "bind",
        "defaults",
        "dev",
        "diratime",
        "dirsync",
        "exec",
        "iversion",
        "lazytime",
        "loud",
        "mand",
        "noatime",
        "nodev",
        "nodiratime",
        "noexec",
        "noiversion",
        "nolazytime",
        "nomand",
        "norelatime",
        "nostrictatime",
        "nosuid",
        "nosymfollow",
        "private",
        "ratime",
        "rbind",
        "rdev",
        "rdiratime",
        "relatime",
        "remount",
        "rexec",
        "rnoatime",
        "rnodev",
        "rnodiratime",
        "rnoexec",
        "rnorelatime",
        "rnostrictatime",
        "rnosuid",
        "rnosymfollow",
        "ro",
        "rprivate",
        "rrelatime",
        "rro",
        "rrw",
        "rshared",
        "rslave",
        "rstrictatime",
        "rsuid",
        "rsymfollow",
        "runbindable",
        "rw",
        "shared",
        "silent",
        "slave",
        "strictatime",
        "suid",
        "symfollow",
        "sync",
        "unbindable",
    ];
    print(&pretty(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options.as_slice(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": seccomp_features(),
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}},
        },
        "annotations": {"dev.wharf.runtime.version": env!("CARGO_PKG_VERSION")},
    })));
}
