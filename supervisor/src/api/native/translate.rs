//! Between the messages of wharf.v1 and the types of the services.

use std::{collections::BTreeMap, time::Duration};

use prost_types::Timestamp;
use tonic::{Request, Status};
use wharf_proto::v1;

use super::{health, status::from_fault};
use crate::{
    config::Network,
    drivers::logs::{self, cri},
    ids::{ContainerName, Namespace},
    services::{
        containers::{
            Containers, Error, NewContainer, TopEntry, Window,
            machine::{End, Run, State},
            record::Record,
            restart::Policy,
            seccomp::Seccomp,
            spec::{Log, Mount, MountKind, Resources, Rlimit, Signal, Spec},
            user_namespace::{IdRange, Mode, UserNamespace},
        },
        prune::PruneFilter,
    },
};

/// The namespace that a call names in its metadata.
pub(super) fn namespace<T>(request: &Request<T>) -> Result<Namespace, Status> {
    let text = match request.metadata().get(v1::NAMESPACE_KEY) {
        None => v1::DEFAULT_NAMESPACE,
        Some(value) => value.to_str().unwrap_or("?"),
    };
    text.parse().map_err(|e| from_fault(&Error::from_id(e)))
}

/// Nanoseconds since the epoch as a message.
pub(super) fn timestamp(unix_ns: i64) -> Timestamp {
    Timestamp {
        seconds: unix_ns.div_euclid(1_000_000_000),
        nanos: i32::try_from(unix_ns.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// A message as nanoseconds since the epoch; far away is as far as it goes.
pub(super) fn unix_ns(timestamp: Timestamp) -> i64 {
    timestamp.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(timestamp.nanos))
}

pub(super) fn prune_filter(message: Option<v1::PruneFilter>) -> PruneFilter {
    let message = message.unwrap_or_default();
    PruneFilter {
        until_unix_ns: message.until.map(unix_ns),
        labels: message.labels,
        labels_not: message.labels_not,
    }
}

pub(super) fn window(message: Option<v1::WindowSize>) -> Window {
    message.map_or_else(Window::default, |w| Window { width: w.width, height: w.height })
}

/// Each of them is looked for when a log is read.
const MAX_LOG_FILES: u32 = 1000;

pub(super) fn duration(field: &str, message: prost_types::Duration) -> Result<Duration, Error> {
    Duration::try_from(message).map_err(|_| Error::field(field, "a time can't be negative"))
}

/// A container that is wanted.
pub(super) fn new_container(spec: Option<v1::ContainerSpec>) -> Result<NewContainer, Error> {
    let spec = spec.ok_or_else(|| Error::field("spec", "it is missing"))?;
    let name = match spec.name.as_str() {
        "" => None,
        name => Some(name.parse::<ContainerName>()?),
    };
    let network = match spec.network.as_str() {
        "" => None,
        "none" => Some(Network::None),
        "host" => Some(Network::Host),
        other => {
            let problem = format!("{other:?} is not known: \"none\" or \"host\" is needed");
            return Err(Error::field("spec.network", problem));
        }
    };
    let stop_timeout = spec.stop_timeout.map(|d| duration("spec.stop_timeout", d)).transpose()?;
    let mounts = spec.mounts.into_iter().enumerate().map(|(i, m)| mount(i, m));
    let rlimits = spec.rlimits.into_iter().enumerate().map(|(i, r)| rlimit(i, &r));
    let spec = Spec {
        image: spec.image,
        entrypoint: spec.entrypoint,
        args: spec.args,
        env: spec.env,
        working_dir: spec.working_dir,
        user: spec.user,
        hostname: spec.hostname,
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        stdin_once: spec.stdin_once,
        mounts: mounts.collect::<Result<_, _>>()?,
        resources: spec.resources.map(resources).unwrap_or_default(),
        network,
        stop_signal: signal("spec.stop_signal", &spec.stop_signal)?,
        stop_timeout_ms: stop_timeout.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        labels: spec.labels.into_iter().collect(),
        auto_remove: spec.auto_remove,
        read_only_rootfs: spec.read_only_rootfs,
        cap_add: spec.cap_add.iter().map(|c| capability(c)).collect(),
        cap_drop: spec.cap_drop.iter().map(|c| capability(c)).collect(),
        rlimits: rlimits.collect::<Result<_, _>>()?,
        shm_size_bytes: spec.shm_size_bytes,
        group_add: spec.group_add,
        annotations: spec.annotations.into_iter().collect(),
        volumes_from: spec.volumes_from,
        exposed_ports: spec.exposed_ports,
        runtime: spec.runtime,
        restart: restart("spec.restart", &spec.restart)?,
        user_namespace: spec.user_namespace.map(user_namespace).transpose()?,
        seccomp: Seccomp::parse(&spec.seccomp).map_err(|e| Error::field("spec.seccomp", e))?,
        privileged: spec.privileged,
        no_new_privileges: spec.no_new_privileges,
        log: spec.log.map(|log| log_rules(&log)).transpose()?,
        health: spec.health_check.map(health::check).transpose()?,
    };
    Ok(NewContainer { name, spec })
}

fn log_rules(message: &v1::LogConfig) -> Result<Log, Error> {
    let wrong = |problem: String| Error::field("spec.log.driver", problem);
    let driver = match message.driver.as_str() {
        "" => None,
        name => Some(name.parse().map_err(wrong)?),
    };
    if message.max_files == Some(0) {
        return Err(Error::field("spec.log.max_files", "there is at least the current one: 1"));
    }
    if message.max_files.is_some_and(|files| files > MAX_LOG_FILES) {
        let problem = format!("at most {MAX_LOG_FILES} are kept");
        return Err(Error::field("spec.log.max_files", problem));
    }
    Ok(Log {
        driver,
        max_bytes: message.max_size_bytes,
        max_files: message.max_files,
        drops_when_full: message.drop_when_full,
    })
}

fn log_message(log: &Log) -> v1::LogConfig {
    v1::LogConfig {
        driver: log.driver.map(|driver| driver.to_string()).unwrap_or_default(),
        max_size_bytes: log.max_bytes,
        max_files: log.max_files,
        drop_when_full: log.drops_when_full,
    }
}

fn user_namespace(message: v1::UserNamespace) -> Result<UserNamespace, Error> {
    let mode = match message.mode.as_str() {
        "" if message.uids.is_empty() && message.gids.is_empty() => Mode::Host,
        "" | "private" => Mode::Private,
        "host" => Mode::Host,
        "auto" => Mode::Auto,
        other => {
            let problem =
                format!("{other:?} is not known: \"host\", \"auto\" or \"private\" is needed");
            return Err(Error::field("spec.user_namespace.mode", problem));
        }
    };
    let ranges = |list: Vec<v1::IdMapping>| {
        let one = |m: v1::IdMapping| IdRange {
            container_id: m.container_id,
            host_id: m.host_id,
            size: m.size,
        };
        list.into_iter().map(one).collect()
    };
    let (uids, gids) = (ranges(message.uids), ranges(message.gids));
    Ok(UserNamespace { mode, uids, gids, size: message.size })
}

fn user_namespace_message(namespace: &UserNamespace) -> v1::UserNamespace {
    let mode = match namespace.mode {
        Mode::Host => "host",
        Mode::Auto => "auto",
        Mode::Private => "private",
    };
    let ranges = |list: &[IdRange]| {
        let one = |r: &IdRange| v1::IdMapping {
            container_id: r.container_id,
            host_id: r.host_id,
            size: r.size,
        };
        list.iter().map(one).collect()
    };
    v1::UserNamespace {
        mode: mode.into(),
        uids: ranges(&namespace.uids),
        gids: ranges(&namespace.gids),
        size: namespace.size,
    }
}

/// A restart policy.
pub(super) fn restart(field: &str, text: &str) -> Result<Policy, Error> {
    text.parse().map_err(|e| Error::field(field, e))
}

/// A signal, if one is named.
pub(super) fn signal(field: &str, text: &str) -> Result<Option<Signal>, Error> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|e| Error::field(field, e)),
    }
}

fn mount(index: usize, message: v1::Mount) -> Result<Mount, Error> {
    let kind = match message.r#type.as_str() {
        "" | "bind" => MountKind::Bind,
        "tmpfs" => MountKind::Tmpfs,
        "volume" => MountKind::Volume,
        other => {
            let problem =
                format!("{other:?} is not known: \"bind\", \"volume\" or \"tmpfs\" is needed");
            return Err(Error::field(format!("spec.mounts[{index}].type"), problem));
        }
    };
    Ok(Mount {
        kind,
        source: message.source,
        target: message.target,
        read_only: message.read_only,
        options: message.options,
        create_source: message.create_source,
    })
}

/// Limits of processes by their names in getrlimit(2).
const RLIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn rlimit(index: usize, message: &v1::Rlimit) -> Result<Rlimit, Error> {
    let name = message.name.to_ascii_lowercase();
    let name = name.strip_prefix("rlimit_").unwrap_or(&name);
    if !RLIMITS.contains(&name) {
        let problem = format!("{:?} is not one of {}", message.name, RLIMITS.join(", "));
        return Err(Error::field(format!("spec.rlimits[{index}].name"), problem));
    }
    Ok(Rlimit {
        kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
        soft: message.soft,
        hard: message.hard,
    })
}

fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

pub(super) fn resources(message: v1::Resources) -> Resources {
    Resources {
        memory: message.memory_bytes.filter(|n| *n != 0),
        memory_swap: message.memory_swap_bytes.filter(|n| *n != 0),
        nano_cpus: message.nano_cpus.filter(|n| *n != 0),
        cpu_shares: message.cpu_shares.filter(|n| *n != 0),
        cpuset_cpus: message.cpuset_cpus.filter(|s| !s.is_empty()),
        pids: message.pids_limit,
        blkio_weight: message.blkio_weight.filter(|n| *n != 0),
        cpuset_mems: message.cpuset_mems.filter(|s| !s.is_empty()),
        memory_reservation: message.memory_reservation_bytes.filter(|n| *n != 0),
        cpu_quota: message.cpu_quota.filter(|n| *n != 0),
        cpu_period: message.cpu_period.filter(|n| *n != 0),
    }
}

/// A process as the host sees it.
pub(super) fn process(entry: TopEntry) -> v1::Process {
    let seen = entry.seen;
    v1::Process {
        pid: seen.pid,
        parent_pid: seen.parent_pid,
        uid: seen.uid,
        user: seen.user,
        started_at: Some(timestamp(seen.started_unix_ns)),
        cpu_time: seen.cpu_time.try_into().ok(),
        tty: seen.tty,
        state: seen.state.to_string(),
        resident_bytes: seen.resident_bytes,
        threads: seen.threads,
        command: seen.command,
        exec_id: entry.exec_id,
    }
}

/// The state as the API says it.
pub(super) fn state(state: &State) -> v1::ContainerState {
    match state {
        State::Created => v1::ContainerState::Created,
        // The start was asked for and not answered yet.
        State::Starting { number: 1, .. } => v1::ContainerState::Created,
        State::Starting { .. } | State::Stopped { .. } | State::Removing { .. } => {
            v1::ContainerState::Stopped
        }
        State::Running(_) => v1::ContainerState::Running,
        State::Paused(_) => v1::ContainerState::Paused,
        State::Unreachable(_) => v1::ContainerState::Unknown,
    }
}

pub(super) fn exit(end: &End) -> v1::Exit {
    v1::Exit {
        exit_code: end.exit_code,
        signal: end.signal,
        oom_killed: end.oom_killed,
        reason: end.reason.as_str().into(),
        message: end.message.clone(),
        finished_at: Some(timestamp(end.finished_unix_ns)),
    }
}

fn incarnation(state: &State) -> Option<v1::Incarnation> {
    let of = |run: &Run, pid: u32, end: Option<&End>| v1::Incarnation {
        number: run.number,
        pid,
        started_at: Some(timestamp(run.started_unix_ns)),
        exit: end.map(exit),
    };
    match state {
        State::Created | State::Starting { .. } | State::Removing { .. } => None,
        State::Running(run) | State::Paused(run) | State::Unreachable(run) => {
            Some(of(run, run.pid, None))
        }
        State::Stopped { run, end } => Some(of(run, 0, Some(end))),
    }
}

/// A container as the API shows it.
pub(super) fn container(containers: &Containers, record: &Record) -> v1::Container {
    v1::Container {
        id: record.id.to_string(),
        spec: Some(spec(record)),
        image_digest: record.image.manifest_digest.clone(),
        image_id: record.image.id.clone(),
        state: state(&record.state).into(),
        created_at: Some(timestamp(record.created_unix_ns)),
        incarnation: incarnation(&record.state),
        command: record.process.args.clone(),
        log_path: containers.log_path(record).display().to_string(),
        bundle_path: containers.bundle_path(record).display().to_string(),
        namespace: record.namespace.to_string(),
        revision: record.revision,
        size_rw_bytes: None,
        size_root_bytes: None,
        restart_count: record.restarts.count,
        restarting: record.restarts.waiting,
        health: record.health.as_deref().map(health::message),
    }
}

fn spec(record: &Record) -> v1::ContainerSpec {
    let spec = &record.spec;
    let pairs =
        |map: &BTreeMap<String, String>| map.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let limits = &spec.resources;
    v1::ContainerSpec {
        image: spec.image.clone(),
        name: record.name.to_string(),
        entrypoint: spec.entrypoint.clone(),
        args: spec.args.clone(),
        env: record.process.env.clone(),
        working_dir: record.process.cwd.clone(),
        user: spec.user.clone(),
        hostname: spec.hostname.clone(),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        stdin_once: spec.stdin_once,
        mounts: spec.mounts.iter().map(mount_message).collect(),
        resources: Some(v1::Resources {
            memory_bytes: limits.memory,
            memory_swap_bytes: limits.memory_swap,
            nano_cpus: limits.nano_cpus,
            cpu_shares: limits.cpu_shares,
            cpuset_cpus: limits.cpuset_cpus.clone(),
            pids_limit: limits.pids,
            blkio_weight: limits.blkio_weight,
            cpuset_mems: limits.cpuset_mems.clone(),
            memory_reservation_bytes: limits.memory_reservation,
            cpu_quota: limits.cpu_quota,
            cpu_period: limits.cpu_period,
        }),
        network: spec.network.map(|n| n.to_string()).unwrap_or_default(),
        stop_signal: spec.stop_signal.map(|s| s.to_string()).unwrap_or_default(),
        stop_timeout: spec.stop_timeout_ms.and_then(|ms| Duration::from_millis(ms).try_into().ok()),
        labels: pairs(&spec.labels),
        auto_remove: spec.auto_remove,
        read_only_rootfs: spec.read_only_rootfs,
        cap_add: spec.cap_add.clone(),
        cap_drop: spec.cap_drop.clone(),
        rlimits: spec
            .rlimits
            .iter()
            .map(|r| v1::Rlimit {
                name: r.kind.trim_start_matches("RLIMIT_").to_ascii_lowercase(),
                soft: r.soft,
                hard: r.hard,
            })
            .collect(),
        shm_size_bytes: spec.shm_size_bytes,
        group_add: spec.group_add.clone(),
        annotations: pairs(&spec.annotations),
        volumes_from: spec.volumes_from.clone(),
        exposed_ports: spec.exposed_ports.clone(),
        runtime: spec.runtime.clone(),
        restart: spec.restart.to_string(),
        user_namespace: spec.user_namespace.as_ref().map(user_namespace_message),
        seccomp: spec.seccomp.text().to_owned(),
        privileged: spec.privileged,
        no_new_privileges: spec.no_new_privileges,
        log: spec.log.as_ref().map(log_message),
        health_check: spec.health.as_ref().map(health::check_message),
    }
}

fn mount_message(mount: &Mount) -> v1::Mount {
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Volume => "volume",
    };
    v1::Mount {
        r#type: kind.into(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.read_only,
        options: mount.options.clone(),
        create_source: mount.create_source,
    }
}

pub(super) fn stream(stream: cri::Stream) -> v1::Stream {
    match stream {
        cri::Stream::Stdout => v1::Stream::Stdout,
        cri::Stream::Stderr => v1::Stream::Stderr,
    }
}

/// An entry of a log as output.
pub(super) fn output(entry: logs::Entry) -> v1::Output {
    v1::Output {
        stream: stream(entry.stream).into(),
        data: entry.data,
        cursor: entry.cursor.to_string(),
    }
}
