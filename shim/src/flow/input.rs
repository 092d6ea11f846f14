//! Input of a process, from calls or a named pipe to its stdin.
//!
//! What the process does not read waits here, bounded; a call is answered when all of it has been
//! taken. Closing comes after what waits.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Error, Ticket};
use crate::sys::memory::Scratch;
use crate::sys::pipes;
use crate::sys::poller::{Interest, Poller, Token};

/// Bytes that may wait: two calls of the largest size.
const LIMIT: usize = 8 << 20;
/// Bytes of one read from a named pipe.
const READ: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
struct Piece {
    bytes: Vec<u8>,
    at: usize,
    ticket: Option<Ticket>,
}

/// A named pipe that clients write to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Feed {
    #[serde(with = "crate::sys::handover::fd")]
    read: OwnedFd,
    /// While this is open, a client that leaves does not end the input.
    #[serde(with = "crate::sys::handover::optional_fd")]
    keep: Option<OwnedFd>,
    #[serde(skip)]
    is_watched: bool,
}

impl Feed {
    pub(crate) fn new(read: OwnedFd, keep: OwnedFd) -> Self {
        Self { read, keep: Some(keep), is_watched: false }
    }
}

/// Answers that became due.
pub(crate) type Written = Vec<(Ticket, Result<(), Error>)>;

/// Stdin of one process, from our side.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Input {
    /// `None`: closed.
    #[serde(with = "crate::sys::handover::optional_fd")]
    target: Option<OwnedFd>,
    /// To be closed by [`Input::arm`]: a pty's duplicates share one entry's life in the poller,
    /// so closing alone would not take it out.
    is_over: bool,
    is_pty: bool,
    queue: VecDeque<Piece>,
    queued: usize,
    is_closing: bool,
    #[serde(skip)]
    is_watched: bool,
    feed: Option<Feed>,
}

impl Input {
    pub(crate) fn new(target: OwnedFd, is_pty: bool, feed: Option<Feed>) -> Self {
        Self {
            target: Some(target),
            is_over: false,
            is_pty,
            queue: VecDeque::new(),
            queued: 0,
            is_closing: false,
            is_watched: false,
            feed,
        }
    }

    /// The process' stdin for a keeper, unless it is closed or about to be.
    pub(crate) fn kept(&self) -> Option<BorrowedFd<'_>> {
        let is_open = !self.is_over && !self.is_closing;
        self.target.as_ref().filter(|_| is_open).map(AsFd::as_fd)
    }

    /// Takes bytes from a call. Call [`Input::run`] next.
    pub(crate) fn push(&mut self, bytes: Vec<u8>, ticket: Ticket) -> Result<(), Error> {
        if self.target.is_none() || self.is_over || self.is_closing {
            return Err(Error::StdinClosed);
        }
        if self.queued > 0 && self.queued + bytes.len() > LIMIT {
            return Err(Error::StdinFull { queued: self.queued, limit: LIMIT });
        }
        self.queued += bytes.len();
        self.queue.push_back(Piece { bytes, at: 0, ticket: Some(ticket) });
        Ok(())
    }

    /// No more input after what waits. Call [`Input::run`] next.
    pub(crate) fn close(&mut self) {
        match &mut self.feed {
            // The clients' own writers may still be open: the pipe's end closes.
            Some(feed) => feed.keep = None,
            None => self.is_closing = true,
        }
    }

    /// Writes what can be written now, and reads on from the named pipe.
    pub(crate) fn run(&mut self, scratch: &mut Scratch) -> Written {
        let mut written = self.flush();
        if self.queue.is_empty() && !self.is_closing && !self.is_over {
            self.read_feed(scratch);
            written.extend(self.flush());
        }
        if self.queue.is_empty() && self.is_closing && !self.is_over {
            self.end();
        }
        written
    }

    fn read_feed(&mut self, scratch: &mut Scratch) {
        let Some(feed) = &self.feed else { return };
        let Ok(buffer) = scratch.get() else { return };
        match pipes::read(&feed.read, &mut buffer[..READ]) {
            Ok(Some(0)) => self.is_closing = feed.keep.is_none(),
            Ok(Some(count)) => {
                self.queued += count;
                let bytes = buffer[..count].to_vec();
                self.queue.push_back(Piece { bytes, at: 0, ticket: None });
            }
            Ok(None) => {}
            Err(_) => self.is_closing = true,
        }
    }

    fn flush(&mut self) -> Written {
        let mut written = Written::new();
        while let (Some(target), Some(piece)) = (&self.target, self.queue.front_mut()) {
            let rest = &piece.bytes[piece.at..];
            match if rest.is_empty() { Ok(Some(0)) } else { pipes::write(target, rest) } {
                Ok(Some(count)) => {
                    piece.at += count;
                    self.queued -= count;
                }
                Ok(None) => break,
                Err(_) => {
                    // The process closed its stdin, or is gone.
                    written.extend(self.fail());
                    break;
                }
            }
            if piece.at == piece.bytes.len() {
                written.extend(piece.ticket.take().map(|ticket| (ticket, Ok(()))));
                self.queue.pop_front();
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        written
    }

    /// The process is gone: whoever waits is told. Nothing can be written any more.
    pub(crate) fn fail(&mut self) -> Written {
        self.is_over = true;
        self.feed = None;
        self.queued = 0;
        self.queue
            .drain(..)
            .filter_map(|piece| piece.ticket)
            .map(|ticket| (ticket, Err(Error::StdinClosed)))
            .collect()
    }

    fn end(&mut self) {
        if let (true, Some(target)) = (self.is_pty, &self.target) {
            // A terminal has no end of file; its line discipline makes one of this byte.
            if let Some(byte) = pipes::end_of_input(target) {
                let _ = pipes::write(target, &[byte]);
            }
        }
        self.is_over = true;
        self.feed = None;
    }

    /// The caller went away; what it wrote is written all the same.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(Ticket) -> bool) {
        for piece in &mut self.queue {
            piece.ticket = piece.ticket.take().filter(|&ticket| !is_gone(ticket));
        }
    }

    /// Tells the poller what this waits for.
    pub(crate) fn arm(&mut self, number: u32, poller: &Poller) {
        if self.is_over
            && let (Some(target), true) = (self.target.take(), self.is_watched)
        {
            poller.remove(&target);
            self.is_watched = false;
        }
        if let Some(target) = &self.target {
            let wanted = !self.queue.is_empty();
            if wanted && !self.is_watched {
                self.is_watched = poller.add(target, Token::Stdin(number), Interest::Write).is_ok();
            } else if !wanted && self.is_watched {
                poller.remove(target);
                self.is_watched = false;
            }
        }
        if let Some(feed) = &mut self.feed {
            let wanted = self.queue.is_empty();
            if wanted && !feed.is_watched {
                feed.is_watched =
                    poller.add(&feed.read, Token::Feed(number), Interest::Read).is_ok();
            } else if !wanted && feed.is_watched {
                poller.remove(&feed.read);
                feed.is_watched = false;
            }
        }
    }
}
