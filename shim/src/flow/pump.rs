//! Output of a process, from its pipe or pty to where it goes.
//!
//! Nothing here waits. What a sink does not take now is kept (bounded), and the source is not
//! read until it has been taken: the container feels a full pipe, and no byte is lost. Only
//! [`Pump::arm`] talks to the poller.

use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::keep::KeptOutput;
use super::log::Log;
use crate::logic::lines::{MIN_OUT, Stream, Tail};
use crate::logic::output::Output;
use crate::sys::journal::{self, Level};
use crate::sys::memory::Scratch;
use crate::sys::pipes;
use crate::sys::poller::{Interest, Poller, Token};

/// Bytes of one read.
const READ: usize = 64 << 10;
/// Bytes of scratch memory that a turn uses: a read, and lines made of it.
pub(crate) const SCRATCH: usize = READ + 2 * MIN_OUT;
/// Bytes of one turn: then others are served.
const TURN: usize = 1 << 20;
/// More than any pipe or pty of ours holds: what a dead process wrote is within it.
const DRAIN: usize = 1 << 20;
/// A pipe that is found full is made this large.
const LARGE_PIPE: i32 = 256 << 10;

/// Where output goes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Sink {
    Discard,
    /// The task's log.
    Log,
    /// The process' [`Output`].
    Held,
    File {
        #[serde(with = "crate::sys::handover::fd")]
        fd: OwnedFd,
        /// Read and not taken yet, at most one read.
        pending: Vec<u8>,
    },
}

impl Sink {
    pub(crate) fn file(fd: OwnedFd) -> Self {
        Self::File { fd, pending: Vec::new() }
    }
}

/// How much a turn may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A fair share.
    Share,
    /// All that is in the pipe: its writer is dead.
    Drain,
}

/// What a pump needs beside itself.
#[derive(Debug)]
pub(crate) struct Tools<'a> {
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) log: Option<&'a mut Log>,
    pub(crate) held: &'a mut Output,
}

/// What the poller has of a pump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Watched {
    source: bool,
    sink: bool,
}

/// One stream of output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pump {
    pub(crate) stream: Stream,
    #[serde(with = "crate::sys::handover::optional_fd")]
    source: Option<OwnedFd>,
    /// To be closed by [`Pump::arm`]: a pty's duplicates share one entry's life in the poller, so
    /// closing alone would not take it out.
    is_over: bool,
    sink: Sink,
    #[serde(skip)]
    watched: Watched,
    is_large: bool,
}

/// What a read brought.
enum Got {
    Bytes(usize),
    Nothing,
    End,
}

impl Pump {
    pub(crate) fn new(stream: Stream, source: Option<OwnedFd>, sink: Sink) -> Self {
        Self { stream, source, is_over: false, sink, watched: Watched::default(), is_large: false }
    }

    pub(crate) fn set_source(&mut self, source: OwnedFd) {
        self.source = Some(source);
    }

    /// For a keeper; `None`: it has ended, or is held in memory.
    pub(crate) fn kept(&self) -> Option<KeptOutput<BorrowedFd<'_>>> {
        let source = self.source.as_ref().filter(|_| !self.is_over)?;
        let (is_logged, sink) = match &self.sink {
            Sink::Log => (true, None),
            Sink::File { fd, .. } => (false, Some(fd.as_fd())),
            Sink::Discard => (false, None),
            Sink::Held => return None,
        };
        Some(KeptOutput { stream: self.stream, source: Some(source.as_fd()), is_logged, sink })
    }

    /// The source has ended, or was closed.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_over || self.source.is_none()
    }

    /// Something was read that its sink has not taken.
    pub(crate) fn has_pending(&self) -> bool {
        matches!(&self.sink, Sink::File { pending, .. } if !pending.is_empty())
    }

    /// The sink takes no more for now, although there may be more.
    pub(crate) fn is_behind(&self) -> bool {
        self.has_pending() || self.source.as_ref().is_some_and(|fd| pipes::readable(fd) > 0)
    }

    fn has_room(&self, turn: Turn, tools: &Tools<'_>) -> bool {
        match (&self.sink, turn) {
            (Sink::File { pending, .. }, Turn::Share | Turn::Drain) => pending.is_empty(),
            (Sink::Discard | Sink::Log | Sink::Held, Turn::Drain) | (Sink::Discard, _) => true,
            (Sink::Log, Turn::Share) => tools.log.as_ref().is_none_or(|log| !log.is_blocked()),
            (Sink::Held, Turn::Share) => !tools.held.is_full(),
        }
    }

    /// Moves what can be moved now.
    pub(crate) fn run(&mut self, turn: Turn, tools: &mut Tools<'_>) {
        self.flush();
        let limit = match turn {
            Turn::Share => TURN,
            Turn::Drain => DRAIN,
        };
        let mut moved = 0;
        // Bytes at the start of the buffer that wait for the rest of their line.
        let mut kept = 0;
        while moved < limit && !self.is_over && self.has_room(turn, tools) {
            let count = match self.read(tools.scratch, kept) {
                Got::Bytes(count) => count,
                Got::Nothing => break,
                Got::End => {
                    self.is_over = true;
                    break;
                }
            };
            moved += count;
            let filled = kept + count;
            let is_full = filled == READ;
            if is_full {
                self.enlarge();
            }
            let tail = if is_full && moved < limit { Tail::Keep } else { Tail::Flush };
            kept = self.give(filled, tail, tools);
            if !is_full && turn == Turn::Share {
                break;
            }
        }
        if kept > 0 {
            self.give(kept, Tail::Flush, tools);
        }
    }

    fn read(&self, scratch: &mut Scratch, kept: usize) -> Got {
        let Some(source) = &self.source else { return Got::Nothing };
        let read = scratch.get().and_then(|buffer| pipes::read(source, &mut buffer[kept..READ]));
        match read {
            Ok(Some(0)) => Got::End,
            Ok(Some(count)) => Got::Bytes(count),
            Ok(None) => Got::Nothing,
            Err(error) => {
                journal::write(Level::Error, "cannot read output", &[("error", &error)]);
                Got::End
            }
        }
    }

    /// Hands the first `filled` bytes of the buffer on; answers how many of them are kept, at its
    /// start, for their line to be completed.
    fn give(&mut self, filled: usize, tail: Tail, tools: &mut Tools<'_>) -> usize {
        let Ok(buffer) = tools.scratch.get() else { return 0 };
        let (input, out) = buffer.split_at_mut(READ);
        let bytes = &input[..filled];
        match &mut self.sink {
            Sink::Discard => 0,
            Sink::Held => {
                tools.held.push(self.stream, bytes);
                0
            }
            Sink::File { fd, pending } => {
                // Straight from the buffer: only what is not taken is copied.
                let taken = match pending.is_empty().then(|| pipes::write(&*fd, bytes)) {
                    Some(Ok(Some(count))) => count,
                    // What is wrong is found again below.
                    Some(Ok(None) | Err(_)) | None => 0,
                };
                if taken < bytes.len() {
                    pending.extend_from_slice(&bytes[taken..]);
                    self.flush();
                }
                0
            }
            Sink::Log => {
                let Some(log) = tools.log.as_deref_mut() else { return 0 };
                let consumed = log.append(self.stream, bytes, tail, out);
                input.copy_within(consumed..filled, 0);
                filled - consumed
            }
        }
    }

    /// Tries to be rid of what is pending.
    fn flush(&mut self) {
        let Sink::File { fd, pending } = &mut self.sink else { return };
        while !pending.is_empty() {
            match pipes::write(&*fd, pending) {
                Ok(Some(count)) => {
                    pending.drain(..count);
                }
                Ok(None) => return,
                Err(error) => {
                    journal::write(Level::Warn, "output is lost", &[("error", &error)]);
                    self.sink = Sink::Discard;
                    return;
                }
            }
        }
        // An idle pump holds no memory.
        *pending = Vec::new();
    }

    fn enlarge(&mut self) {
        if let (false, Some(source)) = (self.is_large, &self.source) {
            self.is_large = true;
            pipes::enlarge(source, LARGE_PIPE);
        }
    }

    /// Tells the poller what this pump waits for.
    pub(crate) fn arm(&mut self, number: u32, tools: &Tools<'_>, poller: &Poller) {
        if self.is_over {
            self.close_source(poller);
        }
        let wants_source = self.source.is_some() && self.has_room(Turn::Share, tools);
        if let Some(source) = &self.source {
            let token = Token::Source(number, self.stream);
            watch(poller, source, token, Interest::Read, self.watched.source, wants_source);
        }
        self.watched.source = wants_source;
        let wants_sink = self.has_pending();
        if let Sink::File { fd, .. } = &self.sink {
            let token = Token::Sink(number, self.stream);
            watch(poller, fd, token, Interest::Write, self.watched.sink, wants_sink);
        }
        self.watched.sink = wants_sink;
        if self.is_over && !wants_sink {
            self.close_sink(poller);
        }
    }

    /// A reader of a named pipe is to see its end now, not when the process is deleted.
    fn close_sink(&mut self, poller: &Poller) {
        let Sink::File { fd, .. } = &self.sink else { return };
        if std::mem::replace(&mut self.watched.sink, false) {
            poller.remove(fd);
        }
        self.sink = Sink::Discard;
    }

    /// The process has ended and that is told: what a slow reader has not taken yet goes on, all
    /// else is over.
    pub(crate) fn end(&mut self, poller: &Poller) {
        if matches!(self.sink, Sink::File { .. }) && self.is_behind() {
            return;
        }
        self.is_over = true;
        self.close_source(poller);
        self.close_sink(poller);
    }

    /// Lets go of the source: nothing more is wanted of it.
    pub(crate) fn close_source(&mut self, poller: &Poller) {
        if let Some(source) = self.source.take() {
            if self.watched.source {
                poller.remove(&source);
            }
            self.watched.source = false;
        }
    }
}

/// Adds to or takes from the poller's set, when that changes.
fn watch(
    poller: &Poller,
    fd: &OwnedFd,
    token: Token,
    interest: Interest,
    is_watched: bool,
    wanted: bool,
) {
    match (is_watched, wanted) {
        (false, true) => {
            if let Err(error) = poller.add(fd, token, interest) {
                journal::write(Level::Error, "cannot watch", &[("error", &journal::chain(&error))]);
            }
        }
        (true, false) => poller.remove(fd),
        (true, true) | (false, false) => {}
    }
}
