//! The talk between a parent and the child it has just forked: whole messages, and descriptors.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{check, errno};

/// Longest message; a failure's text is cut to it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// Room for a control message with one descriptor, aligned as cmsghdr wants.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// One end of a pair of sockets that keep message boundaries.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What came in.
pub(crate) enum Received {
    Message {
        bytes: Vec<u8>,
        fd: Option<OwnedFd>,
    },
    /// The other end is closed: its process ended or called execve.
    Closed,
}

impl Channel {
    /// Both ends, close-on-exec.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let mut fds = [0; 2];
        // SAFETY: room for two descriptors, which are ours alone after a success.
        unsafe {
            check(i64::from(libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
                0,
                fds.as_mut_ptr(),
            )))?;
            Ok((Self(OwnedFd::from_raw_fd(fds[0])), Self(OwnedFd::from_raw_fd(fds[1]))))
        }
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(crate) fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = &bytes[..bytes.len().min(MAX_MESSAGE_BYTES)];
        let mut iov =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = Control([0; 64]);
        // SAFETY: msghdr is plain data for which zeroes are a valid value.
        let mut msg: libc::msghdr = unsafe { zeroed() };
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        if let Some(fd) = fd {
            msg.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE only computes.
            msg.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<i32>() as u32) } as _;
            // SAFETY: the control buffer is aligned and, at 64 bytes, longer than CMSG_SPACE(4), so
            // the first header and its data of one int lie inside it.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&msg);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = libc::SCM_RIGHTS;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<i32>() as u32) as _;
                libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd.as_raw_fd());
            }
        }
        // SAFETY: `msg` points at `iov` and `control`, which live through the call; the kernel only
        // reads what iov points at.
        check(unsafe { libc::sendmsg(self.0.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) } as i64)?;
        Ok(())
    }

    /// Waits for one message.
    pub(crate) fn receive(&self, within: Option<Duration>) -> io::Result<Received> {
        if let Some(within) = within
            && !super::process::poll_in(self.0.as_fd(), within)?
        {
            return Err(errno(libc::ETIMEDOUT));
        }
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut control = Control([0; 64]);
        // SAFETY: msghdr is plain data for which zeroes are a valid value.
        let mut msg: libc::msghdr = unsafe { zeroed() };
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        msg.msg_control = control.0.as_mut_ptr().cast();
        msg.msg_controllen = control.0.len() as _;
        let length = loop {
            // SAFETY: `msg` points at buffers of the lengths given, which live through the call.
            let got =
                unsafe { libc::recvmsg(self.0.as_raw_fd(), &mut msg, libc::MSG_CMSG_CLOEXEC) };
            match check(got as i64) {
                Ok(length) => break length as usize,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => break 0,
                Err(e) => return Err(e),
            }
        };
        if length == 0 {
            return Ok(Received::Closed);
        }
        bytes.truncate(length);
        Ok(Received::Message { bytes, fd: descriptor_in(&msg) })
    }
}

fn descriptor_in(msg: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: `msg` was filled by recvmsg; the CMSG macros stay inside msg_controllen. An
    // SCM_RIGHTS message of at least one int holds a new descriptor that is ours alone.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(msg);
        if header.is_null()
            || (*header).cmsg_level != libc::SOL_SOCKET
            || (*header).cmsg_type != libc::SCM_RIGHTS
            || ((*header).cmsg_len as usize) < libc::CMSG_LEN(size_of::<i32>() as u32) as usize
        {
            return None;
        }
        Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()))
    }
}

/// A place in the file system where one process waits for another to come. Named through a
/// descriptor of its directory: a socket's name may have no more than 107 bytes.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    // SAFETY: sockaddr_un is plain data for which zeroes are a valid value.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(errno(libc::ENAMETOOLONG));
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

fn socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a success is a new descriptor that is ours alone.
    unsafe {
        let fd = check(i64::from(libc::socket(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0)))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// A socket that listens in `dir`.
pub(crate) fn listen(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let fd = socket(libc::SOCK_SEQPACKET)?;
    let (address, length) = address(dir, name)?;
    // SAFETY: `address` is a whole sockaddr_un of the length given and lives through the call.
    unsafe {
        check(i64::from(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length)))?;
        check(i64::from(libc::listen(fd.as_raw_fd(), 1)))?;
    }
    Ok(fd)
}

impl Channel {
    /// Waits for the first to come to a listening socket.
    pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: null address and length are allowed; a success is a descriptor that is ours alone.
        unsafe {
            let fd = check(i64::from(libc::accept4(
                listener.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                libc::SOCK_CLOEXEC,
            )))?;
            Ok(Self(OwnedFd::from_raw_fd(fd as i32)))
        }
    }

    /// Comes to the socket that listens in `dir`.
    pub(crate) fn connect(dir: BorrowedFd<'_>, name: &str) -> io::Result<Self> {
        Self::connect_as(libc::SOCK_SEQPACKET, dir, name)
    }

    /// The same to somebody else's socket, which keeps no boundaries.
    pub(crate) fn connect_stream(dir: BorrowedFd<'_>, name: &str) -> io::Result<Self> {
        Self::connect_as(libc::SOCK_STREAM, dir, name)
    }

    fn connect_as(kind: libc::c_int, dir: BorrowedFd<'_>, name: &str) -> io::Result<Self> {
        let fd = socket(kind)?;
        let (address, length) = address(dir, name)?;
        // SAFETY: `address` is a whole sockaddr_un of the length given and lives through the call.
        check(i64::from(unsafe {
            libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length)
        }))?;
        Ok(Self(fd))
    }

    /// For a child that takes it along over execve.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A connected socket made elsewhere.
    pub(crate) fn over(fd: OwnedFd) -> Self {
        Self(fd)
    }
}
