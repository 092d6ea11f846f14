//! The container's terminal, out of its own devpts, and its three standard descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::Stdio;
use crate::error::{ErrorKind, Failure, Step};
use crate::flow::dev;
use crate::logic::process_plan::ProcessPlan;
use crate::sys::mount::{self, Depth};
use crate::sys::path::{self, Access, FileKind, FsKind, Missing, Resolve};
use crate::sys::{exec, no, tty};

/// Whether the terminal is also to be `/dev/console`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Console {
    Init,
    Exec,
}

/// Sets descriptors 0 to 2; gives the master of a new terminal.
pub(crate) fn connect(
    stdio: &Stdio,
    root: BorrowedFd<'_>,
    process: &ProcessPlan,
    console: Console,
) -> Result<Option<OwnedFd>, Failure> {
    match stdio {
        Stdio::Inherit => {
            reopen_null(root, console)?;
            own_stdio(process);
            Ok(None)
        }
        Stdio::Fds { stdin, stdout, stderr } => {
            for (fd, at) in [(stdin, 0), (stdout, 1), (stderr, 2)] {
                exec::place_stdio(fd.as_fd(), at).step(|| format!("set descriptor {at}"))?;
            }
            reopen_null(root, console)?;
            own_stdio(process);
            Ok(None)
        }
        Stdio::Terminal { size } => terminal(*size, root, process, console).map(Some),
    }
}

/// Where the caller gave the host's null device, the container's takes its place: nothing of the
/// host's file systems stays open, and criu finds the mount that it is on. The container has not
/// begun, so that what was looked at is what is opened; an exec keeps what it was given.
fn reopen_null(root: BorrowedFd<'_>, console: Console) -> Result<(), Failure> {
    if console == Console::Exec {
        return Ok(());
    }
    let streams = [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()]
        .map(|stream| path::facts(stream).is_ok_and(|facts| facts.kind == dev::NULL));
    // A container without the device keeps the host's.
    if !streams.contains(&true) || dev::null(root).is_err() {
        return Ok(());
    }
    let device = Path::new("/dev/null");
    let Ok(null) = path::open_at(root, device, Access::ReadWrite, Resolve::NoLinks) else {
        // A mount that allows no devices.
        return Ok(());
    };
    for (at, _) in (0..).zip(streams).filter(|(_, is_null)| *is_null) {
        exec::place_stdio(null.as_fd(), at).step(|| format!("set descriptor {at}"))?;
    }
    Ok(())
}

/// The user must be able to reopen its own pipes (`/dev/stdout`).
fn own_stdio(process: &ProcessPlan) {
    if process.uid == 0 {
        return;
    }
    for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let Ok(facts) = path::facts(stream) else { continue };
        if facts.uid == process.uid || matches!(facts.kind, FileKind::CharDevice { .. }) {
            continue;
        }
        // A file of somebody else's, or on a file system without owners: it works as it is.
        let _ = path::set_owner(stream, Path::new(""), process.uid, u32::MAX);
    }
}

/// Gives pipes of the host's to a user by its id on the host. What can't be given works as it is.
pub(crate) fn give_stdio(stdio: &Stdio, owner: u32) {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return };
    for stream in [stdin, stdout, stderr] {
        let Ok(facts) = path::facts(stream.as_fd()) else { continue };
        if facts.uid != owner && !matches!(facts.kind, FileKind::CharDevice { .. }) {
            let _ = path::set_owner(stream.as_fd(), Path::new(""), owner, u32::MAX);
        }
    }
}

fn terminal(
    size: Option<(u16, u16)>,
    root: BorrowedFd<'_>,
    process: &ProcessPlan,
    console: Console,
) -> Result<OwnedFd, Failure> {
    let step = || "open a terminal in /dev/pts";
    let ptmx = Path::new("/dev/pts/ptmx");
    let master = path::open_at(root, ptmx, Access::ReadWrite, Resolve::NoLinks).step(step)?;
    if path::fs_kind(master.as_fd()).step(step)? != FsKind::DevPts {
        return Err(Failure::new(ErrorKind::Invalid, step(), "no devpts is mounted there"));
    }
    let slave = tty::open_slave(master.as_fd()).step(step)?;
    if let Some((cols, rows)) = size {
        tty::set_size(master.as_fd(), cols, rows).step(|| "set the terminal's size")?;
    }
    if process.uid != 0 {
        path::set_owner(slave.as_fd(), Path::new(""), process.uid, u32::MAX)
            .step(|| "give the terminal to the user")?;
    }
    if console == Console::Init {
        as_console(root, slave.as_fd())?;
    }
    for at in 0..=2 {
        exec::place_stdio(slave.as_fd(), at).step(|| format!("set descriptor {at}"))?;
    }
    tty::take_control(slave.as_fd()).step(|| "take the terminal as the controlling one")?;
    Ok(master)
}

/// Binds the terminal over `/dev/console`, by its descriptor: no path says what is bound
/// (CVE-2025-52565), and the place may be no link.
fn as_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || "bind the terminal to /dev/console";
    let at = Path::new("/dev/console");
    let place = match path::open_at(root, at, Access::Place, Resolve::NoLinks) {
        Err(e) if e.raw_os_error() == Some(no::ENOENT) => {
            path::open_or_make(root, at, Missing::MakeFile).step(step)?
        }
        place => place.step(step)?,
    };
    let tree = mount::clone_fd(slave, Depth::One).step(step)?;
    mount::attach(tree.as_fd(), place.as_fd()).step(step)
}
