//! Starting a shim, and cleaning up after one that died.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::process::Command;

use super::{Bundle, Kept, OutOfMemory, Place, Shim, ShimError, foreign::Foreign};
use crate::{
    drivers::open_files,
    ids::{ContainerId, Namespace},
};

/// Bound on the shim's `start` and `delete` commands.
const LIMIT: Duration = Duration::from_secs(20);

/// Starts our shims, and foreign ones.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    /// Told to the shim as the address of the supervisor.
    address: String,
    /// Where foreign shims send their events; listened at once it is needed.
    events: PathBuf,
    listening: Arc<Mutex<bool>>,
    out_of_memory: OutOfMemory,
}

impl Launcher {
    /// A launcher of `program`.
    #[must_use]
    pub fn new(program: PathBuf, address: String, events: PathBuf) -> Self {
        Self {
            program,
            address,
            events,
            listening: Arc::default(),
            out_of_memory: OutOfMemory::default(),
        }
    }

    /// Listens for events of foreign shims, if that is not done yet.
    fn listen(&self) -> io::Result<()> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if !*listening {
            super::events::serve(&self.events, self.out_of_memory.clone())?;
            *listening = true;
        }
        Ok(())
    }

    /// Connects to the shim of a bundle, ours or a foreign one.
    ///
    /// # Errors
    /// [`ShimError::Rpc`] when nobody listens there.
    pub async fn connect(&self, bundle: &Bundle, id: &ContainerId) -> Result<Shim, ShimError> {
        let Some(place) = Place::read(bundle) else {
            return Shim::connect(&bundle.socket(), id.as_str()).await;
        };
        self.connect_foreign(&place, bundle, id).await
    }

    async fn connect_foreign(
        &self,
        place: &Place,
        bundle: &Bundle,
        id: &ContainerId,
    ) -> Result<Shim, ShimError> {
        if let Err(error) = self.listen() {
            tracing::warn!(%error, "events of foreign shims are not taken");
        }
        let mut shim = Shim::connect(place.socket(), id.as_str()).await?;
        shim.foreign = Some(Arc::new(Foreign::new(place, bundle, self.out_of_memory.clone())));
        Ok(shim)
    }

    /// Starts a foreign shim and connects to it.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn spawn_foreign(
        &self,
        program: &Path,
        bundle: &Bundle,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<Shim, ShimError> {
        // Whoever finds the bundle cleans up with the right program.
        let place = Place::prepare(program, bundle, id.as_str())?;
        self.listen().map_err(|source| ShimError::Pipe { path: self.events.clone(), source })?;
        let output =
            self.run_program(program, bundle, namespace, id, "start", Stdio::null()).await?;
        let no_address =
            |why: String| ShimError::NoAddress { status: why, stderr: last_line(&output.stderr) };
        if !output.status.success() {
            return Err(no_address(output.status.to_string()));
        }
        let told = place.told(&String::from_utf8_lossy(&output.stdout));
        let place = told.map_err(no_address)?;
        place.write(bundle)?;
        self.connect_foreign(&place, bundle, id).await
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a shim in the bundle and connects to it. When this answers, its socket accepts. A
    /// shim whose start was interrupted is found by its bundle and cleaned up with
    /// [`Launcher::clean_up`].
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn spawn(
        &self,
        bundle: &Bundle,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<Shim, ShimError> {
        let output = self.run(bundle, namespace, id, "start", Stdio::null()).await?;
        connect(&output, id).await
    }

    /// Starts a shim that goes on with the container of one that died, with what was kept of it;
    /// without, it makes do with what is in the bundle. A shim that is there after all is found.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn adopt(
        &self,
        bundle: &Bundle,
        namespace: &Namespace,
        id: &ContainerId,
        kept: Option<Arc<Kept>>,
    ) -> Result<Shim, ShimError> {
        let spawn = |source| ShimError::Spawn { program: self.program.clone(), source };
        let Some(kept) = kept else {
            let output = self.run(bundle, namespace, id, "adopt", Stdio::null()).await?;
            return connect(&output, id).await;
        };
        let (ours, theirs) = UnixStream::pair().map_err(spawn)?;
        let sending = tokio::task::spawn_blocking(move || {
            // A shim that ends before it has all closes its end: that is not waited for.
            let sent = kept.send(&ours);
            (sent, ours)
        });
        let stdin = Stdio::from(OwnedFd::from(theirs));
        let output = self.run(bundle, namespace, id, "adopt", stdin).await?;
        // Its own answer says more than a failure to send would.
        let (sent, _ours) = sending.await.expect("sending does not panic");
        if let Err(error) = sent {
            tracing::warn!(container = id.short(), %error, "not all that was kept was given on");
        }
        connect(&output, id).await
    }

    /// Ends what a dead shim left: the container's processes, its cgroup, the socket.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn clean_up(
        &self,
        bundle: &Bundle,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<(), ShimError> {
        let foreign = Place::read(bundle);
        let program = foreign.as_ref().map_or(self.program.as_path(), |place| &place.program);
        let output =
            self.run_program(program, bundle, namespace, id, "delete", Stdio::null()).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(ShimError::NoAddress {
            status: output.status.to_string(),
            stderr: last_line(&output.stderr),
        })
    }

    async fn run(
        &self,
        bundle: &Bundle,
        namespace: &Namespace,
        id: &ContainerId,
        command: &str,
        stdin: Stdio,
    ) -> Result<Output, ShimError> {
        self.run_program(&self.program, bundle, namespace, id, command, stdin).await
    }

    async fn run_program(
        &self,
        program: &Path,
        bundle: &Bundle,
        namespace: &Namespace,
        id: &ContainerId,
        command: &str,
        stdin: Stdio,
    ) -> Result<Output, ShimError> {
        let mut shim = Command::new(program);
        if program != self.program {
            shim.env("TTRPC_ADDRESS", &self.events)
                .env("MAX_SHIM_VERSION", "3")
                // A Go program's threads; as containerd sets it.
                .env("GOMAXPROCS", "2")
                .args(["-publish-binary", "/bin/true"]);
        }
        let running = shim
            .args(["-namespace", namespace.as_str(), "-id", id.as_str()])
            .args(["-address", &self.address, "-bundle"])
            .arg(bundle.path())
            .arg(command)
            .current_dir(bundle.path())
            .envs(open_files::variable())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(LIMIT, running).await {
            Err(_) => Err(ShimError::Silent { limit: LIMIT }),
            Ok(Err(source)) => Err(ShimError::Spawn { program: program.into(), source }),
            Ok(Ok(output)) => Ok(output),
        }
    }
}

/// To the address that a command has printed.
async fn connect(output: &Output, id: &ContainerId) -> Result<Shim, ShimError> {
    let address = String::from_utf8_lossy(&output.stdout);
    let socket = address.trim().strip_prefix("unix://").filter(|_| output.status.success());
    let Some(socket) = socket else {
        return Err(ShimError::NoAddress {
            status: output.status.to_string(),
            stderr: last_line(&output.stderr),
        });
    };
    Shim::connect(Path::new(socket), id.as_str()).await
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim().lines().next_back().unwrap_or("it said nothing").to_owned()
}
