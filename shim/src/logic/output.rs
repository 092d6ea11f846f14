//! Output of an exec, held until a reader says that it has it. Pure.
//!
//! Offsets count both streams together from the first byte on. What is held can be read as often
//! as it takes: a reader whose connection broke asks again and gets the same bytes. It goes when a
//! reader says that it has it.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

use wharf_proto::kind::Kind;

use super::lines::Stream;

/// The pipe is not read while this much is held. One read and what is in the pipe when the
/// process ends may go beyond.
pub(crate) const HIGH_WATER: usize = 64 << 10;

/// The offset asked for is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output is held from offset {first} to {end}, offset {asked} is outside")]
pub(crate) struct OutsideError {
    asked: u64,
    first: u64,
    end: u64,
}

impl OutsideError {
    pub(crate) fn kind(self) -> Kind {
        Kind::OutOfRange
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Chunk {
    stream: Stream,
    data: Vec<u8>,
}

/// What is held.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Output {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are released.
    skip: usize,
    first: u64,
    held: usize,
}

/// An answer to a reader.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) chunks: Vec<(Stream, Vec<u8>)>,
    pub(crate) next: u64,
    /// Nothing is held beyond the answer.
    pub(crate) drained: bool,
}

impl Output {
    pub(crate) fn push(&mut self, stream: Stream, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.held += data.len();
        match self.chunks.back_mut() {
            Some(last) if last.stream == stream && last.data.len() + data.len() <= HIGH_WATER => {
                last.data.extend_from_slice(data);
            }
            Some(_) | None => self.chunks.push_back(Chunk { stream, data: data.to_vec() }),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held >= HIGH_WATER
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.held as u64
    }

    /// Answers with at most `max` bytes from `offset` on.
    pub(crate) fn read(&self, offset: u64, max: usize) -> Result<Taken, OutsideError> {
        let end = self.end();
        if offset < self.first || offset > end {
            return Err(OutsideError { asked: offset, first: self.first, end });
        }
        let mut skip = self.skip + usize::try_from(offset - self.first).unwrap_or(self.held);
        let mut left = max;
        let mut chunks = Vec::new();
        for chunk in &self.chunks {
            if skip >= chunk.data.len() {
                skip -= chunk.data.len();
                continue;
            }
            let data = &chunk.data[skip..];
            let data = &data[..data.len().min(left)];
            if data.is_empty() {
                break;
            }
            chunks.push((chunk.stream, data.to_vec()));
            left -= data.len();
            skip = 0;
        }
        let next = offset + (max - left) as u64;
        Ok(Taken { chunks, next, drained: next == end })
    }

    /// Lets go of all below `offset`. Released already is fine; beyond the end is not.
    pub(crate) fn release(&mut self, offset: u64) -> Result<(), OutsideError> {
        if offset > self.end() {
            return Err(OutsideError { asked: offset, first: self.first, end: self.end() });
        }
        let Some(count) = offset.checked_sub(self.first) else { return Ok(()) };
        let mut count = usize::try_from(count).unwrap_or(self.held).min(self.held);
        self.first = offset;
        self.held -= count;
        while let Some(chunk) = self.chunks.front() {
            let length = chunk.data.len() - self.skip;
            if count < length {
                self.skip += count;
                return Ok(());
            }
            count -= length;
            self.skip = 0;
            self.chunks.pop_front();
        }
        self.chunks.shrink_to_fit();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{HIGH_WATER, Output, Stream};
    use proptest::prelude::*;

    #[test]
    fn the_same_offset_gives_the_same_bytes() {
        let mut output = Output::default();
        output.push(Stream::Stdout, b"hello ");
        output.push(Stream::Stderr, b"world");
        let first = output.read(0, 8).expect("held");
        assert_eq!(
            first.chunks,
            [(Stream::Stdout, b"hello ".to_vec()), (Stream::Stderr, b"wo".to_vec())]
        );
        assert_eq!((first.next, first.drained), (8, false));
        assert_eq!(output.read(0, 8).expect("held"), first);
        output.release(8).expect("held");
        output.release(3).expect("released already is fine");
        let rest = output.read(8, 100).expect("held");
        assert_eq!((rest.next, rest.drained), (11, true));
        assert_eq!(output.read(10, 9).expect("held").chunks, [(Stream::Stderr, b"d".to_vec())]);
        assert!(output.read(7, 1).is_err(), "released");
        assert!(output.read(12, 1).is_err(), "not yet written");
        assert!(output.release(12).is_err(), "not yet written");
    }

    #[test]
    fn full_at_the_mark() {
        let mut output = Output::default();
        output.push(Stream::Stdout, &vec![0; HIGH_WATER]);
        assert!(output.is_full());
        output.release(1).expect("held");
        assert!(!output.is_full());
    }

    proptest! {
        /// Against a plain vector of tagged bytes.
        #[test]
        fn like_a_vector(steps in proptest::collection::vec((any::<bool>(), 0..300_usize, 0..300_usize), 0..60)) {
            let mut output = Output::default();
            let mut model: Vec<(bool, u8)> = Vec::new();
            let mut at = 0_usize;
            for (is_stdout, length, take) in steps {
                let stream = if is_stdout { Stream::Stdout } else { Stream::Stderr };
                let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
                output.push(stream, &data);
                model.extend(data.iter().map(|&byte| (is_stdout, byte)));
                output.release(at.saturating_sub(take / 2) as u64).expect("held");
                let taken = output.read(at as u64, take).expect("held");
                let bytes: Vec<(bool, u8)> = taken.chunks.iter()
                    .flat_map(|(stream, data)| data.iter().map(|&byte| (*stream == Stream::Stdout, byte)))
                    .collect();
                let end = (at + take).min(model.len());
                prop_assert_eq!(&bytes[..], &model[at..end]);
                prop_assert_eq!(taken.drained, end == model.len());
                at = end;
            }
        }
    }
}
