//! Logging programs: containerd's `binary://` protocol.
//!
//! The program gets stdout of the container as descriptor 3, stderr as 4, and closes 5 (or writes
//! to it) once it is ready.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::SysError;
use super::pipes::set_nonblocking;
use crate::logic::uri::Program;

/// For the program to be ready; the container is not made before.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to write the container's streams.
#[derive(Debug)]
pub(crate) struct Logger {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Starts a program for one process' streams. It ends by itself when they do, as an orphan of the
/// container would.
pub(crate) fn start(program: &Program, id: &str, namespace: &str) -> Result<Logger, SysError> {
    let failed = |source: std::io::Error| {
        SysError::new("start logging program", program.path.display().to_string(), source)
    };
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| failed(errno.into()));
    let (stdout_read, stdout) = pipe()?;
    let (stderr_read, stderr) = pipe()?;
    let (ready, ready_write) = pipe()?;
    let mut command = Command::new(&program.path);
    command
        .args(&program.args)
        .env("CONTAINER_ID", id)
        .env("CONTAINER_NAMESPACE", namespace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let ends = [stdout_read.as_raw_fd(), stderr_read.as_raw_fd(), ready_write.as_raw_fd()];
    // SAFETY: the closure runs in the child between fork and exec and makes only system calls; the
    // descriptors in `ends` are open until `spawn` has returned, which is after the exec.
    unsafe {
        command.pre_exec(move || {
            // Out of the way first: an end may have a number that another is to get.
            let mut high = [0; 3];
            for (place, end) in high.iter_mut().zip(ends) {
                *place = check(libc::fcntl(end, libc::F_DUPFD_CLOEXEC, 10))?;
            }
            for (number, end) in (3..).zip(high) {
                check(libc::dup2(end, number))?;
            }
            Ok(())
        });
    }
    let child = command.spawn().map_err(failed)?;
    // Reaped like any orphan, when it ends.
    drop(child);
    drop((stdout_read, stderr_read, ready_write));
    if !super::process::wait_end(&ready, PATIENCE) {
        return Err(failed(std::io::ErrorKind::TimedOut.into()));
    }
    set_nonblocking(&stdout)?;
    set_nonblocking(&stderr)?;
    Ok(Logger { stdout, stderr })
}

fn check(result: libc::c_int) -> std::io::Result<libc::c_int> {
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}
