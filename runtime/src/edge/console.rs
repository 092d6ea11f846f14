//! The console socket: where a caller wants the master of a container's terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::CommandError;
use crate::error::Step;
use crate::sys::channel::Channel;

/// Connects before anything is made, so that a bad path costs nothing.
pub(crate) fn connect(path: &str) -> Result<Channel, CommandError> {
    let socket = UnixStream::connect(path).map_err(|source| CommandError::File {
        action: "connect to console socket",
        path: path.to_owned(),
        source,
    })?;
    Ok(Channel::over(OwnedFd::from(socket)))
}

/// Hands the master over.
pub(crate) fn give(socket: &Channel, pty: &OwnedFd) -> Result<(), CommandError> {
    socket
        .send(b"/dev/ptmx", Some(pty.as_fd()))
        .step(|| "send the terminal to the console socket")?;
    Ok(())
}

/// Hands a pidfd over, by which its holder watches and signals the process for good.
pub(crate) fn give_pidfd(socket: &Channel, pidfd: &OwnedFd) -> Result<(), CommandError> {
    socket.send(b"pidfd", Some(pidfd.as_fd())).step(|| "send the pidfd to the pidfd socket")?;
    Ok(())
}
