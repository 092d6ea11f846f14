//! What a shim's successor needs, kept while the shim lives: the descriptors of its container and
//! its state, both opaque.
//!
//! ```text
//! shim ── Keep: a stream on a connection of its own, descriptors by SCM_RIGHTS ──▶ Keeper
//!      ✝ killed                                                                       │
//! wharf-shim adopt ◀── the newest, over its standard input ───────────────────────────┘
//! ```
//! The newest stands until there is newer: a killed shim closes its connections before its socket,
//! so that one may still connect to it, and get nothing.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream as StdUnixStream,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use prost::Message as _;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
};
use wharf_proto::{
    shim::{KeepRequest, SERVICE},
    ttrpc::{FrameType, HEADER_LEN, Header, Request, frame},
};

use super::ttrpc::RpcError;

/// Most descriptors of one frame (shim.proto).
const MAX_DESCRIPTORS: usize = 16;
const METHOD: &str = "Keep";

/// What a shim gave last.
#[derive(Debug)]
pub struct Kept {
    message: wharf_proto::shim::Kept,
    descriptors: Vec<OwnedFd>,
}

/// Where it is kept; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Keeper(Arc<Mutex<Option<Arc<Kept>>>>);

impl Keeper {
    /// What was given last, if there is something.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes all that is kept.
    pub fn let_go(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn put(&self, kept: Kept) {
        let kept = if kept.message.state.is_empty() { None } else { Some(Arc::new(kept)) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// Keeps what the shim at `socket` gives, until it closes the connection.
    ///
    /// # Errors
    /// [`RpcError`]: nobody listens, or the shim (an older one) knows nothing of this.
    pub async fn keep(&self, socket: &Path) -> Result<(), RpcError> {
        let connect = |source| RpcError::Connect { path: socket.display().to_string(), source };
        let mut stream = UnixStream::connect(socket).await.map_err(connect)?;
        let request = Request {
            service: SERVICE.into(),
            method: METHOD.into(),
            payload: KeepRequest {}.encode_to_vec(),
            ..Default::default()
        };
        let bytes = frame(FrameType::Request, 1, &request)
            .map_err(|source| RpcError::Frame { method: METHOD, source })?;
        let closed = |_| RpcError::Closed { method: METHOD };
        stream.write_all(&bytes).await.map_err(closed)?;
        loop {
            let mut descriptors = Vec::new();
            let mut head = [0; HEADER_LEN];
            match receive(&stream, &mut head, &mut descriptors).await {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                // It was killed with bytes of ours unread.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(e) => return Err(closed(e)),
            }
            let header = Header::decode(head)
                .map_err(|source| RpcError::Frame { method: METHOD, source })?;
            let mut data = vec![0; header.len];
            receive(&stream, &mut data, &mut descriptors).await.map_err(closed)?;
            if header.frame_type != FrameType::Data {
                // The end of the stream, or that there is no such method.
                return Err(RpcError::Closed { method: METHOD });
            }
            let message = wharf_proto::shim::Kept::decode(data.as_slice())
                .map_err(|source| RpcError::Decode { method: METHOD, source })?;
            if usize::try_from(message.descriptors).ok() != Some(descriptors.len()) {
                // This process has no room for more descriptors; some are worse than none.
                tracing::warn!(
                    got = descriptors.len(),
                    told = message.descriptors,
                    "descriptors of a shim did not all arrive"
                );
                continue;
            }
            self.put(Kept { message, descriptors });
        }
    }
}

impl Kept {
    /// Sends it to a shim that takes over. Blocks only if the state is larger than a socket's
    /// buffer.
    ///
    /// # Errors
    /// When the peer is gone.
    pub fn send(&self, to: &StdUnixStream) -> io::Result<()> {
        let bytes = frame(FrameType::Data, 1, &self.message).map_err(io::Error::other)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let sent = sendmsg(to, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        io::Write::write_all(&mut &*to, &bytes[sent..])
    }
}

/// Fills `buffer`; descriptors that come with it are added.
async fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        let read = stream
            .async_io(Interest::READABLE, || once(stream, &mut buffer[filled..], descriptors))
            .await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
    Ok(())
}

fn once(
    stream: &UnixStream,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixListener,
    };

    use super::{FrameType, HEADER_LEN, Keeper, Kept, StdUnixStream};

    fn kept(state: &[u8]) -> (Kept, StdUnixStream) {
        let (ours, theirs) = StdUnixStream::pair().expect("a pair");
        let message = wharf_proto::shim::Kept { state: state.to_vec(), descriptors: 1 };
        (Kept { message, descriptors: vec![theirs.into()] }, ours)
    }

    #[tokio::test]
    async fn the_newest_stands_until_there_is_newer_and_goes_on_to_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let keeper = Keeper::default();
        let keeping = {
            let keeper = keeper.clone();
            tokio::spawn(async move { keeper.keep(&socket).await })
        };
        let shim = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut head = [0; HEADER_LEN];
            stream.read_exact(&mut head).expect("a request");
            let (old, mut old_end) = kept(b"old");
            old.send(&stream).expect("sent");
            drop(old);
            let (new, new_end) = kept(b"new");
            new.send(&stream).expect("sent");
            drop(new);
            // Let go of, when the newer one has come.
            let mut byte = [0];
            assert_eq!(old_end.read(&mut byte).expect("the end"), 0);
            new_end
        });
        let mut new_end =
            tokio::task::spawn_blocking(|| shim.join().expect("no panic")).await.expect("joined");
        // The shim is gone; what it gave last is not.
        assert!(keeping.await.expect("no panic").is_ok());
        let newest = keeper.newest().expect("kept");
        assert_eq!(newest.message.state, b"new");
        let (ours, theirs) = StdUnixStream::pair().expect("a pair");
        newest.send(&ours).expect("sent");
        drop(newest);
        keeper.let_go();
        assert!(keeper.newest().is_none());
        theirs.set_nonblocking(true).expect("set");
        let theirs = tokio::net::UnixStream::from_std(theirs).expect("a stream");
        let (mut descriptors, mut head) = (Vec::new(), [0; HEADER_LEN]);
        super::receive(&theirs, &mut head, &mut descriptors).await.expect("a header");
        let header = super::Header::decode(head).expect("whole");
        assert_eq!(header.frame_type, FrameType::Data);
        let given = descriptors.pop().expect("a descriptor");
        StdUnixStream::from(given).write_all(b"x").expect("the same stream");
        let mut byte = [0];
        new_end.read_exact(&mut byte).expect("what was written");
        assert_eq!(&byte, b"x");
    }
}
