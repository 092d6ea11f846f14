//! One header block: ustar, GNU or older.

use super::Error;

pub(super) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with data.
    File,
    /// Another name of a file in the archive.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A folder.
    Dir,
    /// A character device.
    Char(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_s: i64,
    pub(super) mtime_ns: u32,
    pub(super) data_size: u64,
    device: (u32, u32),
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, Error> {
        check_sum(block)?;
        let mut path = field(&block[..100]).to_vec();
        // Only ustar has a prefix: GNU keeps other things there.
        let prefix = field(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let mut header = Self {
            path,
            link: field(&block[157..257]).to_vec(),
            flag: block[156],
            mode: 0,
            uid: 0,
            gid: 0,
            mtime_s: 0,
            mtime_ns: 0,
            data_size: 0,
            device: (0, 0),
        };
        let bits = number(&block[100..108]).ok_or_else(|| header.bad("mode"))?;
        header.mode = u32::try_from(bits & 0o7777).unwrap_or(0);
        header.uid = id(&block[108..116]).ok_or_else(|| header.bad("owner"))?;
        header.gid = id(&block[116..124]).ok_or_else(|| header.bad("group"))?;
        header.data_size = number(&block[124..136])
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| header.bad("size"))?;
        header.mtime_s = number(&block[136..148]).ok_or_else(|| header.bad("time"))?;
        if matches!(header.flag, b'3' | b'4') {
            let major = id(&block[329..337]).ok_or_else(|| header.bad("device"))?;
            let minor = id(&block[337..345]).ok_or_else(|| header.bad("device"))?;
            header.device = (major, minor);
        }
        Ok(header)
    }

    pub(super) fn kind(&self) -> Result<EntryKind, Error> {
        Ok(match self.flag {
            // Before ustar a folder was a file whose name ends in a slash.
            b'0' | 0 if self.path.ends_with(b"/") => EntryKind::Dir,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::Char(self.device.0, self.device.1),
            b'4' => EntryKind::Block(self.device.0, self.device.1),
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            other => return Err(Error::Kind { kind: char::from(other), entry: self.name() }),
        })
    }

    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).chars().take(256).collect()
    }

    pub(super) fn bad(&self, field: &'static str) -> Error {
        Error::Field { field, entry: self.name() }
    }
}

/// The sum counts its own field as spaces; old writers added signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), Error> {
    let stored = number(&block[148..156]).ok_or(Error::Header("its checksum is no number"))?;
    let blanked = |i: usize, b: u8| if (148..156).contains(&i) { b' ' } else { b };
    let unsigned: i64 = block.iter().enumerate().map(|(i, b)| i64::from(blanked(i, *b))).sum();
    if stored == unsigned {
        return Ok(());
    }
    let signed: i64 =
        block.iter().enumerate().map(|(i, b)| i64::from(blanked(i, *b).cast_signed())).sum();
    if stored == signed { Ok(()) } else { Err(Error::Header("its checksum does not match")) }
}

fn field(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..len]
}

fn id(bytes: &[u8]) -> Option<u32> {
    number(bytes).and_then(|n| u32::try_from(n).ok())
}

/// Octal digits between blanks, or GNU's big-endian binary with the top bit set. An empty field is 0.
pub(super) fn number(bytes: &[u8]) -> Option<i64> {
    let (&first, rest) = bytes.split_first()?;
    if first & 0x80 != 0 {
        // Bit 6 is the sign.
        let start = if first & 0x40 == 0 { i64::from(first & 0x3f) } else { -1 };
        if start == -1 && first != 0xff {
            return None;
        }
        return rest.iter().try_fold(start, |value, b| {
            value.checked_mul(256).and_then(|v| v.checked_add(i64::from(*b)))
        });
    }
    let digits = bytes.iter().skip_while(|b| **b == b' ');
    let mut value: i64 = 0;
    for b in digits {
        match b {
            b'0'..=b'7' => value = value.checked_mul(8)?.checked_add(i64::from(b - b'0'))?,
            b' ' | 0 => break,
            _ => return None,
        }
    }
    Some(value)
}
