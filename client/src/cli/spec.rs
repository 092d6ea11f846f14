//! The flags that describe a container, and the spec they make.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::ArgAction;
use wharf_client::v1::{ContainerSpec, Mount, Resources};

use crate::cli::{
    health::HealthArgs,
    parse::{env, log, mount, security, size, time, ulimit, userns},
};

/// Flags of `run` and `create`.
#[derive(Debug, clap::Args)]
pub(crate) struct SpecArgs {
    /// Name of the container; made up if not given
    #[arg(long, help_heading = "Identity")]
    pub(crate) name: Option<String>,
    /// Label NAME=VALUE (repeatable)
    #[arg(short, long, value_name = "NAME=VALUE", help_heading = "Identity")]
    label: Vec<String>,
    /// File of labels, one a line
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    label_file: Vec<PathBuf>,
    /// Annotation NAME=VALUE for the OCI spec (repeatable)
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Identity")]
    annotation: Vec<String>,
    /// Write the container's id to this file, which must not be there yet
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    pub(crate) cidfile: Option<PathBuf>,

    /// Keep standard input open
    #[arg(short, long, help_heading = "Standard streams")]
    pub(crate) interactive: bool,
    /// Give the container a terminal
    #[arg(short, long, help_heading = "Standard streams")]
    pub(crate) tty: bool,
    /// Attach only to stdin, stdout or stderr (repeatable)
    #[arg(short, long, value_name = "STREAM", value_parser = ["stdin", "stdout", "stderr"],
          help_heading = "Standard streams")]
    pub(crate) attach: Vec<String>,

    /// Where output is kept: cri, json-file or none
    #[arg(long, value_name = "DRIVER", help_heading = "Standard streams")]
    log_driver: Option<String>,
    /// max-size=10m, max-file=3, mode=non-blocking (repeatable)
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Standard streams")]
    log_opt: Vec<String>,

    /// Program to run in place of the image's; "" for none
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    entrypoint: Option<String>,
    /// Environment NAME=VALUE, or NAME to take it from here (repeatable)
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", help_heading = "Process")]
    env: Vec<String>,
    /// File of environment, one a line
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    env_file: Vec<PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    workdir: Option<String>,
    /// User name or id, and group: USER[:GROUP]
    #[arg(short, long, help_heading = "Process")]
    user: Option<String>,
    /// Group to join besides (repeatable)
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    group_add: Vec<String>,
    /// Signal that asks the container to stop
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    stop_signal: Option<String>,
    /// Time it has to stop before it is killed: 30, 1m
    #[arg(long, value_name = "DURATION", help_heading = "Process")]
    stop_timeout: Option<String>,
    /// When it has ended: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY", help_heading = "Process")]
    restart: Option<String>,
    /// Limit of a process: NAME=SOFT[:HARD], as in nofile=1024:2048 (repeatable)
    #[arg(long, value_name = "LIMIT", help_heading = "Process")]
    ulimit: Vec<String>,
    /// Capability to add, or ALL (repeatable)
    #[arg(long, value_name = "CAP", help_heading = "Process")]
    cap_add: Vec<String>,
    /// Capability to drop, or ALL (repeatable)
    #[arg(long, value_name = "CAP", help_heading = "Process")]
    cap_drop: Vec<String>,
    /// seccomp=unconfined, seccomp=FILE or no-new-privileges[=false] (repeatable)
    #[arg(long, value_name = "OPTION", help_heading = "Process")]
    security_opt: Vec<String>,
    /// All capabilities and devices, and no filter of system calls: no protection against it
    #[arg(long, help_heading = "Process")]
    privileged: bool,

    /// Users on the host: host, auto[:size=N] or UID:GID:SIZE
    #[arg(long, value_name = "USERS", help_heading = "Process")]
    userns: Option<String>,
    /// Users mapped to the host's: CONTAINER:HOST:SIZE (repeatable)
    #[arg(long, value_name = "MAPPING", conflicts_with = "userns", help_heading = "Process")]
    uidmap: Vec<String>,
    /// Groups mapped to the host's; as the users unless given (repeatable)
    #[arg(long, value_name = "MAPPING", requires = "uidmap", help_heading = "Process")]
    gidmap: Vec<String>,

    /// Network: none or host
    #[arg(long, alias = "net", value_name = "NETWORK", help_heading = "Network")]
    network: Option<String>,
    /// Port to tell of: 80, 53/udp (repeatable)
    #[arg(long, value_name = "PORT", help_heading = "Network")]
    expose: Vec<String>,
    /// Host name in the container
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Network")]
    hostname: Option<String>,

    /// Volume or folder of the host: [NAME|SRC:]DST[:ro,…] (repeatable)
    #[arg(short, long, value_name = "[SRC:]DST[:OPTIONS]", help_heading = "File systems")]
    volume: Vec<String>,
    /// Mount: type=volume|bind|tmpfs,source=…,target=…[,readonly] (repeatable)
    #[arg(long, value_name = "MOUNT", help_heading = "File systems")]
    mount: Vec<String>,
    /// Volumes and binds of another container: NAME[:ro] (repeatable)
    #[arg(long, value_name = "CONTAINER", help_heading = "File systems")]
    volumes_from: Vec<String>,
    /// File system in memory: DST[:size=64m,…] (repeatable)
    #[arg(long, value_name = "DST[:OPTIONS]", help_heading = "File systems")]
    tmpfs: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long, help_heading = "File systems")]
    read_only: bool,
    /// Size of /dev/shm: 64m
    #[arg(long, value_name = "SIZE", help_heading = "File systems")]
    shm_size: Option<String>,

    #[command(flatten)]
    health: HealthArgs,

    #[command(flatten)]
    limits: ResourceArgs,

    /// What runs it: runc, crun, io.containerd.runc.v2, /PATH, or a name of the server's
    #[arg(long, value_name = "RUNTIME", help_heading = "Process")]
    runtime: Option<String>,

    /// Pull the image first: missing, always or never
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "missing",
        help_heading = "Image"
    )]
    pub(crate) pull: PullWhen,
    /// Platform of the image to pull: linux/arm64
    #[arg(long, help_heading = "Image")]
    pub(crate) platform: Option<String>,
    /// Say nothing of the pull
    #[arg(short, long, help_heading = "Image")]
    pub(crate) quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG]")]
    pub(crate) image: Vec<String>,
}

/// `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PullWhen {
    Missing,
    Always,
    Never,
}

/// Limits, of `run`, `create` and `update`.
#[derive(Debug, clap::Args)]
pub(crate) struct ResourceArgs {
    /// Limit of memory: 512m
    #[arg(short, long, value_name = "SIZE", help_heading = "Limits")]
    memory: Option<String>,
    /// Limit of memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, help_heading = "Limits")]
    memory_swap: Option<String>,
    /// CPUs: 1.5
    #[arg(long, value_name = "NUMBER", help_heading = "Limits")]
    cpus: Option<String>,
    /// Relative weight; others have 1024
    #[arg(short, long, value_name = "WEIGHT", help_heading = "Limits")]
    cpu_shares: Option<u64>,
    /// CPUs to run on: 0-2,7
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    cpuset_cpus: Option<String>,
    /// Limit of processes and threads; -1 for none
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true, help_heading = "Limits")]
    pids_limit: Option<i64>,
    /// What is left to it when the host is short of memory: 256m
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    memory_reservation: Option<String>,
    /// Memory nodes: 0-1
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    cpuset_mems: Option<String>,
    /// Microseconds of CPU time in each period, in place of --cpus; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true, help_heading = "Limits")]
    cpu_quota: Option<i64>,
    /// Length of that period
    #[arg(long, value_name = "MICROSECONDS", help_heading = "Limits")]
    cpu_period: Option<u64>,
    /// Relative weight of block I/O, 10 to 1000
    #[arg(long, value_name = "WEIGHT", help_heading = "Limits")]
    blkio_weight: Option<u32>,
}

impl ResourceArgs {
    /// None if no limit was given.
    pub(crate) fn resources(&self) -> Result<Option<Resources>> {
        let memory = self.memory.as_deref().map(size::bytes).transpose();
        let swap = self.memory_swap.as_deref().map(size::bytes_or_unlimited).transpose();
        let cpus = self.cpus.as_deref().map(size::nano_cpus).transpose();
        let reserved = self.memory_reservation.as_deref().map(size::bytes).transpose();
        let resources = Resources {
            memory_bytes: memory.context("--memory")?,
            memory_swap_bytes: swap.context("--memory-swap")?,
            nano_cpus: cpus.context("--cpus")?,
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            pids_limit: self.pids_limit,
            memory_reservation_bytes: reserved.context("--memory-reservation")?,
            cpuset_mems: self.cpuset_mems.clone(),
            cpu_quota: self.cpu_quota,
            cpu_period: self.cpu_period,
            blkio_weight: self.blkio_weight,
        };
        Ok(Some(resources).filter(|resources| *resources != Resources::default()))
    }
}

impl SpecArgs {
    /// The image's reference as it was given.
    pub(crate) fn image(&self) -> &str {
        self.image.first().map_or("", String::as_str)
    }

    /// The spec, for a container whose stdin nobody attaches to; `run` and `create` set the rest.
    pub(crate) fn spec(&self) -> Result<ContainerSpec> {
        let (image, args) = self.image.split_first().context("the image is missing")?;
        if image.is_empty() {
            bail!("the image's name is empty");
        }
        let all = |parsed: Vec<Result<_>>, flag: &'static str| {
            parsed.into_iter().collect::<Result<Vec<_>>>().context(flag)
        };
        let stop_timeout = self.stop_timeout.as_deref().map(time::duration).transpose();
        let shm_size = self.shm_size.as_deref().map(size::bytes).transpose();
        let security = security::options(&self.security_opt)?;
        Ok(ContainerSpec {
            image: image.clone(),
            name: self.name.clone().unwrap_or_default(),
            entrypoint: self.entrypoint.clone().into_iter().collect(),
            args: args.to_vec(),
            env: env::environment(&self.env_file, &self.env, |name| std::env::var_os(name))?,
            working_dir: self.workdir.clone().unwrap_or_default(),
            user: self.user.clone().unwrap_or_default(),
            hostname: self.hostname.clone().unwrap_or_default(),
            tty: self.tty,
            open_stdin: self.interactive,
            mounts: self.mounts()?,
            resources: self.limits.resources()?,
            network: self.network.clone().unwrap_or_default(),
            stop_signal: self.stop_signal.clone().unwrap_or_default(),
            stop_timeout: stop_timeout
                .context("--stop-timeout")?
                .and_then(|timeout| timeout.try_into().ok()),
            labels: env::labels(&self.label_file, &self.label)?,
            annotations: env::labels(&[], &self.annotation)?,
            read_only_rootfs: self.read_only,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            rlimits: all(self.ulimit.iter().map(|u| ulimit::ulimit(u)).collect(), "--ulimit")?,
            shm_size_bytes: shm_size.context("--shm-size")?.unwrap_or(0),
            group_add: self.group_add.clone(),
            volumes_from: self.volumes_from.clone(),
            exposed_ports: self.expose.clone(),
            runtime: self.runtime.clone().unwrap_or_default(),
            restart: self.restart.clone().unwrap_or_default(),
            log: log::log(self.log_driver.as_deref(), &self.log_opt)?,
            health_check: self.health.check()?,
            user_namespace: userns::users(self.userns.as_deref(), &self.uidmap, &self.gidmap)?,
            seccomp: security.seccomp,
            privileged: self.privileged,
            no_new_privileges: security.no_new_privileges,
            ..ContainerSpec::default()
        })
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        let here = std::env::current_dir().context("find the working directory")?;
        let volumes = self.volume.iter().map(|given| mount::volume(given, &here));
        let mounts = self.mount.iter().map(|given| mount::mount(given, &here));
        let tmpfs = self.tmpfs.iter().map(|given| mount::tmpfs(given));
        let all = volumes.chain(mounts).chain(tmpfs).collect::<Result<Vec<_>>>()?;
        for (index, mount) in all.iter().enumerate() {
            if all[..index].iter().any(|earlier| earlier.target == mount.target) {
                bail!("two mounts have the same place in the container: {}", mount.target);
            }
        }
        Ok(all)
    }

    /// What a foreground run is attached to: stdin, stdout, stderr.
    pub(crate) fn attached(&self) -> (bool, bool, bool) {
        let has = |name: &str| self.attach.iter().any(|given| given == name);
        match self.attach.is_empty() {
            true => (self.interactive, true, true),
            false => (has("stdin") && self.interactive, has("stdout"), has("stderr")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Args, Command};

    fn spec(line: &str) -> Result<ContainerSpec> {
        match Args::try_parse_from(line.split(' '))?.command {
            Command::Run(args) => args.container.spec(),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn all_flags() {
        let spec = spec(
            "wharf run -i -t --name n -l a=b -e A=1 -w /w -u me:us --group-add g -h host \
             -v /s:/d:ro --tmpfs /t -m 64m --memory-swap -1 --cpus 1.5 -c 512 --cpuset-cpus 0 \
             --pids-limit 10 --entrypoint /e --network none --stop-signal INT --stop-timeout 3 \
             --read-only --cap-add NET_ADMIN --cap-drop ALL --ulimit nofile=1:2 --shm-size 1m \
             img a -b"
                .replace("             ", "")
                .as_str(),
        )
        .expect("a spec");
        assert_eq!((spec.image.as_str(), spec.name.as_str()), ("img", "n"));
        assert_eq!(spec.args, ["a", "-b"]);
        assert_eq!(spec.entrypoint, ["/e"]);
        assert_eq!(spec.labels["a"], "b");
        let resources = spec.resources.expect("limits");
        assert_eq!(resources.memory_bytes, Some(64 << 20));
        assert_eq!(resources.memory_swap_bytes, Some(-1));
        assert_eq!(resources.nano_cpus, Some(1_500_000_000));
        assert_eq!(resources.pids_limit, Some(10));
        assert_eq!(spec.mounts.len(), 2);
        assert_eq!(spec.stop_timeout.map(|t| t.seconds), Some(3));
        assert_eq!(spec.shm_size_bytes, 1 << 20);
        assert!(spec.tty && spec.open_stdin && spec.read_only_rootfs);
    }

    #[test]
    fn refusals_name_the_flag() {
        for (line, part) in [
            ("wharf run -m 5x img", "--memory: \"5x\""),
            ("wharf run --cpus many img", "--cpus: \"many\""),
            ("wharf run --ulimit nofile img", "--ulimit"),
            ("wharf run -v /a:/x -v /b:/x img", "same place"),
            ("wharf run --stop-timeout soon img", "--stop-timeout"),
        ] {
            let error = format!("{:#}", spec(line).expect_err(line));
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
