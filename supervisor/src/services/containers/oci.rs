//! The OCI runtime spec of a container: what everyone gets, and what was asked. Pure.
//!
//! Source: opencontainers/runtime-spec 1.2, config.md and config-linux.md; the defaults are
//! Docker's.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    process::Process,
    seccomp::Seccomp,
    spec::{Mount, MountKind, Resources, Spec},
    user_namespace::IdRange,
    volumes::NO_COPY,
};
use crate::config::Network;

/// The option of a mount whose owners are seen as they are on the host.
const NO_IDMAP: &str = "noidmap";
const OCI_VERSION: &str = "1.2.0";
const CPU_PERIOD_US: i64 = 100_000;
const DEFAULT_SHM_BYTES: i64 = 64 << 20;

/// Docker's default set.
pub const DEFAULT_CAPS: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// All there are (capabilities(7), Linux 5.9).
pub const ALL_CAPS: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices a container may use: major, minor (-1: all). Source: config-linux.md, default
/// devices, and pseudo-terminals.
const DEVICES: &[(i64, i64)] =
    &[(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, -1)];

/// What the spec is made from.
#[derive(Debug)]
pub struct Input<'a> {
    /// As asked, complete.
    pub spec: &'a Spec,
    /// What runs.
    pub process: &'a Process,
    /// Absolute.
    pub cgroup: String,
    /// Where `hosts`, `hostname` and `resolv.conf` are.
    pub bundle: &'a Path,
    /// Where the volumes are, by their names.
    pub volumes: &'a HashMap<String, PathBuf>,
    /// Nodes in its `/dev` besides the usual, as the OCI spec has them.
    pub devices: &'a [Value],
}

/// config.json.
#[must_use]
pub fn config(input: &Input<'_>) -> Value {
    let Input { spec, process, cgroup, bundle, volumes, devices } = input;
    let mut annotations = serde_json::Map::new();
    for (key, value) in &spec.annotations {
        annotations.insert(key.clone(), json!(value));
    }
    let hidden: (&[&str], &[&str]) = match spec.privileged {
        true => (&[], &[]),
        false => (MASKED_PATHS, READONLY_PATHS),
    };
    json!({
        "ociVersion": OCI_VERSION,
        "hostname": if host_network(spec) { Value::Null } else { json!(spec.hostname) },
        "root": { "path": "rootfs", "readonly": spec.read_only_rootfs },
        "process": process_json(spec, process),
        "mounts": mounts(spec, bundle, volumes),
        "annotations": annotations,
        "linux": {
            "namespaces": namespaces(spec),
            "uidMappings": spec.mapped().map(|n| id_mappings(&n.uids)),
            "gidMappings": spec.mapped().map(|n| id_mappings(&n.gids)),
            "cgroupsPath": cgroup,
            "resources": resources_with_devices(spec),
            "devices": devices,
            "maskedPaths": hidden.0,
            "readonlyPaths": hidden.1,
            "seccomp": seccomp(spec),
        },
    })
    .without_nulls()
}

/// The process of the container, or of an exec in it.
#[must_use]
pub fn process_json(spec: &Spec, process: &Process) -> Value {
    let caps = capabilities(spec);
    json!({
        "terminal": spec.tty,
        "user": {
            "uid": process.identity.uid,
            "gid": process.identity.gid,
            "additionalGids": process.identity.groups,
        },
        "args": process.args,
        "env": process.env,
        "cwd": process.cwd,
        "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
        "rlimits": spec.rlimits.iter().map(|r| json!({
            "type": r.kind, "soft": r.soft, "hard": r.hard,
        })).collect::<Vec<_>>(),
        "noNewPrivileges": spec.has_no_new_privileges(),
    })
}

/// The filter of system calls. A container that may do everything has none, unless it asks for one.
fn seccomp(spec: &Spec) -> Option<Value> {
    match (&spec.seccomp, spec.privileged) {
        (Seccomp::Default, true) => None,
        (asked, _) => asked.oci(&capabilities(spec)),
    }
}

/// Limits as OCI has them.
#[must_use]
pub fn resources(resources: &Resources) -> Value {
    let of_nano = |nano: i64| nano.saturating_mul(CPU_PERIOD_US) / 1_000_000_000;
    let quota = resources.nano_cpus.map(of_nano).or(resources.cpu_quota);
    let own_period = resources.cpu_period.and_then(|period| i64::try_from(period).ok());
    let period = match resources.nano_cpus {
        Some(_) => Some(CPU_PERIOD_US),
        None => own_period.or(quota.map(|_| CPU_PERIOD_US)),
    };
    let weight = resources.blkio_weight;
    json!({
        "memory": {
            "limit": resources.memory,
            "swap": resources.memory_swap,
            "reservation": resources.memory_reservation,
        },
        "cpu": {
            "shares": resources.cpu_shares,
            "quota": quota,
            "period": period,
            "cpus": resources.cpuset_cpus,
            "mems": resources.cpuset_mems,
        },
        "blockIO": weight.map(|weight| json!({ "weight": weight })),
        // No limit is no object: one without a limit would be a limit of none.
        "pids": resources.pids.map(|p| json!({ "limit": if p <= 0 { -1 } else { p } })),
    })
    .without_nulls()
}

fn resources_with_devices(spec: &Spec) -> Value {
    let mut value = resources(&spec.resources);
    if spec.privileged {
        value["devices"] = json!([{ "allow": true, "access": "rwm" }]);
        return value;
    }
    let mut devices = vec![
        json!({ "allow": false, "access": "rwm" }),
        // Any node may be made; only these may be opened.
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    devices.extend(DEVICES.iter().map(|(major, minor)| {
        let minor = if *minor < 0 { Value::Null } else { json!(minor) };
        json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" })
            .without_nulls()
    }));
    value["devices"] = Value::Array(devices);
    value
}

fn host_network(spec: &Spec) -> bool {
    spec.network == Some(Network::Host)
}

fn namespaces(spec: &Spec) -> Vec<Value> {
    // A host's network has the host's name (sethostname(2) would be the host's).
    let mut kinds = vec!["pid", "ipc", "mount", "cgroup", "uts"];
    if !host_network(spec) {
        kinds.push("network");
    }
    if spec.mapped().is_some() {
        kinds.push("user");
    }
    kinds.into_iter().map(|kind| json!({ "type": kind })).collect()
}

fn id_mappings(ranges: &[IdRange]) -> Vec<Value> {
    let one =
        |r: &IdRange| json!({ "containerID": r.container_id, "hostID": r.host_id, "size": r.size });
    ranges.iter().map(one).collect()
}

fn capabilities(spec: &Spec) -> Vec<&str> {
    let all = |list: &[String]| list.iter().any(|c| c == "ALL");
    if spec.privileged {
        return ALL_CAPS.to_vec();
    }
    let mut caps: Vec<&str> = match (all(&spec.cap_add), all(&spec.cap_drop)) {
        (true, _) => ALL_CAPS.to_vec(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT_CAPS.to_vec(),
    };
    caps.retain(|cap| !spec.cap_drop.iter().any(|d| d == cap));
    for cap in &spec.cap_add {
        if cap != "ALL" && !caps.contains(&cap.as_str()) {
            caps.push(cap);
        }
    }
    caps
}

fn mounts(spec: &Spec, bundle: &Path, volumes: &HashMap<String, PathBuf>) -> Vec<Value> {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let shm = if spec.shm_size_bytes > 0 { spec.shm_size_bytes } else { DEFAULT_SHM_BYTES };
    let shm = format!("size={shm}");
    let kernels = if spec.privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", kernels]),
        mount("/sys/fs/cgroup", "cgroup", &[kernels, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ];
    for name in identity_files(spec) {
        list.push(json!({
            "destination": format!("/etc/{name}"),
            "type": "bind",
            "source": bundle.join(name),
            "options": if spec.mapped().is_some() { vec!["rbind", "rprivate", "idmap"] } else { vec!["rbind", "rprivate"] },
        }));
    }
    // What is mounted deeper comes later, whatever the order it was asked in.
    let mut asked: Vec<&Mount> = spec.mounts.iter().collect();
    asked.sort_by_key(|m| m.target.split('/').filter(|part| !part.is_empty()).count());
    let owners = if spec.mapped().is_some() { Owners::Mapped } else { Owners::AsTheyAre };
    list.extend(asked.into_iter().map(|mount| asked_mount(mount, volumes, owners)));
    list
}

/// Files of /etc that are the container's own, unless a mount that was asked for is there.
pub fn identity_files(spec: &Spec) -> impl Iterator<Item = &'static str> + '_ {
    let names: &[&'static str] = if host_network(spec) {
        &["hosts", "hostname", "resolv.conf"]
    } else {
        &["hosts", "hostname"]
    };
    names
        .iter()
        .copied()
        .filter(|name| !spec.mounts.iter().any(|m| m.target == format!("/etc/{name}")))
}

/// How the owners of what is mounted are seen in the container.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owners {
    AsTheyAre,
    Mapped,
}

fn asked_mount(mount: &Mount, volumes: &HashMap<String, PathBuf>, owners: Owners) -> Value {
    let volume = volumes.get(&mount.source).map(|path| path.to_string_lossy().into_owned());
    let (kind, source, mut options) = match mount.kind {
        MountKind::Bind | MountKind::Volume => {
            let propagation = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
            let mut options = vec!["rbind".to_owned()];
            if !mount.options.iter().any(|o| propagation.contains(&o.as_str())) {
                options.push("rprivate".into());
            }
            let says = ["idmap", "ridmap", NO_IDMAP];
            if owners == Owners::Mapped && !mount.options.iter().any(|o| says.contains(&o.as_str()))
            {
                options.push("ridmap".into());
            }
            let source = match mount.kind {
                MountKind::Volume => volume.as_deref().unwrap_or_default(),
                MountKind::Bind | MountKind::Tmpfs => mount.source.as_str(),
            };
            ("bind", source, options)
        }
        MountKind::Tmpfs => {
            ("tmpfs", "tmpfs", vec!["nosuid".into(), "nodev".into(), "noexec".into()])
        }
    };
    // What was asked for comes last, and wins.
    options.extend(mount.options.iter().filter(|o| *o != NO_COPY && *o != NO_IDMAP).cloned());
    options.push(if mount.read_only { "ro" } else { "rw" }.into());
    json!({ "destination": mount.target, "type": kind, "source": source, "options": options })
}

trait WithoutNulls {
    /// Objects without the members that are null, at every depth.
    fn without_nulls(self) -> Self;
}

impl WithoutNulls for Value {
    fn without_nulls(self) -> Self {
        match self {
            Self::Object(map) => Self::Object(
                map.into_iter()
                    .filter(|(_, v)| !v.is_null())
                    .map(|(k, v)| (k, v.without_nulls()))
                    .collect(),
            ),
            Self::Array(list) => Self::Array(list.into_iter().map(Self::without_nulls).collect()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::Path};

    use super::{Input, Spec, capabilities, config};
    use crate::{
        config::Network,
        services::containers::{
            process::Process,
            spec::{Resources, Rlimit},
        },
    };

    fn made(spec: &Spec) -> oci_spec::runtime::Spec {
        let process = Process {
            args: vec!["sh".into()],
            env: vec!["A=b".into()],
            cwd: "/".into(),
            ..Default::default()
        };
        let value = config(&Input {
            spec,
            process: &process,
            cgroup: "/wharf/x".into(),
            bundle: Path::new("/b"),
            volumes: &HashMap::new(),
            devices: &[],
        });
        serde_json::from_value(value).expect("a spec as oci-spec reads it")
    }

    #[test]
    fn limits_and_namespaces_reach_the_spec() {
        let spec = Spec {
            network: Some(Network::Host),
            resources: Resources {
                memory: Some(64 << 20),
                nano_cpus: Some(1_500_000_000),
                pids: Some(0),
                ..Default::default()
            },
            rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 1, hard: 2 }],
            ..Default::default()
        };
        let made = made(&spec);
        let linux = made.linux().as_ref().expect("linux");
        let resources = linux.resources().as_ref().expect("resources");
        assert_eq!(resources.memory().as_ref().and_then(|m| m.limit()), Some(64 << 20));
        assert_eq!(resources.cpu().as_ref().and_then(|c| c.quota()), Some(150_000));
        assert_eq!(resources.devices().as_ref().map(Vec::len), Some(12));
        let kinds: Vec<String> =
            linux.namespaces().iter().flatten().map(|n| n.typ().to_string()).collect();
        assert!(!kinds.contains(&"network".to_owned()), "{kinds:?}");
        assert!(made.hostname().is_none());
    }

    #[test]
    fn capabilities_as_docker_adds_and_drops() {
        let caps = |add: &[&str], drop: &[&str]| {
            let list = |l: &[&str]| l.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
            let spec = Spec { cap_add: list(add), cap_drop: list(drop), ..Default::default() };
            capabilities(&spec).iter().map(|c| (*c).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(caps(&[], &[]).len(), 14);
        assert_eq!(caps(&["CAP_NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert_eq!(caps(&["ALL"], &["CAP_SYS_ADMIN"]).len(), 40);
        assert!(!caps(&[], &["CAP_CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
    }
}
