//! A private world for one test: folders, a socket, a cgroup parent, and a real `wharfd` on them.
//!
//! ```text
//! start ──▶ kill9 / restart, as often as wanted ──▶ finish: containers deleted, nothing left but
//!                                                   the daemon; daemon stopped, nothing left
//! drop without finish (a failed test): the daemon's log is shown, all is killed and removed
//! ```

mod cleanup;
mod daemon;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tonic::transport::{Channel, Endpoint};

use crate::{
    api::Api,
    host, image,
    leak::{Mark, Trace},
    wait,
};
pub use daemon::{Daemon, has_ended};

/// What is not as usual in a world.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Lines added to the configuration file.
    pub config: String,
    /// Variables for the daemon.
    pub env: Vec<(String, String)>,
    /// Another program than wharfd.
    pub program: Option<&'static str>,
    /// Soft and hard limit of open descriptors that the first daemon is started with.
    pub open_files: Option<(u32, u32)>,
    /// The boot of the host that the daemon sees, in a mount namespace of its own.
    pub boot_id: Option<String>,
}

/// The world; see the module.
#[derive(Debug)]
pub struct World {
    mark: Mark,
    options: Options,
    daemon: Option<Daemon>,
    finished: bool,
}

impl World {
    /// A world with the usual options.
    ///
    /// # Errors
    /// When this is not root, a binary is missing or the daemon does not come up.
    pub async fn start() -> Result<Self> {
        Self::with(Options::default()).await
    }

    /// A world with options of its own.
    ///
    /// # Errors
    /// As [`World::start`].
    pub async fn with(options: Options) -> Result<Self> {
        let mut world = Self::cold(options)?;
        world.restart().await?;
        Ok(world)
    }

    /// A world whose daemon has not been started.
    ///
    /// # Errors
    /// When this is not root or the folder can't be made.
    pub fn cold(options: Options) -> Result<Self> {
        host::need_root()?;
        let mark = new_mark()?;
        fs::create_dir(&mark.folder)
            .with_context(|| format!("make the folder {}", mark.folder.display()))?;
        let world = Self { mark, options, daemon: None, finished: false };
        // For a run of all tests with other settings, as `make test-native`.
        let more = std::env::var("WHARF_TEST_CONFIG").unwrap_or_default();
        let config =
            format!("cgroup_parent = \"/{}\"\n{more}\n{}", world.mark.cgroup, world.options.config);
        fs::write(world.config_path(), config).context("write the configuration")?;
        Ok(world)
    }

    /// Where all of the world is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.mark.folder
    }

    /// `--root`
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.mark.folder.join("r")
    }

    /// `--state`
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.mark.folder.join("s")
    }

    /// The daemon's socket as an address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix:{}", self.mark.folder.join("w.sock").display())
    }

    /// `--config`
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.mark.folder.join("config.toml")
    }

    /// What the daemon has said.
    #[must_use]
    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.mark.folder.join("wharfd.log")
    }

    /// The name that marks what belongs to this world.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Pid of the running daemon.
    ///
    /// # Errors
    /// When none runs.
    pub fn daemon_pid(&self) -> Result<i32> {
        Ok(self.daemon.as_ref().context("no daemon runs")?.pid())
    }

    /// The command that starts a daemon here, for tests of the start itself.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn daemon_command(&self) -> Result<Command> {
        const BOOT: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let program = host::binary(self.options.program.unwrap_or("wharfd"))?;
        let mut command = match (&self.options.boot_id, self.options.open_files) {
            (None, None) => Command::new(program),
            (None, Some((soft, hard))) => {
                let mut shell = Command::new("sh");
                let script =
                    format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
                shell.arg("-c").arg(script).arg(program);
                shell
            }
            (Some(boot_id), _) => {
                let file = self.folder().join("boot_id");
                std::fs::write(&file, format!("{boot_id}\n"))?;
                let mut command = Command::new("unshare");
                command.args(["-m", "sh", "-c", BOOT]).arg(file).arg(program);
                command
            }
        };
        without_wharf_variables(&mut command);
        command
            .arg("--config")
            .arg(self.config_path())
            .arg("--root")
            .arg(self.root())
            .arg("--state")
            .arg(self.state())
            .args(["--address", &self.address()])
            .envs(self.options.env.iter().map(|(k, v)| (k, v)));
        Ok(command)
    }

    /// Starts a daemon on what is here and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.ready().await
    }

    /// Starts a daemon and does not wait for it.
    ///
    /// # Errors
    /// When its program is missing, or one runs already.
    pub fn spawn(&mut self) -> Result<()> {
        self.spawn_as(self.daemon_command()?)
    }

    /// As [`World::spawn`], by a command that becomes the daemon.
    ///
    /// # Errors
    /// As [`World::spawn`].
    pub fn spawn_as(&mut self, command: Command) -> Result<()> {
        if self.daemon.is_some() {
            bail!("a daemon runs already");
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        self.daemon = Some(Daemon::spawn(command, log)?);
        Ok(())
    }

    /// Sets a variable for daemons that are started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.options.env.push((name.into(), value.into()));
    }

    /// Waits until the daemon has ended, however it does, and says how.
    ///
    /// # Errors
    /// When none runs, or it does not end.
    pub async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        wait::until_now("wharfd ends", || daemon.gone()).await
    }

    /// How the daemon ended, if it has.
    ///
    /// # Errors
    /// When none was started.
    pub fn gone(&mut self) -> Result<Option<std::process::ExitStatus>> {
        self.daemon.as_mut().context("no daemon runs")?.gone()
    }

    /// Waits until the daemon answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn ready(&mut self) -> Result<()> {
        let api = self.api()?;
        let daemon = self.daemon.as_mut().context("no daemon runs")?;
        let answered = wait::until("wharfd answers", || {
            let gone = daemon.gone();
            let mut system = api.system.clone();
            async move {
                if let Some(status) = gone? {
                    bail!("wharfd ended while starting: {status}");
                }
                Ok(system.version(wharf_proto::v1::VersionRequest {}).await.ok())
            }
        })
        .await;
        if let Err(error) = answered {
            bail!("{error:#}\nits log:\n{}", self.daemon_log());
        }
        Ok(())
    }

    /// The next daemon sees the host's own boot.
    pub fn booted(&mut self) {
        self.options.boot_id = None;
    }

    /// SIGKILL; returns when the daemon is gone.
    ///
    /// # Errors
    /// When none runs.
    pub fn kill9(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.kill9()
    }

    /// SIGTERM; returns when the daemon has ended by itself, with success.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub async fn shutdown(&mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.terminate().await
    }

    /// Another daemon has taken over from the one that was started here: waits for the end of the
    /// old one. The pid of the new one.
    ///
    /// # Errors
    /// When the old one does not end with success.
    pub async fn taken_over(&mut self) -> Result<i32> {
        let old = self.daemon.take().context("no daemon runs")?;
        let old_pid = old.pid();
        old.ended().await?;
        let text = fs::read_to_string(self.state().join("wharfd.lock"))?;
        let pid = text.trim().parse().with_context(|| format!("pid {text:?}"))?;
        if pid == old_pid {
            bail!("nobody has taken over");
        }
        self.daemon = Some(Daemon::adopted(pid));
        Ok(pid)
    }

    /// A daemon that was started by another one is the world's from now on.
    pub fn adopt(&mut self, pid: i32) {
        self.daemon = Some(Daemon::adopted(pid));
    }

    /// A channel to the daemon; it connects at the first call, and again after a restart.
    ///
    /// # Errors
    /// When the address is no good.
    pub fn channel(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.address())?.connect_lazy())
    }

    /// Clients of all services.
    ///
    /// # Errors
    /// When the address is no good.
    pub fn api(&self) -> Result<Api> {
        Ok(Api::new(self.channel()?))
    }

    /// The clients, with the busybox image loaded.
    ///
    /// # Errors
    /// When the image can't be made or loaded.
    pub async fn with_busybox(&self) -> Result<Api> {
        let mut api = self.api()?;
        let image = image::busybox()?.build(image::BUSYBOX)?;
        api.import(&image.oci_tar()?, "").await?;
        Ok(api)
    }

    /// The command line, pointed at this world.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = Command::new(host::binary("wharf")?);
        without_wharf_variables(&mut command);
        command.env("WHARF_ADDRESS", self.address()).args(args);
        Ok(command)
    }

    /// Deletes what is left of containers, stops the daemon and checks that nothing is left, first
    /// with the daemon, then without.
    ///
    /// # Errors
    /// Naming what is left.
    pub async fn finish(mut self) -> Result<()> {
        if self.daemon.is_none() {
            self.restart().await?;
        }
        let mut api = self.api()?;
        api.delete_all().await?;
        self.expect_only_daemon().await?;
        self.shutdown().await?;
        self.remove_cgroup_parent();
        let mut left = Vec::new();
        // A daemon that took over is reaped by somebody else, in their time.
        let waited = wait::until_now("nothing is left", || {
            left = self.mark.traces();
            Ok(left.is_empty().then_some(()))
        })
        .await;
        if waited.is_err() {
            bail!("left behind after the daemon's end:\n{}", list(&left));
        }
        fs::remove_dir_all(&self.mark.folder).context("remove the world's folder")?;
        self.finished = true;
        Ok(())
    }

    /// Waits until nothing of the world is left but its daemon and its empty cgroup parent.
    ///
    /// # Errors
    /// Naming what is left.
    pub async fn expect_only_daemon(&self) -> Result<()> {
        let pid = self.daemon_pid()?;
        let mut left = Vec::new();
        // An exited shim may need a moment to be gone; what does not go is a leak.
        let waited = wait::until_now("nothing is left but the daemon", || {
            left = self.more_than_daemon(pid);
            Ok(left.is_empty().then_some(()))
        })
        .await;
        if waited.is_err() {
            bail!("left behind while the daemon runs:\n{}", list(&left));
        }
        Ok(())
    }

    fn more_than_daemon(&self, daemon: i32) -> Vec<Trace> {
        // The daemon's own; the shims' are further down. It binds under another name first.
        let own = |path: &str| Path::new(path).parent() == Some(&self.mark.folder);
        let bundles = self.state().join("c");
        let mut left: Vec<_> = self
            .mark
            .traces()
            .into_iter()
            .filter(|trace| match trace {
                Trace::Process { pid, .. } => *pid != daemon,
                Trace::Socket(path) => !own(path),
                Trace::Cgroup(path) => !path.ends_with(&self.mark.cgroup),
                Trace::Mount(_) | Trace::Loop(_) => true,
            })
            .collect();
        let kept = fs::read_dir(bundles).into_iter().flatten().flatten();
        left.extend(kept.map(|e| Trace::Mount(format!("bundle {}", e.path().display()))));
        left
    }
}

fn without_wharf_variables(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("WHARF_") {
            command.env_remove(key);
        }
    }
}

fn list(traces: &[Trace]) -> String {
    traces.iter().map(|t| format!("  {t}")).collect::<Vec<_>>().join("\n")
}

/// Paths of sockets must stay short, so the folder is directly in /tmp.
fn new_mark() -> Result<Mark> {
    let mut bytes = [0_u8; 3];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let base = std::env::var_os("WHARF_TEST_TMP").unwrap_or_else(|| "/tmp".into());
    Ok(Mark {
        folder: PathBuf::from(base).join(format!("w-{hex}")),
        cgroup: format!("wharf-test-{hex}"),
    })
}
