//! Frames of ttrpc: ten bytes of header, then data. Pure: bytes in, frames out.
//!
//! ```text
//! +----------------+----------------+------+-------+---------+
//! | length, u32 BE | stream, u32 BE | type | flags | data …  |
//! +----------------+----------------+------+-------+---------+
//! ```
//! Source: containerd/ttrpc PROTOCOL.md, version 1.2.

pub use crate::generated::ttrpc::{KeyValue, Request, Response};

/// Bytes of a header.
pub const HEADER_LEN: usize = 10;
/// Bytes of data that a frame may carry.
pub const MAX_DATA_LEN: usize = 4 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// Begins a stream (type 1).
    Request,
    /// Ends a stream (type 2).
    Response,
    /// More of a stream (type 3).
    Data,
}

impl FrameType {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
        }
    }
}

/// The peer sends no more on this stream.
pub const FLAG_REMOTE_CLOSED: u8 = 1;
/// The peer will send data after its request.
pub const FLAG_REMOTE_OPEN: u8 = 2;
/// A data frame that carries none.
pub const FLAG_NO_DATA: u8 = 4;

/// The head of a frame, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of data that follow, at most [`MAX_DATA_LEN`].
    pub len: usize,
    /// Odd: begun by the client.
    pub stream: u32,
    /// What follows.
    pub frame_type: FrameType,
    /// `FLAG_*`.
    pub flags: u8,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the protocol allows. The data can be skipped, and the stream answered.
    #[error("frame of {len} bytes on stream {stream} is over the limit of {MAX_DATA_LEN}")]
    TooLong {
        /// Bytes announced.
        len: u32,
        /// Its stream.
        stream: u32,
    },
    /// A type that no version has. The connection is of no use any more.
    #[error("frame type {0} is not known")]
    UnknownType(u8),
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError`] when it announces too much or a type that does not exist.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, s0, s1, s2, s3, number, flags] = bytes;
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let frame_type = match number {
            1 => FrameType::Request,
            2 => FrameType::Response,
            3 => FrameType::Data,
            other => return Err(FrameError::UnknownType(other)),
        };
        let too_long = FrameError::TooLong { len, stream };
        let len = usize::try_from(len).map_err(|_| too_long)?;
        if len > MAX_DATA_LEN {
            return Err(too_long);
        }
        Ok(Self { len, stream, frame_type, flags })
    }

    /// Writes a header. `len` is bounded by the caller: [`frame`] does.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let len = u32::try_from(self.len).unwrap_or(u32::MAX);
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.stream.to_be_bytes());
        bytes[8] = self.frame_type.number();
        bytes[9] = self.flags;
        bytes
    }
}

/// A whole frame around a message.
///
/// # Errors
/// [`FrameError::TooLong`] when the message does not fit.
pub fn frame<M: prost::Message>(
    frame_type: FrameType,
    stream: u32,
    message: &M,
) -> Result<Vec<u8>, FrameError> {
    let len = message.encoded_len();
    if len > MAX_DATA_LEN {
        return Err(FrameError::TooLong { len: u32::try_from(len).unwrap_or(u32::MAX), stream });
    }
    let mut bytes = Vec::with_capacity(HEADER_LEN + len);
    bytes.extend_from_slice(&Header { len, stream, frame_type, flags: 0 }.encode());
    message.encode(&mut bytes).expect("a Vec grows to what encoded_len said");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{FrameError, FrameType, HEADER_LEN, Header, MAX_DATA_LEN, frame};

    #[test]
    fn header_is_big_endian() {
        let header = Header { len: 0x0102, stream: 3, frame_type: FrameType::Response, flags: 0 };
        let bytes = header.encode();
        assert_eq!(bytes, [0, 0, 1, 2, 0, 0, 0, 3, 2, 0]);
        assert_eq!(Header::decode(bytes), Ok(header));
    }

    #[test]
    fn refuses_what_no_peer_may_send() {
        let mut bytes = [0; HEADER_LEN];
        assert_eq!(Header::decode(bytes), Err(FrameError::UnknownType(0)));
        bytes[8] = 1;
        bytes[..4].copy_from_slice(&u32::try_from(MAX_DATA_LEN + 1).expect("small").to_be_bytes());
        assert!(matches!(Header::decode(bytes), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn frames_carry_the_message() {
        let request = super::Request { service: "s".into(), ..Default::default() };
        let bytes = frame(FrameType::Request, 1, &request).expect("fits");
        assert_eq!(&bytes[..HEADER_LEN], &[0, 0, 0, 3, 0, 0, 0, 1, 1, 0]);
        assert_eq!(&bytes[HEADER_LEN..], &[0x0a, 1, b's']);
    }
}
