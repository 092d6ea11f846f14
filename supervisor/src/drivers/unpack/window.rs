//! Memory for the windows of Zstandard's decoders. A frame names the window that its reader has to
//! keep, so a layer could ask for as much as it likes.
//!
//! Small windows are given at once; all others share a bounded room, and wait for each other there.
//! What is larger than the room is refused.
//!
//! Source: RFC 8878, 3.1.1.1, "Frame_Header".

use std::{
    io,
    sync::{Condvar, Mutex, PoisonError},
};

/// The frame's mark and its header at most.
pub(super) const HEADER_BYTES: usize = 18;
/// 8 MiB: what every reader should have, and what nearly all writers ask for.
const USUAL_LOG: u32 = 23;
/// 1 MiB: not worth to be counted.
const SMALL_LOG: u32 = 20;
/// 32 MiB, of one or of several together: the most that writers of layers ask for.
const MOST_LOG: u32 = 25;

static USED: Mutex<u64> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// Room for one window; given back on drop.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Of the shared room.
    bytes: u64,
}

impl Room {
    /// Takes what a stream that begins like this needs. Blocks while others have it.
    ///
    /// # Errors
    /// When there is no such room at all.
    pub(super) fn take(first: &[u8]) -> io::Result<Self> {
        // Not known before what comes first has been skipped: as much as there is.
        let bytes = window(first).unwrap_or(1 << MOST_LOG);
        if bytes <= 1 << SMALL_LOG {
            return Ok(Self::default());
        }
        if bytes > 1 << MOST_LOG {
            let text = format!(
                "it needs a window of {} MiB in memory, and has at most {} MiB",
                bytes.div_ceil(1 << 20),
                (1_u64 << MOST_LOG) >> 20
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        while *used + bytes > 1 << MOST_LOG {
            used = FREED.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Ok(Self { bytes })
    }

    /// What later frames may ask for, too.
    pub(super) fn window_log(&self) -> u32 {
        if self.bytes == 0 { USUAL_LOG } else { self.bytes.ilog2().max(USUAL_LOG) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            *USED.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
            FREED.notify_all();
        }
    }
}

/// Bytes of the window that a frame asks for; none if it does not begin with one of data.
fn window(frame: &[u8]) -> Option<u64> {
    let rest = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (&descriptor, rest) = rest.split_first()?;
    let is_single = descriptor & 0x20 != 0;
    if !is_single {
        let byte = *rest.first()?;
        let base = 1_u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * u64::from(byte & 7));
    }
    // All in one piece: the window is the content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let len = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let bytes = rest.get(dictionary..dictionary + len)?;
    let mut size = [0; 8];
    size[..len].copy_from_slice(bytes);
    let size = u64::from_le_bytes(size);
    Some(if len == 2 { size + 256 } else { size })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::{Room, window};

    fn frame(level: i32, window_log: u32, announce: bool, len: usize) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).expect("an encoder");
        encoder.window_log(window_log).expect("a window");
        encoder.include_contentsize(announce).expect("a choice");
        if announce {
            encoder.set_pledged_src_size(Some(len as u64)).expect("a size");
        }
        encoder.write_all(&vec![7; len]).expect("data");
        encoder.finish().expect("a frame")
    }

    #[test]
    fn what_writers_write_is_read() {
        assert_eq!(window(&frame(1, 20, false, 100_000)), Some(1 << 20));
        assert_eq!(window(&frame(1, 24, false, 100_000)), Some(1 << 24));
        for len in [100, 1000, 70_000] {
            assert_eq!(window(&frame(1, 24, true, len)), Some(len as u64), "{len}");
        }
        assert_eq!(window(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]), None);
        assert_eq!(window(b""), None);
    }

    #[test]
    fn room_is_bounded() {
        assert!(Room::take(&frame(1, 26, false, 1000)).is_err());
        // Both at once would not fit.
        let one = Room::take(&frame(1, 25, false, 1000)).expect("room");
        assert_eq!(one.window_log(), 25);
        let waiting = std::thread::spawn(|| {
            let two = Room::take(&frame(1, 24, false, 1000)).expect("room");
            two.window_log()
        });
        assert_eq!(Room::take(&frame(1, 20, false, 1000)).expect("small").window_log(), 23);
        drop(one);
        assert_eq!(waiting.join().expect("it got room"), 24);
    }
}
