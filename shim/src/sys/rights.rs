//! Bytes with descriptors over a unix socket (`SCM_RIGHTS`).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use wharf_proto::ttrpc::{FrameError, HEADER_LEN, Header};

use super::SysError;
use super::sockets::Moved;

/// Descriptors with one message, at most.
pub(crate) const MAX: usize = 16;

/// Bytes, and the descriptors that came with them.
pub(crate) type WithDescriptors = (Vec<u8>, Vec<OwnedFd>);

/// Sends what the socket takes; the descriptors go with the first byte, or not at all.
pub(crate) fn send(socket: impl std::os::fd::AsFd, bytes: &[u8], fds: &[OwnedFd]) -> Moved {
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let sent = sendmsg::<UnixAddr>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        flags,
        None,
    );
    match sent {
        Ok(count) => Moved::Bytes(count),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Moved::Blocked,
        Err(_) => Moved::Closed,
    }
}

/// One ttrpc frame with its descriptors, from a socket that is somebody's to wait on. `None`: it
/// is no socket, or nothing was sent.
pub(crate) fn receive_frame(
    socket: BorrowedFd<'_>,
    patience: Duration,
) -> Result<Option<WithDescriptors>, SysError> {
    let failed = |source: std::io::Error| SysError::new("receive", "kept state", source);
    let until = Instant::now() + patience;
    let mut bytes = Vec::new();
    let mut fds = Vec::new();
    loop {
        if let Some(head) = bytes.first_chunk::<HEADER_LEN>() {
            let header = Header::decode(*head)
                .map_err(|error: FrameError| failed(std::io::Error::other(error)))?;
            if bytes.len() >= HEADER_LEN + header.len {
                return Ok(Some((bytes[HEADER_LEN..HEADER_LEN + header.len].to_vec(), fds)));
            }
        }
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() || !super::process::wait_end(socket, rest) {
            return Err(failed(std::io::ErrorKind::TimedOut.into()));
        }
        let (piece, more) = match receive(socket) {
            Ok(received) => received,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::ENOTSOCK) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        };
        fds.extend(more);
        match piece.len() {
            0 if bytes.is_empty() => return Ok(None),
            0 => return Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            _ => bytes.extend_from_slice(&piece),
        }
    }
}

/// One receive.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> nix::Result<WithDescriptors> {
    let mut buffer = vec![0; 64 << 10];
    let mut control = nix::cmsg_space!([RawFd; MAX]);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            fds.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let count = message.bytes;
    buffer.truncate(count);
    Ok((buffer, fds))
}
