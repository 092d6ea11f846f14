//! One entry's header: ustar, and a PAX header before it for what ustar can't say. Pure.
//!
//! Source: POSIX.1-2017, pax, "pax Interchange Format" and "ustar Interchange Format".

use std::io::{self, Write};

/// Octal fields end in a NUL: 11 digits for sizes and times, 7 for the others.
const MAX_OCTAL_11: u64 = 0o777_7777_7777;
const MAX_OCTAL_7: u32 = 0o777_7777;

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Folder,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::Char => b'3',
            Self::Block => b'4',
            Self::Folder => b'5',
            Self::Fifo => b'6',
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Header<'a> {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) mtime_s: i64,
    pub(super) mtime_ns: u32,
    pub(super) link: &'a [u8],
    pub(super) device: Option<(u32, u32)>,
}

/// Records of a PAX header.
#[derive(Clone, Debug, Default)]
pub(super) struct Records(Vec<u8>);

impl Records {
    /// `LEN KEY=VALUE\n`, where LEN counts itself.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }
}

impl Header<'_> {
    pub(super) fn write(
        &self,
        path: &[u8],
        records: &Records,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let mut records = records.clone();
        if path.len() > 100 {
            records.add(b"path", path);
        }
        if self.link.len() > 100 {
            records.add(b"linkpath", self.link);
        }
        if self.size > MAX_OCTAL_11 {
            records.add(b"size", self.size.to_string().as_bytes());
        }
        for (key, id) in [(b"uid", self.uid), (b"gid", self.gid)] {
            if id > MAX_OCTAL_7 {
                records.add(key, id.to_string().as_bytes());
            }
        }
        let plain_time = u64::try_from(self.mtime_s).ok().filter(|s| *s <= MAX_OCTAL_11);
        if self.mtime_ns != 0 || plain_time.is_none() {
            records.add(b"mtime", decimal(self.mtime_s, self.mtime_ns).as_bytes());
        }
        if !records.0.is_empty() {
            let name = path.rsplit(|b| *b == b'/').find(|part| !part.is_empty()).unwrap_or(b".");
            let name = [b"PaxHeaders.0/", &name[..name.len().min(80)]].concat();
            let size = records.0.len() as u64;
            out.write_all(&Self { size, mode: 0o644, ..Header::default() }.block(&name, b'x', 0))?;
            out.write_all(&records.0)?;
            let rest = records.0.len().next_multiple_of(512) - records.0.len();
            out.write_all(&[0; 512][..rest])?;
        }
        out.write_all(&self.block(path, self.kind.flag(), plain_time.unwrap_or(0)))
    }

    fn block(&self, path: &[u8], flag: u8, mtime: u64) -> [u8; 512] {
        let mut block = [0_u8; 512];
        put(&mut block[..100], path);
        octal(&mut block[100..108], self.mode.into());
        octal(&mut block[108..116], if self.uid > MAX_OCTAL_7 { 0 } else { self.uid.into() });
        octal(&mut block[116..124], if self.gid > MAX_OCTAL_7 { 0 } else { self.gid.into() });
        octal(&mut block[124..136], if self.size > MAX_OCTAL_11 { 0 } else { self.size });
        octal(&mut block[136..148], mtime);
        block[148..156].fill(b' ');
        block[156] = flag;
        put(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let (major, minor) = self.device.unwrap_or((0, 0));
        octal(&mut block[329..337], major.into());
        octal(&mut block[337..345], minor.into());
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        let text = format!("{sum:06o}\0 ");
        block[148..156].copy_from_slice(text.as_bytes());
        block
    }
}

/// What does not fit is in the PAX header.
fn put(field: &mut [u8], bytes: &[u8]) {
    let n = bytes.len().min(field.len());
    field[..n].copy_from_slice(&bytes[..n]);
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    put(field, format!("{value:0digits$o}").as_bytes());
}

/// Seconds with a fraction, also before 1970.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        // -1 s and 0.25 s are -0.75.
        let (whole, rest) = (-(seconds + 1), 1_000_000_000 - nanoseconds);
        return format!("-{whole}.{rest:09}");
    }
    if nanoseconds == 0 { seconds.to_string() } else { format!("{seconds}.{nanoseconds:09}") }
}

#[cfg(test)]
mod tests {
    use super::{Header, Records, decimal};

    #[test]
    fn lengths_count_themselves() {
        for (value, expected) in
            [("b", "6 a=b\n"), ("bbbb", "9 a=bbbb\n"), ("bbbbb", "11 a=bbbbb\n")]
        {
            let mut records = Records::default();
            records.add(b"a", value.as_bytes());
            assert_eq!(String::from_utf8_lossy(&records.0), expected);
        }
    }

    #[test]
    fn times_before_the_epoch() {
        assert_eq!(decimal(5, 250_000_000), "5.250000000");
        assert_eq!(decimal(-1, 250_000_000), "-0.750000000");
        assert_eq!(decimal(-2, 0), "-2");
    }

    #[test]
    fn plain_entries_have_no_second_header() {
        let mut out = Vec::new();
        Header { mode: 0o644, mtime_s: 7, ..Header::default() }
            .write(b"a/b", &Records::default(), &mut out)
            .expect("write");
        assert_eq!(out.len(), 512);
        out.clear();
        Header::default().write(&[b'x'; 101], &Records::default(), &mut out).expect("write");
        assert_eq!(out.len(), 3 * 512);
    }
}
