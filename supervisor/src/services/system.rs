//! What this supervisor and its host are.

use std::{fs, path::PathBuf, sync::Arc};

use super::{containers::Containers, events::now_unix_ns, images::Images, upgrade::Upgrades};
use crate::{
    config::{Config, Network},
    drivers::host::Host,
};

/// How the host's cgroups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One hierarchy a controller.
    V1,
    /// One hierarchy.
    V2,
    /// V1, and a second hierarchy without controllers.
    Hybrid,
}

impl Cgroups {
    /// As the API says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
        }
    }

    fn of_host() -> Self {
        if PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists() {
            return Self::V2;
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if mounts.contains(" - cgroup2 ") { Self::Hybrid } else { Self::V1 }
    }
}

/// What was built.
#[derive(Debug)]
pub struct Version {
    /// Of Wharf.
    pub version: &'static str,
    /// Empty when it is not known.
    pub git_commit: &'static str,
    /// Of the compiler; empty when it is not known.
    pub rust_version: &'static str,
    /// Of the host, now.
    pub kernel_version: String,
}

/// What runs, and where.
#[derive(Debug)]
pub struct Info {
    /// Nanoseconds since the epoch.
    pub started_unix_ns: i64,
    /// What survives a reboot.
    pub root: PathBuf,
    /// What does not.
    pub state: PathBuf,
    /// Of the host.
    pub cgroups: Cgroups,
    /// How containers get their root file systems.
    pub snapshotter: &'static str,
    /// Of containers that name none.
    pub default_network: Network,
    /// Of the host.
    pub cpus: usize,
    /// Of the host.
    pub memory_bytes: u64,
    /// All of them.
    pub containers: usize,
    /// Of these.
    pub running: usize,
    /// All of them.
    pub images: usize,
    /// What this host can't do.
    pub warnings: Vec<String>,
    /// Of the host.
    pub hostname: String,
    /// Its program.
    pub shim: PathBuf,
}

/// The service; clones share it.
#[derive(Clone, Debug)]
pub struct System {
    config: Arc<Config>,
    containers: Containers,
    images: Images,
    shim: PathBuf,
    upgrades: Upgrades,
    started_unix_ns: i64,
}

impl System {
    /// Of a supervisor that begins now.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        containers: Containers,
        images: Images,
        shim: PathBuf,
        upgrades: Upgrades,
    ) -> Self {
        Self { config, containers, images, shim, upgrades, started_unix_ns: now_unix_ns() }
    }

    /// Replacing this supervisor.
    #[must_use]
    pub fn upgrades(&self) -> &Upgrades {
        &self.upgrades
    }

    /// What was built.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            version: env!("CARGO_PKG_VERSION"),
            git_commit: option_env!("WHARF_GIT_COMMIT").unwrap_or_default(),
            rust_version: option_env!("WHARF_RUST_VERSION").unwrap_or_default(),
            kernel_version: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }

    /// What runs. Reads a few files of /proc.
    #[must_use]
    pub fn info(&self) -> Info {
        let (containers, running) = self.containers.count();
        let host = Host::read();
        Info {
            started_unix_ns: self.started_unix_ns,
            root: self.config.root.clone(),
            state: self.config.state.clone(),
            cgroups: Cgroups::of_host(),
            snapshotter: self.images.snapshotter(),
            default_network: self.config.default_network,
            cpus: usize::try_from(host.cpus).unwrap_or(1),
            memory_bytes: host.memory_bytes,
            containers,
            running,
            images: self.images.count(),
            warnings: warnings(),
            hostname: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            shim: self.shim.clone(),
        }
    }
}

/// What this host can't do, as far as containers would notice.
fn warnings() -> Vec<String> {
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let has = |name: &str| controllers.lines().any(|line| line.starts_with(&format!("{name}\t")));
    let mut warnings = Vec::new();
    for (controller, limits) in [("memory", "memory"), ("pids", "pids"), ("cpu", "cpu")] {
        if Cgroups::of_host() != Cgroups::V2 && !has(controller) {
            warnings.push(format!("no {controller} controller: limits on {limits} are refused"));
        }
    }
    if !PathBuf::from("/proc/sys/kernel/seccomp").exists() {
        warnings.push("the kernel has no seccomp".into());
    }
    warnings
}
