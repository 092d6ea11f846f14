//! Starting a shim, and cleaning up after one that died.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::Command;

use super::{Bundle, Shim, ShimError};
use crate::ids::{ContainerId, Namespace};

/// Bound on the shim's `start` and `delete` commands.
const LIMIT: Duration = Duration::from_secs(20);

/// Starts shims of one program.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    /// Told to the shim as the address of the supervisor.
    address: String,
}

impl Launcher {
    /// A launcher of `program`.
    #[must_use]
    pub fn new(program: PathBuf, address: String) -> Self {
        Self { program, address }
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
        let output = self.run(bundle, namespace, id, "start").await?;
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
        let output = self.run(bundle, namespace, id, "delete").await?;
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
    ) -> Result<Output, ShimError> {
        let running = Command::new(&self.program)
            .args(["-namespace", namespace.as_str(), "-id", id.as_str()])
            .args(["-address", &self.address, "-bundle"])
            .arg(bundle.path())
            .arg(command)
            .current_dir(bundle.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(LIMIT, running).await {
            Err(_) => Err(ShimError::Silent { limit: LIMIT }),
            Ok(Err(source)) => Err(ShimError::Spawn { program: self.program.clone(), source }),
            Ok(Ok(output)) => Ok(output),
        }
    }
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim().lines().next_back().unwrap_or("it said nothing").to_owned()
}
