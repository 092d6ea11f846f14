//! Bytes of a connection to ttrpc frames. Pure; memory is bounded by one frame plus one read.

use serde::{Deserialize, Serialize};
use wharf_proto::ttrpc::{FrameError, HEADER_LEN, Header};

/// What the bytes hold next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A whole frame.
    Frame(Header, Vec<u8>),
    /// A frame over the limit on this stream: its data is skipped as it comes.
    TooLong { stream: u32, error: FrameError },
    /// Not ttrpc: nothing more can be understood.
    Broken(FrameError),
    /// More bytes are needed.
    Wait,
}

/// What has come in and is not a frame yet.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
    at: usize,
    /// Bytes to come that belong to a frame over the limit.
    skip: u64,
}

impl Reader {
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        if self.skip > 0 {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            bytes = &bytes[skipped..];
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn next(&mut self) -> Next {
        let pending = &self.bytes[self.at..];
        let Some((head, data)) = pending.split_first_chunk::<HEADER_LEN>() else {
            self.tidy();
            return Next::Wait;
        };
        match Header::decode(*head) {
            Ok(header) => match data.get(..header.len) {
                Some(data) => {
                    let data = data.to_vec();
                    self.at += HEADER_LEN + header.len;
                    Next::Frame(header, data)
                }
                None => {
                    self.tidy();
                    Next::Wait
                }
            },
            Err(error @ FrameError::TooLong { len, stream }) => {
                let here = u64::from(len).min(data.len() as u64);
                self.skip = u64::from(len) - here;
                self.at += HEADER_LEN + usize::try_from(here).unwrap_or(0);
                Next::TooLong { stream, error }
            }
            Err(error @ FrameError::UnknownType(_)) => Next::Broken(error),
        }
    }

    /// Frees what has been handed out; all of it when nothing is pending.
    fn tidy(&mut self) {
        if self.at == self.bytes.len() {
            self.bytes = Vec::new();
        } else if self.at > 0 {
            self.bytes.drain(..self.at);
        }
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Next, Reader};
    use proptest::prelude::*;
    use wharf_proto::ttrpc::{FrameType, HEADER_LEN, Header, MAX_DATA_LEN};

    fn frame(stream: u32, data: &[u8]) -> Vec<u8> {
        let header = Header { len: data.len(), stream, frame_type: FrameType::Request, flags: 0 };
        [&header.encode()[..], data].concat()
    }

    fn all(reader: &mut Reader) -> Vec<Next> {
        let mut found = Vec::new();
        loop {
            match reader.next() {
                Next::Wait => return found,
                broken @ Next::Broken(_) => {
                    found.push(broken);
                    return found;
                }
                next => found.push(next),
            }
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_skipped() {
        let mut head = [0_u8; HEADER_LEN];
        let len = u32::try_from(MAX_DATA_LEN + 5).expect("small");
        head[..4].copy_from_slice(&len.to_be_bytes());
        head[7] = 3;
        head[8] = 1;
        let mut reader = Reader::default();
        reader.feed(&head);
        assert!(matches!(all(&mut reader)[..], [Next::TooLong { stream: 3, .. }]));
        let mut rest = vec![0xff; MAX_DATA_LEN + 5];
        rest.extend(frame(5, b"ok"));
        for piece in rest.chunks(70_000) {
            reader.feed(piece);
            let found = all(&mut reader);
            assert!(reader.bytes.len() <= 70_000, "skipped data is not kept");
            if let [Next::Frame(header, data)] = &found[..] {
                assert_eq!((header.stream, &data[..]), (5, &b"ok"[..]));
                return;
            }
            assert!(found.is_empty());
        }
        panic!("the frame after it was lost");
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            sizes in proptest::collection::vec(0..2000_usize, 0..8),
            cut in 1..700_usize,
        ) {
            let mut bytes = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                bytes.extend(frame(number as u32, &vec![number as u8; *size]));
            }
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                reader.feed(piece);
                found.extend(all(&mut reader));
            }
            prop_assert_eq!(found.len(), sizes.len());
            for (number, (next, size)) in found.into_iter().zip(sizes).enumerate() {
                let Next::Frame(header, data) = next else { panic!("not a frame") };
                prop_assert_eq!(header.stream as usize, number);
                prop_assert_eq!(data, vec![number as u8; size]);
            }
            prop_assert!(reader.bytes.is_empty());
        }

        /// Any bytes at all: no panic, and memory stays bounded by what was fed.
        #[test]
        fn any_bytes(pieces in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..64), 0..40)) {
            let mut reader = Reader::default();
            for piece in pieces {
                reader.feed(&piece);
                if matches!(all(&mut reader).last(), Some(Next::Broken(_))) {
                    break;
                }
                prop_assert!(reader.bytes.len() <= 64 * 40);
            }
        }
    }
}
