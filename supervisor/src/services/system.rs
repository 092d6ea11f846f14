//! What this supervisor and its host are.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::Arc,
};

use super::{
    containers::Containers,
    doctor::{self, Depth, Doctor, Finding, Repaired},
    events::now_unix_ns,
    images::Images,
    upgrade::Upgrades,
};
use crate::{
    config::{Config, Network},
    drivers::{aside::Aside, host::Host},
    fault,
    ids::Namespace,
    store::{self, Extent},
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
    doctor: Doctor,
    started_unix_ns: i64,
}

/// What was found wrong, and what came of it.
#[derive(Debug)]
pub struct Report {
    /// What is wrong; after a repair, what still is.
    pub findings: Vec<Finding>,
    /// What a repair has tried.
    pub repaired: Vec<Repaired>,
    /// Things that were set aside and settled.
    pub settled: usize,
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
        doctor: Doctor,
    ) -> Self {
        let started_unix_ns = now_unix_ns();
        Self { config, containers, images, shim, upgrades, doctor, started_unix_ns }
    }

    /// What is wrong, and with `repair`, what can be done about it.
    ///
    /// # Errors
    /// When the metadata can't be read.
    pub async fn examine(&self, depth: Depth, repair: bool) -> Result<Report, store::Error> {
        let findings = self.look(depth).await?;
        let mut report = Report { findings, repaired: Vec::new(), settled: 0 };
        if repair {
            let (doctor, containers) = (self.doctor.clone(), self.containers.clone());
            let runtime = tokio::runtime::Handle::current();
            let finish = move |namespace: &str, id: &str| {
                let namespace: Namespace =
                    namespace.parse().map_err(|e: crate::ids::IdError| e.to_string())?;
                let removal = containers.delete(&namespace, id, false, false);
                runtime.block_on(removal).map_err(|e| fault::chain(&e))
            };
            let findings = report.findings;
            let repair = tokio::task::spawn_blocking(move || doctor.repair(&findings, finish));
            report.repaired = repair.await.expect("a repair does not panic");
            let needs_all = doctor::needs_all(&self.config.root);
            self.images.forbid_collection(needs_all);
            if let Err(error) = self.images.collect().await {
                tracing::warn!(error = fault::chain(&error), "garbage not collected");
            }
            report.findings = self.look(Depth::Names).await?;
        }
        let both = [&self.config.root, &self.config.state];
        report.settled = both.map(|base| Aside::of(base).settled()).iter().sum();
        Ok(report)
    }

    async fn look(&self, depth: Depth) -> Result<Vec<Finding>, store::Error> {
        let doctor = self.doctor.clone();
        let looked = tokio::task::spawn_blocking(move || doctor.examine_twice(depth));
        looked.await.expect("looking does not panic")
    }

    /// All metadata in a file that has no name any more, at its beginning. Blocks.
    ///
    /// # Errors
    /// When it can't be written, as on a full disk.
    pub fn backup(&self) -> Result<File, store::Error> {
        use io::Seek as _;
        let path = self.config.root.join(format!("meta.{}.backup", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| fs::remove_file(&path).map(|()| file))
            .map_err(store::Error::Backup)?;
        let (mut file, _) = self.doctor.store.backup(file, Extent::All)?;
        file.rewind().map_err(store::Error::Backup)?;
        Ok(file)
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
