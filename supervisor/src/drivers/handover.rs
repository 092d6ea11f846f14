//! From one supervisor to the next: a socket that carries words and descriptors, and descriptors
//! that a process was started with.
//!
//! The socket is the new process's standard input: nothing of ours runs between fork and exec, and
//! every other descriptor can stay close-on-exec.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};
use serde::{Deserialize, Serialize};

/// Largest message.
const MAX_MESSAGE: usize = 16 << 10;
/// Descriptors in one message, at most.
const MAX_FDS: usize = 8;

/// What the two say to each other, in this order.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// New to old: all that can be looked at beforehand is well.
    Hello(Hello),
    /// Old to new: the store is closed, it is yours. With the descriptors.
    Take(Take),
    /// New to old: calls are taken.
    Serving,
}

/// Who the new one is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Of Wharf.
    pub version: String,
    /// Of the metadata.
    pub schema: u32,
    /// Its `root`.
    pub root: PathBuf,
    /// Its `state`.
    pub state: PathBuf,
}

/// What the new one is given, beside descriptors: the locks of root and state, the listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// Where the listener that is given listens.
    pub address: String,
    /// Somebody else made the listener, and keeps it.
    pub activated: bool,
    /// Of the upgrade.
    pub id: String,
    /// Who gives it.
    pub old_pid: u32,
    /// As above.
    pub old_version: String,
}

/// One end of the socket.
#[derive(Debug)]
pub struct Line(OwnedFd);

impl Line {
    /// Our end, and the other one, for a process to be started with.
    ///
    /// # Errors
    /// Of the system.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), theirs))
    }

    /// The end that this process was started with; standard input is empty from now on.
    ///
    /// # Errors
    /// Of the system; when standard input is no socket.
    pub fn of_stdin() -> io::Result<Self> {
        let line = io::stdin().as_fd().try_clone_to_owned()?;
        sockopt::socket_type(&line)?;
        let null = std::fs::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(null)?;
        Ok(Self(line))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the other is gone.
    pub fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message. Blocks for `limit` at most.
    ///
    /// # Errors
    /// `TimedOut`; `UnexpectedEof` when the other is gone; `InvalidData` when it says something else.
    pub fn receive(&self, limit: Duration) -> io::Result<(Message, Vec<OwnedFd>)> {
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, Some(limit))?;
        let mut text = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut text)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let received = match received {
            Err(rustix::io::Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::CONNRESET) => return Err(io::ErrorKind::UnexpectedEof.into()),
            other => other?,
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(given) = message {
                fds.extend(given);
            }
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((serde_json::from_slice(&text[..received.bytes])?, fds))
    }
}

/// A descriptor that this process was started with, by its number; ours, and close-on-exec, from now
/// on. `None` when it is not open.
///
/// To be called at the start, once a number, before anything else can have opened a descriptor of
/// that number.
#[must_use]
pub fn started_with(fd: i32) -> Option<OwnedFd> {
    if fd <= 2 || !std::path::Path::new("/proc/self/fd").join(fd.to_string()).exists() {
        return None;
    }
    // SAFETY: the descriptor is open (looked up just now), and nobody else owns it: it came with the
    // exec, its number was told by whoever executed us, and this is asked once for it.
    #[expect(unsafe_code, reason = "a number that came with the exec becomes a descriptor")]
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

/// Lets a descriptor cross the next exec.
///
/// # Errors
/// Of the system.
pub fn keep_over_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _, os::fd::AsFd as _, time::Duration};

    use super::{Line, Message};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn words_and_descriptors_arrive() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("f"), "inside").expect("a file");
        let file = File::open(dir.path().join("f")).expect("the file");
        let (ours, theirs) = Line::pair().expect("a pair");
        let theirs = Line(theirs);
        ours.send(&Message::Serving, &[file.as_fd()]).expect("sent");
        let (message, mut fds) = theirs.receive(SOON).expect("received");
        assert_eq!((message, fds.len()), (Message::Serving, 1));
        let mut text = String::new();
        File::from(fds.remove(0)).read_to_string(&mut text).expect("read");
        assert_eq!(text, "inside");
        drop(ours);
        let error = theirs.receive(SOON).expect_err("gone");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn silence_and_nonsense_are_told_apart() {
        let (ours, theirs) = Line::pair().expect("a pair");
        let error = ours.receive(Duration::from_millis(20)).expect_err("nothing was sent");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        rustix::io::write(&theirs, b"hello").expect("written");
        let error = ours.receive(SOON).expect_err("no message of ours");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}
