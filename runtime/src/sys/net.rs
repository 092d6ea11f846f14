//! The network namespace's loopback interface.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// Switches `lo` on in the network namespace of this process.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: no pointers; a success is a new descriptor that is ours alone.
    let socket = unsafe {
        let fd = check(i64::from(libc::socket(
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        )))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    // SAFETY: ifreq is plain data for which zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, whose name is NUL-terminated and whose union holds the
    // flags; it lives through the call.
    check(i64::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request)
    }))?;
    Ok(())
}
