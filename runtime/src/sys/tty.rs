//! Terminals: a pair out of a given devpts, its size, and the controlling terminal.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

/// Unlocks the slave of an open `ptmx` and opens it without going through any path, so nothing
/// that the container put in the way can be opened instead.
pub(crate) fn open_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int that lives through the call; TIOCGPTPEER takes flags and
    // gives a new descriptor that is ours alone.
    unsafe {
        check(i64::from(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock)))?;
        let fd = check(i64::from(libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Sets the size of a terminal's window.
pub(crate) fn set_size(tty: BorrowedFd<'_>, cols: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize that lives through the call.
    check(i64::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &size) }))?;
    Ok(())
}

/// Makes a terminal the controlling one of this session.
pub(crate) fn take_control(tty: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(i64::from(unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSCTTY, 0) }))?;
    Ok(())
}
