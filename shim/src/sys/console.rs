//! Console sockets: where an OCI runtime sends the master of a terminal that it made.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{SysError, files, process, rights};

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Console {
    listener: UnixListener,
    path: PathBuf,
}

/// In the bundle, or in a short place when that has too long a path.
pub(crate) fn listen(bundle: &Path) -> Result<Console, SysError> {
    let inside = bundle.join("console.sock");
    let path = if inside.as_os_str().as_bytes().len() < 108 {
        inside
    } else {
        PathBuf::from(format!("/run/wharf/s/{}.tty", std::process::id()))
    };
    Ok(Console { listener: super::sockets::listen(&path)?, path })
}

impl Console {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The master.
    pub(crate) fn receive(&self, patience: Duration) -> Result<OwnedFd, SysError> {
        let failed = |source| SysError::new("receive", "terminal", source);
        let silent = || failed(std::io::ErrorKind::TimedOut.into());
        if !process::wait_end(&self.listener, patience) {
            return Err(silent());
        }
        let (socket, _) = self.listener.accept().map_err(failed)?;
        if !process::wait_end(&socket, patience) {
            return Err(silent());
        }
        let (_, mut fds) = rights::receive(socket.as_fd()).map_err(|errno| failed(errno.into()))?;
        fds.pop().ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = files::remove(&self.path);
    }
}
