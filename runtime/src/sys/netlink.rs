//! A socket to the network part of the kernel, for the namespace in which it was made.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{c_str, check, errno};
use crate::logic::netlink::{Answer, answers};

/// The kernel answers at once; a time in case that it has lost an answer.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// A route netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// In the network namespace of this process.
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: no pointers; a success is a new descriptor that is ours alone.
        unsafe {
            let fd = check(i64::from(libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )))?;
            Ok(Self(OwnedFd::from_raw_fd(fd as i32)))
        }
    }

    /// One that another process opened, in its own namespace.
    pub(crate) fn over(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Asks, and gives the items of the answer.
    pub(crate) fn ask(&self, message: &[u8]) -> io::Result<Vec<(u16, Vec<u8>)>> {
        let (pointer, length) = (message.as_ptr().cast(), message.len());
        // SAFETY: pointer and length are of one live slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), pointer, length, 0) };
        check(sent as i64)?;
        let mut items = Vec::new();
        // A dump's datagram is as long as the reader's buffer allows, 32 KiB at most.
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            if !super::process::poll_in(self.0.as_fd(), DEADLINE)? {
                return Err(errno(libc::ETIMEDOUT));
            }
            // SAFETY: pointer and length are of one live buffer.
            let got = unsafe {
                libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0)
            };
            let length = check(got as i64)? as usize;
            for answer in answers(&buffer[..length]) {
                match answer {
                    Answer::Item(kind, body) => items.push((kind, body)),
                    Answer::End(0) => return Ok(items),
                    Answer::End(number) => return Err(errno(number)),
                }
            }
        }
    }
}

/// The index of a device in this process' network namespace.
pub(crate) fn index_of(name: &str) -> io::Result<u32> {
    let name = c_str(name.as_bytes())?;
    // SAFETY: `name` is NUL-terminated and lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
