//! Processes: making one, watching it, joining the namespaces of one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{c_path, check, errno};

/// Namespaces, as bits of clone, unshare and setns.
pub(crate) mod ns {
    pub(crate) const TIME: u64 = libc::CLONE_NEWTIME as u64;
    pub(crate) const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    pub(crate) const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    pub(crate) const UTS: u64 = libc::CLONE_NEWUTS as u64;
    pub(crate) const IPC: u64 = libc::CLONE_NEWIPC as u64;
    pub(crate) const USER: u64 = libc::CLONE_NEWUSER as u64;
    pub(crate) const PID: u64 = libc::CLONE_NEWPID as u64;
    pub(crate) const NET: u64 = libc::CLONE_NEWNET as u64;
}

/// libc's own is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a fork this is.
pub(crate) enum Fork {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// Who a forked process' parent is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    Caller,
    /// The caller's own parent (for a fork from an intermediate process).
    CallersParent,
}

/// Threads of this process: `/proc/self/task` has two links and one for each thread.
pub(crate) fn thread_count() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// Forks into new namespaces and, on cgroup v2, straight into a cgroup.
///
/// The child must end in [`super::exec::execve`] or [`exit_now`].
pub(crate) fn fork(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    parent: Parent,
) -> io::Result<Fork> {
    // A copy of a process with several threads may hold locks that nobody will ever release.
    if thread_count()? != 1 {
        return Err(errno(libc::EDEADLK));
    }
    let mut pidfd: libc::c_int = -1;
    let mut flags = namespaces | libc::CLONE_PIDFD as u64;
    if parent == Parent::CallersParent {
        flags |= libc::CLONE_PARENT as u64;
    }
    if cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    let args = libc::clone_args {
        flags,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        // With CLONE_PARENT the kernel takes the caller's own exit signal and wants 0 here.
        exit_signal: if parent == Parent::Caller { libc::SIGCHLD as u64 } else { 0 },
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `args` is a whole clone_args of the size given, and lives through the call. There is
    // no CLONE_VM, so the child has a copy of all memory and goes on on a copy of this very stack
    // (stack is 0); this process has one thread (checked above), so no lock is held in the copy.
    // `pidfd` is written in the parent's memory, where it lives.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::from_ref(&args),
            std::mem::size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Fork::Child);
    }
    // SAFETY: with CLONE_PIDFD a successful clone3 stored a new descriptor, owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Fork::Parent { pid: pid as i32, pidfd })
}

/// Ends this process at once: no destructors, no buffers, as a forked child must.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no conditions and does not return.
    unsafe { libc::_exit(code) }
}

/// A descriptor for a running process (or a zombie).
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a success is a new descriptor that is ours alone.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Sends a signal; 0 only asks whether the process is there.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call; a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// Whether the process has ended (a zombie has).
pub(crate) fn pidfd_ended(pidfd: BorrowedFd<'_>, within: Duration) -> io::Result<bool> {
    poll_in(pidfd, within)
}

/// Waits for a descriptor to become readable; false when the time is over.
pub(crate) fn poll_in(fd: BorrowedFd<'_>, within: Duration) -> io::Result<bool> {
    Ok(poll_any([fd], within)?[0])
}

/// Waits for one of some descriptors; which are readable, none when the time is over.
pub(crate) fn poll_any<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    within: Duration,
) -> io::Result<[bool; N]> {
    let until = Instant::now() + within;
    let mut polls =
        fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: N pollfds, alive through the call, and the count says N.
        match check(i64::from(unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, millis) }))
        {
            Ok(_) => return Ok(polls.map(|poll| poll.revents != 0)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reaps a child of ours; gives its wait status as `(code, is_signal)`.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<(i32, bool)> {
    // SAFETY: siginfo_t is plain data for which zeroes are a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` lives through the call; the descriptor is borrowed.
        let done = check(i64::from(unsafe {
            libc::waitid(
                libc::P_PIDFD,
                pidfd.as_raw_fd() as libc::id_t,
                &mut info,
                libc::WEXITED | libc::__WALL,
            )
        }));
        match done {
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    // SAFETY: waitid succeeded for an exit, so the kernel filled in the SIGCHLD part.
    let status = unsafe { info.si_status() };
    Ok((status, info.si_code != libc::CLD_EXITED))
}

/// When the process began, in clock ticks since boot: with the pid it names a process for good.
/// `None`: there is no such process.
pub(crate) fn start_ticks(pid: i32) -> io::Result<Option<u64>> {
    let text = match std::fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    Ok(crate::logic::procstat::start_ticks(&text))
}

/// Joins the namespaces `kinds` that the descriptor (a pidfd, or one namespace) leads to.
pub(crate) fn setns(fd: BorrowedFd<'_>, kinds: u64) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call, and there are no pointers. The caller has
    // one thread, so no other is left behind in other namespaces.
    check(i64::from(unsafe { libc::setns(fd.as_raw_fd(), kinds as i32) }))?;
    Ok(())
}

/// Leaves the namespaces `kinds` for new ones.
pub(crate) fn unshare(kinds: u64) -> io::Result<()> {
    // SAFETY: no pointers; namespaces only, so no memory or table is unshared under Rust's feet.
    check(i64::from(unsafe { libc::unshare(kinds as i32) }))?;
    Ok(())
}

/// Opens a namespace file and makes sure that it is one.
pub(crate) fn open_namespace(path: &Path) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    // SAFETY: `name` is NUL-terminated and lives through the call; the descriptor is ours.
    let fd = unsafe {
        let fd = check(i64::from(libc::open(name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    if super::path::fs_kind(fd.as_fd())? != super::path::FsKind::Namespaces {
        return Err(errno(libc::EINVAL));
    }
    Ok(fd)
}

/// Of which type a namespace is.
pub(crate) fn namespace_kind(fd: BorrowedFd<'_>) -> io::Result<u64> {
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: the call takes no argument; the descriptor is borrowed for it.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    Ok(check(i64::from(kind))? as u64)
}

/// Starts a session; the process leaves its terminal.
pub(crate) fn setsid() -> io::Result<()> {
    // SAFETY: no conditions.
    check(i64::from(unsafe { libc::setsid() }))?;
    Ok(())
}

/// Makes `/proc/<pid>` of this process root's own and bars ptrace by its new neighbours, until
/// execve sets it anew.
pub(crate) fn hide_from_neighbours() -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }))?;
    Ok(())
}

/// Sets the names of the machine in this UTS namespace.
pub(crate) fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are of one live string.
    check(i64::from(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }))?;
    Ok(())
}

/// Sets the NIS domain of this UTS namespace.
pub(crate) fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are of one live string.
    check(i64::from(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }))?;
    Ok(())
}

/// Sends a signal to a process that can't have ended meanwhile (frozen, or in a list just read).
pub(crate) fn signal_pid(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only; pid is positive, so no group is meant.
    check(i64::from(unsafe { libc::kill(pid, signal) }))?;
    Ok(())
}

/// Lets this process run wherever its cpuset allows.
pub(crate) fn reset_affinity() {
    let all = [u64::MAX; 128];
    // SAFETY: pointer and length are of one live array. What the kernel does not have is ignored by
    // it; where it refuses, the process stays where it was.
    unsafe {
        libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(&all), all.as_ptr());
    }
}

/// On which processors this process may run, 64 a word.
pub(crate) fn affinity() -> io::Result<Vec<u64>> {
    let mut mask = vec![0u64; 128];
    // SAFETY: pointer and length are of one live buffer; pid 0 is this process.
    let bytes = check(unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, mask.len() * 8, mask.as_mut_ptr())
    })?;
    mask.truncate((bytes as usize).div_ceil(8));
    Ok(mask)
}

/// Sets on which processors this process may run.
pub(crate) fn set_affinity(mask: &[u64]) -> io::Result<()> {
    // SAFETY: pointer and length are of one live slice; pid 0 is this process.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, mask.len() * 8, mask.as_ptr()) })?;
    Ok(())
}

/// Sets from which memory nodes this process allocates.
pub(crate) fn set_memory_policy(mode: u32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one off the number of bits.
    let (pointer, bits) = match nodes.is_empty() {
        true => (std::ptr::null(), 0),
        false => (nodes.as_ptr(), nodes.len() * 64 + 1),
    };
    // SAFETY: the mask has as many bits as are said, and lives through the call; null with 0.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) })?;
    Ok(())
}

/// The kernel's version: major and minor.
pub(crate) fn kernel_version() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
