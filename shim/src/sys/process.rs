//! Processes: fork, the children's ends, identity, names.

use std::os::fd::{AsFd, AsRawFd as _};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::SysError;
use crate::logic::exit::Ending;

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Parent,
    Child,
}

/// Forks. Panics when a second thread is alive: the child could find any lock taken.
pub(crate) fn fork() -> Result<Side, SysError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    assert!(threads == 1, "fork with {threads} threads alive");
    // SAFETY: one thread is alive, asserted above, so the child finds every lock free and may go
    // on as a normal program.
    match unsafe { libc::fork() } {
        0 => Ok(Side::Child),
        -1 => Err(SysError::new("fork", "shim", std::io::Error::last_os_error())),
        _ => Ok(Side::Parent),
    }
}

/// Closes every descriptor but the standard ones and the one to keep: what a caller forgot to
/// close on exec would live as long as the container.
pub(crate) fn close_inherited(keep: impl AsFd) {
    let Ok(keep) = u32::try_from(keep.as_fd().as_raw_fd()) else { return };
    let close = |first: u32, last: u32| {
        if first <= last {
            // SAFETY: called before the shim opens anything of its own but `keep`, which is
            // outside both ranges: no descriptor in them has an owner in this process.
            let _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    close(3, keep.saturating_sub(1));
    close(keep + 1, u32::MAX);
}

/// Sets the soft limit of open descriptors, at most to the hard one.
pub(crate) fn lower_open_files(soft: u64) -> Result<(), SysError> {
    let failed = |errno| SysError::new("limit", "open files", errno);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard).map_err(failed)
}

/// Leaves session and terminal of the caller.
pub(crate) fn detach() -> Result<(), SysError> {
    nix::unistd::setsid()
        .map(drop)
        .map_err(|errno| SysError::new("start session for", "shim", errno))
}

/// Descendants that lose their parent become our children.
pub(crate) fn become_subreaper() -> Result<(), SysError> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes a number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } == 0 {
        return Ok(());
    }
    Err(SysError::new("become", "subreaper", std::io::Error::last_os_error()))
}

static PROGRAM: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();

/// This program's path as it was called. Asked for once before [`set_title`], which writes over it.
pub(crate) fn program() -> &'static Path {
    PROGRAM.get_or_init(|| std::env::args_os().next().map(Into::into).unwrap_or_default())
}

/// Names this process for `ps`: the command line is overwritten in place. Best effort.
pub(crate) fn set_title(title: &str) {
    program();
    // SAFETY: PR_SET_NAME reads at most 16 bytes from a string that ends in NUL.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, c"wharf-shim".as_ptr(), 0, 0, 0) };
    let Some((start, end)) = argument_range() else { return };
    let room = end.saturating_sub(start);
    if room < 2 {
        return;
    }
    let length = title.len().min(room - 1);
    // SAFETY: the kernel says that start..end holds the argument strings on the initial stack,
    // which is writable and lives as long as the process; no Rust reference points into it:
    // std keeps raw pointers and copies, and nothing reads the arguments after this.
    unsafe {
        let area = std::ptr::with_exposed_provenance_mut::<u8>(start);
        area.write_bytes(0, room);
        area.copy_from_nonoverlapping(title.as_ptr(), length);
    }
}

/// Fields 48 and 49 of our stat file: where the arguments are.
fn argument_range() -> Option<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = &stat[stat.rfind(')')? + 2..];
    let mut fields = after_name.split_ascii_whitespace().skip(45);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    Some((start, end))
}

/// Field 22 of a process' stat file: with its pid this names a process for good.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Signals through a descriptor from here on: SIGCHLD, and the ones that would end a daemon.
pub(crate) fn signals() -> Result<SignalFd, SysError> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    let failed = |errno| SysError::new("block", "signals", errno);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(failed)?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)
}

/// A child that has ended and is still there as a zombie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) pid: i32,
    pub(crate) ending: Ending,
}

/// Looks at one ended child, any, and leaves it.
pub(crate) fn peek_ended() -> Option<Ended> {
    wait(libc::P_ALL, 0, libc::WNOWAIT)
}

/// As [`peek_ended`], for one child.
pub(crate) fn peek_ended_pid(pid: i32) -> Option<Ended> {
    wait(libc::P_PID, libc::id_t::try_from(pid).ok()?, libc::WNOWAIT)
}

/// Takes an ended child away: its pid may be used again from here on.
pub(crate) fn reap(pid: i32) {
    if let Ok(id) = libc::id_t::try_from(pid) {
        wait(libc::P_PID, id, 0);
    }
}

/// Waits for one child to end and takes it away.
pub(crate) fn wait_child(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    while nix::sys::wait::waitpid(pid, None) == Err(nix::errno::Errno::EINTR) {}
}

/// Waits for a command to end; kills it when it takes too long.
pub(crate) fn wait_command(
    mut child: std::process::Child,
    patience: std::time::Duration,
) -> Result<std::process::ExitStatus, SysError> {
    use std::os::fd::FromRawFd as _;

    let failed = |source| SysError::new("wait for", "command", source);
    let id = i32::try_from(child.id()).unwrap_or(0);
    // SAFETY: pidfd_open takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, id, 0) };
    if let Ok(fd @ 0..) = i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let pidfd = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
        if !wait_end(&pidfd, patience) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
    }
    child.wait().map_err(failed)
}

/// A mount namespace of this process' own.
pub(crate) fn unshare_mounts() -> Result<(), SysError> {
    // SAFETY: unshare takes flags; with one thread alive nobody else's view changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0 {
        return Ok(());
    }
    Err(SysError::new("unshare", "mount namespace", std::io::Error::last_os_error()))
}

/// Field 4 of a process' stat file.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Closes every descriptor but the standard ones. To be called first in a program.
pub(crate) fn close_all_inherited() {
    // SAFETY: this program has opened nothing yet: no descriptor in the range has an owner.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
}

fn wait(which: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> Option<Ended> {
    // Not nix: it fails on an end by a real-time signal.
    // SAFETY: siginfo_t is plain data, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | flags;
    // SAFETY: `info` is valid for writing for the whole call.
    if unsafe { libc::waitid(which, id, &mut info, flags) } != 0 {
        return None;
    }
    // SAFETY: waitid fills in the SIGCHLD fields; when no child has ended, pid stays zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return None;
    }
    let ending = match info.si_code {
        libc::CLD_EXITED => Ending::Code(status),
        _ => Ending::Signal(status),
    };
    Some(Ended { pid, ending })
}

/// Sends a signal to all of the group that a process leads; one that has nobody is no error.
pub(crate) fn signal_group(leader: i32, signal: i32) -> Result<(), SysError> {
    if leader <= 1 {
        return Ok(());
    }
    // SAFETY: no memory is passed; the number is that of a group, never 0 or -1.
    let result = unsafe { libc::kill(-leader, signal) };
    match nix::errno::Errno::result(result) {
        Ok(_) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(SysError::new("signal", "process group", errno)),
    }
}

/// Sends a signal to the process behind a pidfd. `Ok(false)`: it has been reaped.
pub(crate) fn signal(pidfd: impl AsFd, signal: i32) -> Result<bool, SysError> {
    // SAFETY: the descriptor is borrowed and therefore open; no siginfo is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        return Ok(true);
    }
    match std::io::Error::last_os_error() {
        gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        source => Err(SysError::new("send signal to", "process", source)),
    }
}

/// A descriptor for a process that is named by pid and start time; `None` when it is gone.
pub(crate) fn open_pidfd(pid: i32, ticks: u64) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;

    // SAFETY: pidfd_open takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0)?;
    // SAFETY: the kernel has just made this descriptor for us; it is close-on-exec by default.
    let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    // Looked at after the open: if it is the process meant now, the descriptor is too.
    (start_ticks(pid) == Some(ticks)).then_some(fd)
}

/// Waits until the process behind a pidfd has ended, or a pipe has something to say.
pub(crate) fn wait_end(pidfd: impl AsFd, limit: std::time::Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let ms = u16::try_from(limit.as_millis()).unwrap_or(u16::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::from(ms)), Ok(1..))
}

/// Standard input and output to /dev/null, standard error to the end of a file.
pub(crate) fn redirect_stdio(log: &Path) -> Result<(), SysError> {
    let null = super::pipes::dev_null()?;
    let log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .map_err(|source| SysError::new("open", log.display().to_string(), source))?;
    let failed = |errno| SysError::new("redirect", "standard streams", errno);
    nix::unistd::dup2_stdin(&null).map_err(failed)?;
    nix::unistd::dup2_stdout(&null).map_err(failed)?;
    nix::unistd::dup2_stderr(&log).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{argument_range, open_pidfd, start_ticks};

    #[test]
    fn a_process_is_pid_and_start_time() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        let ticks = start_ticks(pid).expect("own stat");
        assert!(open_pidfd(pid, ticks).is_some());
        assert!(open_pidfd(pid, ticks + 1).is_none());
        assert!(argument_range().is_some_and(|(start, end)| start < end));
    }
}
