//! Ways in for the fuzz targets in `tests/fuzz`, which are compiled with `cfg(fuzzing)`, and for
//! the short test below. Each takes any bytes and panics only when a promise is broken.

use crate::logic::frames::{Next, Reader};
use wharf_proto::ttrpc::{FrameType, HEADER_LEN, MAX_DATA_LEN};

/// A connection's bytes: the first says how the rest is cut. Whatever the cut, the frames are the
/// same.
pub fn frames(bytes: &[u8]) {
    let Some((&cut, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes.chunks(bytes.len().max(1)));
    let pieces = read(bytes.chunks(usize::from(cut).max(1)));
    assert_eq!(whole, pieces, "the cut changed what was read");
}

/// Stream and length of each frame up to the first that is broken.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<(u32, usize)> {
    let mut reader = Reader::default();
    let mut found = Vec::new();
    for piece in pieces {
        reader.feed(piece);
        loop {
            match reader.next() {
                Next::Wait => break,
                Next::Broken(_) => return found,
                Next::TooLong { stream, .. } => found.push((stream, usize::MAX)),
                Next::Frame(header, data) => {
                    assert_eq!(header.len, data.len());
                    assert!(header.len <= MAX_DATA_LEN);
                    if header.frame_type == FrameType::Request {
                        let _ = <wharf_proto::ttrpc::Request as prost::Message>::decode(&data[..]);
                    }
                    found.push((header.stream, data.len() + HEADER_LEN));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wharf_proto::ttrpc::{FrameType, Request, frame};

    proptest! {
        /// Good frames with some bytes changed.
        #[test]
        fn mutated_frames(
            cut in any::<u8>(),
            sizes in proptest::collection::vec(0..300_usize, 1..6),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let mut bytes = vec![cut];
            for (number, size) in (0_u32..).zip(sizes) {
                let request = Request { payload: vec![7; size], ..Default::default() };
                bytes.extend(frame(FrameType::Request, 2 * number + 1, &request).expect("fits"));
            }
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            super::frames(&bytes);
        }
    }
}
