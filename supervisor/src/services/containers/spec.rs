//! What was asked for: the container as its creator described it, checked and kept.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    health::HealthCheck, restart::Policy, seccomp::Seccomp, user_namespace::UserNamespace,
};
use crate::{config::Network, drivers::logs::LogDriver};

/// A container as it was asked for. Immutable but for name, labels and resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// As asked.
    pub image: String,
    /// Replaces the image's.
    pub entrypoint: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute, or empty.
    pub working_dir: String,
    /// `user[:group]`, or empty.
    pub user: String,
    /// Empty until it is made from the id.
    pub hostname: String,
    /// A pty.
    pub tty: bool,
    /// Keep stdin.
    pub open_stdin: bool,
    /// Close it with the first client.
    pub stdin_once: bool,
    /// In this order.
    pub mounts: Vec<Mount>,
    /// Limits.
    pub resources: Resources,
    /// Unset until the default is filled in.
    pub network: Option<Network>,
    /// Unset until the image's is filled in.
    pub stop_signal: Option<Signal>,
    /// Unset until the default is filled in.
    pub stop_timeout_ms: Option<u64>,
    /// For people and programs.
    pub labels: BTreeMap<String, String>,
    /// Removed when it has stopped.
    pub auto_remove: bool,
    /// Nothing is written to the root file system.
    pub read_only_rootfs: bool,
    /// Names with CAP_, upper case, or ALL.
    pub cap_add: Vec<String>,
    /// As `cap_add`.
    pub cap_drop: Vec<String>,
    /// In this order.
    pub rlimits: Vec<Rlimit>,
    /// Of /dev/shm.
    pub shm_size_bytes: i64,
    /// Names or numbers.
    pub group_add: Vec<String>,
    /// For the OCI spec.
    pub annotations: BTreeMap<String, String>,
    /// Containers whose volumes and binds it gets too, each with `:ro` or `:rw` if asked.
    pub volumes_from: Vec<String>,
    /// "80/tcp": for people and programs.
    pub exposed_ports: Vec<String>,
    /// Empty until the default is filled in.
    pub runtime: String,
    /// What happens when it has ended. May be changed.
    pub restart: Policy,
    /// Unset until the default is filled in; unset in a record: the host's users.
    pub user_namespace: Option<UserNamespace>,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// All capabilities and devices, nothing masked, no filter.
    pub privileged: bool,
    /// Whether set-uid programs give nothing. Unset: unless privileged.
    pub no_new_privileges: Option<bool>,
    /// Unset: the image's, and in a record none.
    pub health: Option<HealthCheck>,
    /// Unset: as the configuration says.
    pub log: Option<Log>,
}

/// How the output is to be kept; `None`: as the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// As what.
    pub driver: Option<LogDriver>,
    /// 0: never rotated.
    pub max_bytes: Option<u64>,
    /// The current one included.
    pub max_files: Option<u32>,
    /// On a full disk lines are dropped.
    pub drops_when_full: bool,
}

impl Spec {
    /// The mapping of its users, if they are others on the host.
    #[must_use]
    pub fn mapped(&self) -> Option<&UserNamespace> {
        self.user_namespace.as_ref().filter(|namespace| namespace.is_mapped())
    }

    /// See `no_new_privileges`.
    #[must_use]
    pub fn has_no_new_privileges(&self) -> bool {
        self.no_new_privileges.unwrap_or(!self.privileged)
    }
}

/// A mount that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What kind.
    pub kind: MountKind,
    /// bind: absolute path on the host. volume: its name, empty until one is made.
    pub source: String,
    /// Absolute path in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// As in mount(8).
    pub options: Vec<String>,
    /// bind: make the source.
    pub create_source: bool,
}

/// Kinds of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A folder or file of the host.
    Bind,
    /// Memory.
    Tmpfs,
    /// A volume.
    Volume,
}

/// Limits of a container; `None`: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<i64>,
    /// Bytes, memory included; -1: none.
    pub memory_swap: Option<i64>,
    /// Billionths of a CPU.
    pub nano_cpus: Option<i64>,
    /// 2 to 262144.
    pub cpu_shares: Option<u64>,
    /// A list of CPUs.
    pub cpuset_cpus: Option<String>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: Option<u32>,
    /// A list of memory nodes.
    pub cpuset_mems: Option<String>,
    /// Bytes that are left to it when the host is short.
    pub memory_reservation: Option<i64>,
    /// Microseconds a period; instead of `nano_cpus`.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
}

impl Resources {
    /// These limits with those of `other` that are set.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        // Both say how much CPU time: the one that is said last counts.
        let (quota_first, nano_first) = (other.nano_cpus.is_none(), other.cpu_quota.is_none());
        Self {
            memory: other.memory.or(self.memory),
            memory_swap: other.memory_swap.or(self.memory_swap),
            nano_cpus: other.nano_cpus.or(self.nano_cpus.filter(|_| nano_first)),
            cpu_quota: other.cpu_quota.or(self.cpu_quota.filter(|_| quota_first)),
            cpu_period: other.cpu_period.or(self.cpu_period.filter(|_| quota_first)),
            blkio_weight: other.blkio_weight.or(self.blkio_weight),
            cpuset_mems: other.cpuset_mems.clone().or_else(|| self.cpuset_mems.clone()),
            memory_reservation: other.memory_reservation.or(self.memory_reservation),
            cpu_shares: other.cpu_shares.or(self.cpu_shares),
            cpuset_cpus: other.cpuset_cpus.clone().or_else(|| self.cpuset_cpus.clone()),
            pids: other.pids.or(self.pids),
        }
    }
}

/// A resource limit of processes (getrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE`, …
    pub kind: String,
    /// Soft.
    pub soft: u64,
    /// Hard.
    pub hard: u64,
}

/// A signal by its number on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// SIGTERM.
    pub const TERM: Self = Self(libc::SIGTERM);

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

/// Real-time signals: the C library keeps the two below for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// "TERM", "SIGTERM", "sigterm", "15", "SIGRTMIN+3".
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.into());
        if let Ok(number) = text.parse::<i32>() {
            return if (1..=RTMAX).contains(&number) { Ok(Self(number)) } else { Err(unknown()) };
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let real_time = |base: i32, offset: &str, sign: i32| {
            let offset: i32 = if offset.is_empty() { 0 } else { offset[1..].parse().ok()? };
            let number = base + sign * offset;
            (RTMIN..=RTMAX).contains(&number).then_some(Self(number))
        };
        if let Some(rest) = name.strip_prefix("RTMIN") {
            let fits = rest.is_empty() || rest.starts_with('+');
            return fits.then(|| real_time(RTMIN, rest, 1)).flatten().ok_or_else(unknown);
        }
        if let Some(rest) = name.strip_prefix("RTMAX") {
            let fits = rest.is_empty() || rest.starts_with('-');
            return fits.then(|| real_time(RTMAX, rest, -1)).flatten().ok_or_else(unknown);
        }
        format!("SIG{name}")
            .parse::<nix::sys::signal::Signal>()
            .map(|signal| Self(signal as i32))
            .map_err(|_| unknown())
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// A text that is no signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signal {0:?} is not known: a name as in signal(7) or a number from 1 to 64 is needed")]
pub struct UnknownSignal(pub String);

#[cfg(test)]
mod tests {
    use super::Signal;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMIN", 34),
        ] {
            assert_eq!(text.parse::<Signal>().map(Signal::number), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-9", "SIGFOO", "RTMIN+99", "RTMAX+1", "RTMIN-1"] {
            assert!(bad.parse::<Signal>().is_err(), "{bad}");
        }
    }
}
