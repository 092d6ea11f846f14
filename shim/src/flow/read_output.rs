//! `ReadOutput`: the held output of an exec, from an offset on; answered when there is some.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

use super::Error;
use super::pump::Turn;
use super::shim::{Outcome, Shim, Ticket};
use crate::logic::ids::ProcessRef;
use crate::sys::clock;

/// Of one answer, when the request names none; also the most that it may name.
const DEFAULT_BYTES: usize = 64 << 10;
const MAX_BYTES: usize = 1 << 20;
/// Calls that wait at a time.
const MAX_READERS: usize = 256;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct ReadOutput {
    pub(crate) of: ProcessRef,
    pub(crate) offset: u64,
    /// What the reader will not ask for again; `None`: all below the offset.
    pub(crate) release_below: Option<u64>,
    /// 0: the shim chooses.
    pub(crate) max_bytes: usize,
    /// To be answered within, empty if need be; `None`: no matter how long.
    pub(crate) within: Option<Duration>,
}

/// A call that waits for output.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reader {
    pub(crate) ticket: Ticket,
    #[serde(skip)]
    pub(crate) until: Option<Instant>,
    number: u32,
    offset: u64,
    release_below: u64,
    max_bytes: usize,
}

impl Shim {
    pub(crate) fn read_output(
        &mut self,
        request: &ReadOutput,
        ticket: Ticket,
    ) -> Result<(), Error> {
        let process = self.find_mut(&request.of)?;
        if !process.holds_output {
            return Err(Error::NotHeld);
        }
        if self.readers.len() >= MAX_READERS {
            return Err(Error::TooMany { what: "calls wait for output", limit: MAX_READERS });
        }
        let max_bytes = match request.max_bytes {
            0 => DEFAULT_BYTES,
            bytes => bytes.min(MAX_BYTES),
        };
        let process = self.find(&request.of)?;
        let reader = Reader {
            ticket,
            // A little early: the answer needs its time to arrive.
            until: request.within.map(|within| clock::now() + within.mul_f32(0.9)),
            number: process.number,
            offset: request.offset,
            release_below: request.release_below.unwrap_or(request.offset),
            max_bytes,
        };
        if let Some(completion) = self.try_answer(&reader, Wait::Yes) {
            self.completions.push(completion);
        } else {
            self.readers.push(reader);
        }
        Ok(())
    }

    /// Output of a process has come, or ended.
    pub(crate) fn answer_readers_of(&mut self, number: u32) {
        if self.readers.iter().any(|reader| reader.number == number) {
            self.answer(|reader| (reader.number == number).then_some(Wait::Yes));
        }
    }

    /// Calls whose time is over get what there is: nothing.
    pub(crate) fn answer_readers(&mut self, now: Instant) {
        if self.readers.iter().any(|reader| reader.until.is_some_and(|until| until <= now)) {
            self.answer(|reader| {
                reader.until.is_some_and(|until| until <= now).then_some(Wait::No)
            });
        }
    }

    fn answer(&mut self, which: impl Fn(&Reader) -> Option<Wait>) {
        for reader in std::mem::take(&mut self.readers) {
            match which(&reader).and_then(|wait| self.try_answer(&reader, wait)) {
                Some(completion) => self.completions.push(completion),
                None => self.readers.push(reader),
            }
        }
    }

    /// `None`: there is nothing to say yet.
    fn try_answer(
        &mut self,
        reader: &Reader,
        wait: Wait,
    ) -> Option<(Ticket, Result<Outcome, Error>)> {
        let Some(process) = self.processes.get_mut(&reader.number) else {
            return Some((reader.ticket, Err(Error::Deleted)));
        };
        // First what the reader has is released; then there may be room to read on.
        let was_full = process.output.is_full();
        if let Err(error) = process.output.release(reader.release_below) {
            return Some((reader.ticket, Err(error.into())));
        }
        if was_full && !process.output.is_full() {
            self.run_pumps(reader.number, Turn::Share, |_| true);
        }
        let process = self.processes.get_mut(&reader.number)?;
        let taken = match process.output.read(reader.offset, reader.max_bytes) {
            Ok(taken) => taken,
            Err(error) => return Some((reader.ticket, Err(error.into()))),
        };
        let has_ended = process.exit.is_some() && process.output_ended();
        let is_end = has_ended && taken.drained;
        if taken.chunks.is_empty() && !is_end && wait == Wait::Yes {
            return None;
        }
        let outcome = Outcome::Output { chunks: taken.chunks, next: taken.next, is_end };
        Some((reader.ticket, Ok(outcome)))
    }
}

/// Whether a call may be left waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
}
