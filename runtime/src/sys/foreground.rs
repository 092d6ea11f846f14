//! What a command in the foreground of a terminal needs: signals as a descriptor, raw mode, sizes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// All signals, blocked, and read from a descriptor instead.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

/// Signals that have a meaning of their own here.
pub(crate) const CHILD: i32 = libc::SIGCHLD;
pub(crate) const WINDOW: i32 = libc::SIGWINCH;
pub(crate) const URGENT: i32 = libc::SIGURG;
pub(crate) const PIPE: i32 = libc::SIGPIPE;

impl Signals {
    pub(crate) fn take() -> io::Result<Self> {
        // SAFETY: sigset_t is plain data that sigfillset fills; it lives through the calls. A
        // success of signalfd is a new descriptor that is ours alone.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            check(i64::from(libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut())))?;
            let fd =
                check(i64::from(libc::signalfd(-1, &all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)))?;
            Ok(Self(OwnedFd::from_raw_fd(fd as i32)))
        }
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// The next signal, if one has come.
    pub(crate) fn next(&self) -> Option<i32> {
        let mut info = [0u8; std::mem::size_of::<libc::signalfd_siginfo>()];
        // SAFETY: pointer and length are of one live buffer.
        let got = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), info.len()) };
        // The number is the structure's first field.
        (got as usize == info.len())
            .then(|| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

/// A terminal in raw mode; as it was when dropped.
#[derive(Debug)]
pub(crate) struct Raw {
    tty: OwnedFd,
    before: libc::termios,
}

impl Raw {
    /// `None`: not a terminal.
    pub(crate) fn enter(tty: BorrowedFd<'_>) -> Option<Self> {
        // SAFETY: termios is plain data that tcgetattr fills; it lives through the calls.
        unsafe {
            let mut before: libc::termios = std::mem::zeroed();
            check(i64::from(libc::tcgetattr(tty.as_raw_fd(), &mut before))).ok()?;
            let mut raw = before;
            libc::cfmakeraw(&mut raw);
            check(i64::from(libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &raw))).ok()?;
            Some(Self { tty: tty.try_clone_to_owned().ok()?, before })
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: `before` is a whole termios; a failure leaves the terminal raw, and there is
        // nobody to tell.
        unsafe { libc::tcsetattr(self.tty.as_raw_fd(), libc::TCSANOW, &self.before) };
    }
}

/// Newlines come out of a terminal as they went in: who reads it here writes them to a terminal
/// that does its own.
pub(crate) fn keep_newlines(tty: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: termios is plain data that tcgetattr fills; it lives through the calls.
    unsafe {
        let mut settings: libc::termios = std::mem::zeroed();
        check(i64::from(libc::tcgetattr(tty.as_raw_fd(), &mut settings)))?;
        settings.c_oflag &= !libc::ONLCR;
        check(i64::from(libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &settings)))?;
    }
    Ok(())
}

/// Columns and rows of a terminal.
pub(crate) fn size(tty: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills one winsize that lives through the call.
    check(i64::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &mut size) })).ok()?;
    Some((size.ws_col, size.ws_row))
}

/// Which of the descriptors can be read (or have ended), waiting until one can.
pub(crate) fn wait_readable<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
) -> io::Result<[bool; N]> {
    let mut polls = fds.map(|fd| libc::pollfd {
        fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the array lives through the call and the count is its length; -1 entries are skipped.
    check(i64::from(unsafe { libc::poll(polls.as_mut_ptr(), N as libc::nfds_t, -1) }))?;
    Ok(polls.map(|poll| poll.revents != 0))
}

/// Orphans of this process' descendants come to it.
pub(crate) fn become_subreaper() -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }))?;
    Ok(())
}

/// Reaps any child that has ended (an orphan that came here), but for `spare`.
pub(crate) fn reap_orphans(spare: i32) {
    loop {
        // SAFETY: siginfo_t is plain data for which zeroes are a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` lives through the call.
        let done = unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) };
        // SAFETY: waitid filled the SIGCHLD part, or left the zeroes.
        let pid = if done == 0 { unsafe { info.si_pid() } } else { 0 };
        if pid == 0 || pid == spare {
            return;
        }
        // SAFETY: a null status is allowed.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    }
}
