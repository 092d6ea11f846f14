//! One caller on the socket: bytes in, frames out, and a bound on what waits for it.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::logic::frames::{Next, Reader};
use crate::sys::poller::{Interest, Poller, Token};
use crate::sys::rights;
use crate::sys::sockets::{self, Moved};

/// Answers may wait up to this size; a caller that lets more pile up is dropped.
const MAX_QUEUED: usize = 12 << 20;
/// Bytes of one receive.
const RECEIVE: usize = 16 << 10;
/// Receives of one turn: then others are served.
const RECEIVES: usize = 16;

/// Is the caller still there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    There,
    Gone,
}

/// A caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Connection {
    number: u32,
    #[serde(with = "crate::sys::handover::fd")]
    socket: UnixStream,
    reader: Reader,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that are out.
    sent: usize,
    queued: usize,
    #[serde(skip)]
    watches_write: bool,
    /// Highest stream so far: they only grow.
    pub(crate) last_stream: u32,
    /// Calls that wait for a late answer.
    pub(crate) open_calls: usize,
    /// The stream on which this caller keeps descriptors for the container.
    #[serde(default)]
    pub(crate) keeps: Option<u32>,
    /// The newest frame for it. One that was not sent yet is of no use once there is another.
    #[serde(skip)]
    to_keep: Option<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Connection {
    pub(crate) fn new(number: u32, socket: UnixStream) -> Self {
        Self {
            number,
            socket,
            reader: Reader::default(),
            queue: VecDeque::new(),
            sent: 0,
            queued: 0,
            watches_write: false,
            last_stream: 0,
            open_calls: 0,
            keeps: None,
            to_keep: None,
        }
    }

    pub(crate) fn watch(&self, poller: &Poller) -> Result<(), crate::sys::SysError> {
        poller.add(&self.socket, Token::Connection(self.number), Interest::Read)
    }

    pub(crate) fn unwatch(&self, poller: &Poller) {
        poller.remove(&self.socket);
    }

    /// Takes what has arrived.
    pub(crate) fn receive(&mut self) -> Peer {
        let mut buffer = [0; RECEIVE];
        for _ in 0..RECEIVES {
            match sockets::receive(&self.socket, &mut buffer) {
                Moved::Bytes(count) => {
                    self.reader.feed(&buffer[..count]);
                    if count < RECEIVE {
                        return Peer::There;
                    }
                }
                Moved::Blocked => return Peer::There,
                Moved::Closed => return Peer::Gone,
            }
        }
        Peer::There
    }

    pub(crate) fn next(&mut self) -> Next {
        self.reader.next()
    }

    /// Queues a frame and sends what the socket takes.
    pub(crate) fn send(&mut self, frame: Vec<u8>, poller: &Poller) -> Peer {
        self.queued += frame.len();
        self.queue.push_back(frame);
        if self.queued > MAX_QUEUED {
            return Peer::Gone;
        }
        self.flush(poller)
    }

    /// Queues what a keeper is to have from now on.
    pub(crate) fn send_kept(
        &mut self,
        frame: Vec<u8>,
        descriptors: Vec<OwnedFd>,
        poller: &Poller,
    ) -> Peer {
        self.to_keep = Some((frame, descriptors));
        self.flush(poller)
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self, poller: &Poller) -> Peer {
        while let Some(frame) = self.queue.front() {
            match sockets::send(&self.socket, &frame[self.sent..]) {
                Moved::Bytes(count) => {
                    self.sent += count;
                    self.queued -= count;
                    if self.sent == frame.len() {
                        self.sent = 0;
                        self.queue.pop_front();
                    }
                }
                Moved::Blocked => break,
                Moved::Closed => return Peer::Gone,
            }
        }
        if self.queue.is_empty()
            && let Some((frame, descriptors)) = self.to_keep.take()
        {
            match rights::send(&self.socket, &frame, &descriptors) {
                Moved::Bytes(count) if count < frame.len() => {
                    self.sent = count;
                    self.queued += frame.len() - count;
                    self.queue.push_back(frame);
                }
                Moved::Bytes(_) => {}
                Moved::Blocked => self.to_keep = Some((frame, descriptors)),
                Moved::Closed => return Peer::Gone,
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        let wants_write = !self.queue.is_empty() || self.to_keep.is_some();
        if wants_write != self.watches_write {
            self.watches_write = wants_write;
            let interest = if wants_write { Interest::Both } else { Interest::Read };
            let token = Token::Connection(self.number);
            if poller.modify(&self.socket, token, interest).is_err() {
                return Peer::Gone;
            }
        }
        Peer::There
    }

    /// Everything that was answered has been taken.
    pub(crate) fn is_flushed(&self) -> bool {
        self.queue.is_empty()
    }
}
