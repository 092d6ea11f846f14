//! The last steps of a child: descriptors, signals, and the program that takes its place.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{check, errno};

/// Puts a descriptor at number `at` (0 to 2), open over execve.
pub(crate) fn place_stdio(fd: BorrowedFd<'_>, at: i32) -> io::Result<()> {
    if fd.as_raw_fd() == at {
        // SAFETY: the descriptor is borrowed for the call; clears close-on-exec.
        check(i64::from(unsafe { libc::fcntl(at, libc::F_SETFD, 0) }))?;
        return Ok(());
    }
    // SAFETY: dup2 closes what is at 0 to 2, which no owner in this process holds: Rust's standard
    // streams own nothing, and the child's own descriptors were opened while 0 to 2 were taken.
    check(i64::from(unsafe { libc::dup2(fd.as_raw_fd(), at) }))?;
    Ok(())
}

/// Marks every descriptor from `first` on as closed by execve, whoever opened it.
pub(crate) fn close_from_on_exec(first: u32) -> io::Result<()> {
    // SAFETY: integers only; descriptors stay open until execve, so no owner is surprised.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
    })?;
    Ok(())
}

/// Every signal as the kernel's default, none blocked: execve keeps what is ignored (as Rust does
/// with SIGPIPE) and what is blocked.
pub(crate) fn reset_signals() -> io::Result<()> {
    // The kernel's sigaction, all zero: SIG_DFL, no flags, no mask. Its longest form (mips) has 32
    // bytes. The C library's own call would leave out the two signals that it keeps for itself.
    let default = [0u64; 4];
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        // SAFETY: `default` is a whole kernel sigaction and lives through the call; SIG_DFL runs no
        // code of ours; the mask's size is eight bytes on every architecture but mips, where the
        // call fails and changes nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                8,
            );
        }
    }
    // SAFETY: sigset_t is plain data; sigemptyset fills it before use.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(i64::from(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())))?;
    }
    Ok(())
}

/// Closes every descriptor from `first` on but those to keep. For a child that never returns to
/// where owners of others would close them once more.
pub(crate) fn close_except(first: i32, keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<i32> = keep.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    let mut from = first;
    for number in numbers.into_iter().filter(|number| *number >= first).chain([-1]) {
        let to = if number < 0 { u32::MAX } else { number.cast_unsigned().wrapping_sub(1) };
        if number < 0 || number > from {
            // SAFETY: integers only; see above for the owners.
            check(unsafe { libc::syscall(libc::SYS_close_range, from.cast_unsigned(), to, 0) })?;
        }
        from = number + 1;
    }
    Ok(())
}

extern "C" fn leave(signal: libc::c_int) {
    // SAFETY: _exit may be called in a handler, and has no conditions.
    unsafe { libc::_exit(128 + signal) }
}

/// Lets the signals that end a process end this one, though it may be the first of a pid namespace,
/// to which the kernel gives none that it does not handle. Until execve.
pub(crate) fn end_on_signals() -> io::Result<()> {
    let signals = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
    ];
    for signal in signals {
        // SAFETY: sigaction is plain data for which zeroes are valid; the handler calls nothing but
        // _exit.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = leave as extern "C" fn(libc::c_int) as usize;
            check(i64::from(libc::sigaction(signal, &action, std::ptr::null_mut())))?;
        }
    }
    Ok(())
}

/// Whether this process may execute `path`, by its effective ids.
pub(crate) fn may_execute(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is NUL-terminated and lives through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS,
        )
    })?;
    Ok(())
}

/// Replaces this process; returns only with an error.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    }
    if args.is_empty() {
        return errno(libc::EINVAL);
    }
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: `path` and all strings are NUL-terminated, both arrays end in null, and all of them
    // live through the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Puts descriptors at `first` and the numbers after it, open over execve.
pub(crate) fn place_from(first: i32, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    // Out of the way first, so that none is overwritten before it is copied.
    let after = first + fds.len() as i32;
    let mut away = Vec::new();
    for fd in fds {
        // SAFETY: integers only; a success is a new descriptor, closed by execve.
        let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, after) };
        away.push(check(i64::from(copy))? as i32);
    }
    for (at, fd) in (first..).zip(away) {
        // SAFETY: what is at these numbers belongs to owners in this process, a forked child that
        // ends in execve or _exit: none of them is used or dropped any more.
        check(i64::from(unsafe { libc::dup2(fd, at) }))?;
    }
    Ok(())
}
