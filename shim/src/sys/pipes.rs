//! Pipes, named pipes and ptys, always without blocking on our side.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::SysError;

/// A pipe: our end first, then the container's. Ours does not block.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) ours: OwnedFd,
    pub(crate) theirs: OwnedFd,
}

fn pipe() -> Result<(OwnedFd, OwnedFd), SysError> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| SysError::new("create", "pipe", errno))
}

/// Names a pipe, or a named pipe, while it is there.
pub(crate) type PipeId = (u64, u64);

/// What pipe a number, just serialized, means; `None`: it is no pipe.
pub(crate) fn id(number: std::os::fd::RawFd) -> Option<PipeId> {
    // SAFETY: borrowed for this call only; a number that is not open makes it fail.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let stat = nix::sys::stat::fstat(fd).ok()?;
    let is_pipe = stat.st_mode & libc::S_IFMT == libc::S_IFIFO;
    is_pipe.then_some((stat.st_dev, stat.st_ino))
}

/// Opens our end of a pipe anew that a process has as one of its standard descriptors. What it has
/// there may be anything by now, so it is looked at before it is opened.
pub(crate) fn open_of_process(pid: i32, wanted: PipeId) -> Option<OwnedFd> {
    for (number, writes) in [(0, true), (1, false), (2, false)] {
        let Ok(look) = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(format!("/proc/{pid}/fd/{number}"))
        else {
            continue;
        };
        if id(look.as_raw_fd()) != Some(wanted) {
            continue;
        }
        return OpenOptions::new()
            .read(!writes)
            .write(writes)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", look.as_raw_fd()))
            .map(OwnedFd::from)
            .ok();
    }
    None
}

/// For a process' stdout or stderr.
pub(crate) fn output_pipe() -> Result<Pipe, SysError> {
    let (read, write) = pipe()?;
    set_nonblocking(&read)?;
    Ok(Pipe { ours: read, theirs: write })
}

/// For a process' stdin.
pub(crate) fn input_pipe() -> Result<Pipe, SysError> {
    let (read, write) = pipe()?;
    set_nonblocking(&write)?;
    Ok(Pipe { ours: write, theirs: read })
}

pub(crate) fn dev_null() -> Result<OwnedFd, SysError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .map_err(|source| SysError::new("open", "/dev/null", source))
}

pub(crate) fn set_nonblocking(fd: impl AsFd) -> Result<(), SysError> {
    let fd = fd.as_fd();
    let failed = |errno| SysError::new("set O_NONBLOCK on", "descriptor", errno);
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).map_err(failed)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(failed)?;
    Ok(())
}

/// Makes a pipe hold more, for a container that writes a lot. Best effort: users have a quota.
pub(crate) fn enlarge(fd: impl AsFd, bytes: i32) {
    let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(bytes));
}

/// One read; `None`: nothing there for now. A pty whose other side is closed reads as ended.
pub(crate) fn read(fd: impl AsFd, buffer: &mut [u8]) -> std::io::Result<Option<usize>> {
    loop {
        return match nix::unistd::read(fd.as_fd(), buffer) {
            Ok(count) => Ok(Some(count)),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(nix::errno::Errno::EIO) => Ok(Some(0)),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// One write; `None`: no room for now.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> std::io::Result<Option<usize>> {
    loop {
        return match nix::unistd::write(fd.as_fd(), bytes) {
            Ok(count) => Ok(Some(count)),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// Bytes that a read would get now.
pub(crate) fn readable(fd: impl AsFd) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int through the pointer, which is valid for the call; the
    // descriptor is borrowed and therefore open.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &mut count) };
    if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
}

/// Opens where a Task client wants output. On a named pipe this neither waits for a reader nor
/// breaks when there is none: opened for both directions, it holds what it can hold.
pub(crate) fn open_output(path: &Path) -> Result<OwnedFd, SysError> {
    let failed = |source| SysError::new("open", path.display().to_string(), source);
    let is_fifo = std::fs::metadata(path).map_err(failed)?.file_type().is_fifo();
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    if is_fifo {
        options.read(true)
    } else {
        options.append(true)
    };
    options.open(path).map(OwnedFd::from).map_err(failed)
}

/// The read side of a named pipe for stdin, and a write side that keeps it from ending while
/// clients come and go.
pub(crate) fn open_feed(path: &Path) -> Result<(OwnedFd, OwnedFd), SysError> {
    let failed = |source| SysError::new("open", path.display().to_string(), source);
    let flags = libc::O_NONBLOCK;
    let read: File =
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let keep: File =
        OpenOptions::new().write(true).custom_flags(flags).open(path).map_err(failed)?;
    Ok((read.into(), keep.into()))
}

/// The other side of a pty, held so that the master does not end while the container's processes
/// close and open their terminal.
pub(crate) fn pty_peer(master: impl AsFd) -> Option<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and touches no memory; the descriptor is
    // borrowed and therefore open.
    let fd = unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Window size; the kernel sends SIGWINCH.
pub(crate) fn resize(pty: impl AsFd, columns: u16, rows: u16) -> Result<(), SysError> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer, which is valid for the call; the
    // descriptor is borrowed and therefore open.
    let result = unsafe { libc::ioctl(pty.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &size) };
    if result == 0 {
        return Ok(());
    }
    Err(SysError::new("resize", "pty", std::io::Error::last_os_error()))
}

/// The byte that ends input on a pty, if its line discipline looks for one.
pub(crate) fn end_of_input(pty: impl AsFd) -> Option<u8> {
    use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, tcgetattr};

    let attributes = tcgetattr(pty).ok()?;
    attributes
        .local_flags
        .contains(LocalFlags::ICANON)
        .then(|| attributes.control_chars[SpecialCharacterIndices::VEOF as usize])
}

/// A file for output, made if it is not there.
pub(crate) fn create_output(path: &Path) -> Result<OwnedFd, SysError> {
    let failed = |source| SysError::new("open", path.display().to_string(), source);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map(OwnedFd::from)
        .map_err(failed)
}

/// Standard input up to its end, as far as it comes in time. A terminal has nothing for us.
pub(crate) fn read_stdin(patience: std::time::Duration, limit: usize) -> Vec<u8> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let stdin = std::io::stdin();
    let mut input = Vec::new();
    if nix::unistd::isatty(&stdin).unwrap_or(false) {
        return input;
    }
    let until = std::time::Instant::now() + patience;
    let mut buffer = [0; 4096];
    while input.len() < limit {
        let rest = until.saturating_duration_since(std::time::Instant::now());
        let rest = PollTimeout::from(u16::try_from(rest.as_millis()).unwrap_or(u16::MAX));
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, rest), Ok(1..)) {
            break;
        }
        match read(&stdin, &mut buffer) {
            Ok(Some(0)) | Err(_) => break,
            Ok(Some(count)) => input.extend_from_slice(&buffer[..count]),
            Ok(None) => {}
        }
    }
    input
}

/// Changes who owns a pipe, so that a process of that user may open it again by its name in /proc.
pub(crate) fn give(pipe: impl AsFd, owner: Option<(u32, u32)>) -> Result<(), SysError> {
    let Some((user, group)) = owner else { return Ok(()) };
    nix::unistd::fchown(pipe, Some(user.into()), Some(group.into()))
        .map_err(|errno| SysError::new("change owner of", "pipe", errno))
}
