//! Reads tar: ustar, GNU and PAX, with long names, sparse files and extended attributes.
//!
//! Written for hostile input: nothing is allocated by a length that the archive names before it has
//! been compared with [`Limits`], and sparse maps are checked. What the names mean is left to the
//! caller. File data is lent straight from the source's buffer, never copied here.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead};

pub use header::EntryKind;
pub use sparse::Extent;

use super::Limits;
use header::{BLOCK, Header};
use pax::Pax;

/// Why bytes are not a tar, or not one that is accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source failed.
    #[error("read the archive")]
    Read(#[source] io::Error),
    /// It ends inside of something.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// A header is not one.
    #[error("the archive has a header that is not tar's: {0}")]
    Header(&'static str),
    /// A number or record that makes no sense.
    #[error("the archive has a bad {field} of {entry:?}")]
    Field {
        /// Which.
        field: &'static str,
        /// Of the entry with this name.
        entry: String,
    },
    /// A type of entry that no image has.
    #[error("the archive has an entry {entry:?} of the unknown type {kind:?}")]
    Kind {
        /// The type flag.
        kind: char,
        /// Its name.
        entry: String,
    },
    /// More than is allowed.
    #[error("the archive has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
}

/// One entry. Names are bytes as they came.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its path.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, with set-id and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime_s: i64,
    /// And nanoseconds.
    pub mtime_ns: u32,
    /// Bytes of the file, holes included.
    pub size: u64,
    /// Where its data goes, of a sparse file.
    pub sparse: Option<Vec<Extent>>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries one after another.
#[derive(Debug)]
pub struct TarReader<R> {
    source: R,
    limits: Limits,
    /// Data of the current entry not read yet, and the padding after it.
    data_left: u64,
    padding: u64,
    global: Pax,
    entries: u64,
    ended: bool,
}

impl<R: BufRead> TarReader<R> {
    /// Reads from `source`.
    pub fn new(source: R, limits: Limits) -> Self {
        Self {
            source,
            limits,
            data_left: 0,
            padding: 0,
            global: Pax::default(),
            entries: 0,
            ended: false,
        }
    }

    /// The next entry; what is left of the current one's data is skipped. None at the end.
    ///
    /// # Errors
    /// When the bytes are not a tar, or ask for too much.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut local = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        loop {
            self.skip_data()?;
            let Some(block) = self.header_block()? else { return Ok(None) };
            let header = Header::parse(&block)?;
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(Error::Limit { what: "entries", limit: self.limits.entries });
            }
            self.begin_data(header.data_size)?;
            match header.flag {
                b'x' => {
                    let bytes = self.header_data(&header)?;
                    local = Pax::parse(&bytes, &self.limits)?;
                }
                b'g' => {
                    let bytes = self.header_data(&header)?;
                    self.global = Pax::parse(&bytes, &self.limits)?;
                }
                b'L' => long_path = Some(text(self.header_data(&header)?)),
                b'K' => long_link = Some(text(self.header_data(&header)?)),
                // A volume's label.
                b'V' => {}
                _ => {
                    let mut header = header;
                    if let Some(path) = long_path {
                        header.path = path;
                    }
                    if let Some(link) = long_link {
                        header.link = link;
                    }
                    return self.entry(&block, header, &local).map(Some);
                }
            }
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        mut header: Header,
        local: &Pax,
    ) -> Result<Entry, Error> {
        let global = std::mem::take(&mut self.global);
        global.amend(&mut header)?;
        local.amend(&mut header)?;
        self.global = global;
        let kind = header.kind()?;
        let mut size = header.data_size;
        if matches!(kind, EntryKind::File) {
            self.begin_data(size)?;
        } else {
            size = 0;
            self.begin_data(0)?;
        }
        let mut sparse = None;
        if header.flag == b'S' {
            let (extents, real) = sparse::read_old_gnu(self, block, &header)?;
            (sparse, size) = (Some(extents), real);
        } else if let Some(asked) = local.sparse() {
            let (extents, real, name) = sparse::read_pax(self, asked, &header)?;
            (sparse, size) = (Some(extents), real);
            if let Some(name) = name {
                header.path = name;
            }
        }
        if let Some(extents) = &sparse {
            sparse::check(extents, size, self.data_left, &header)?;
        }
        for name in [&header.path, &header.link] {
            if name.len() > self.limits.path_bytes {
                let limit = self.limits.path_bytes as u64;
                return Err(Error::Limit { what: "bytes in a path", limit });
            }
            if name.contains(&0) {
                return Err(header.bad("path"));
            }
        }
        Ok(Entry {
            path: header.path,
            link: header.link,
            kind,
            mode: header.mode & 0o7777,
            uid: header.uid,
            gid: header.gid,
            mtime_s: header.mtime_s,
            mtime_ns: header.mtime_ns,
            size,
            sparse,
            xattrs: local.xattrs().to_vec(),
        })
    }

    /// Lends the next bytes of the current entry's data; empty at its end.
    ///
    /// # Errors
    /// When the source fails or ends.
    pub fn data(&mut self) -> Result<&[u8], Error> {
        if self.data_left == 0 {
            return Ok(&[]);
        }
        let left = self.data_left;
        let bytes = self.source.fill_buf().map_err(Error::Read)?;
        if bytes.is_empty() {
            return Err(Error::Truncated);
        }
        let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        Ok(&bytes[..n])
    }

    /// Takes back `n` lent bytes: they have been used.
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n as u64 <= self.data_left, "no more than was lent");
        self.source.consume(n);
        self.data_left -= n as u64;
    }

    /// The source, behind the end of the archive or wherever the reading stopped.
    pub fn into_inner(self) -> R {
        self.source
    }

    fn begin_data(&mut self, len: u64) -> Result<(), Error> {
        if len > i64::MAX as u64 {
            return Err(Error::Header("size"));
        }
        self.data_left = len;
        self.padding = len.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        let mut left = self.data_left + self.padding;
        while left > 0 {
            let bytes = self.source.fill_buf().map_err(Error::Read)?;
            if bytes.is_empty() {
                // Some writers leave out the padding of the last entry.
                if left <= self.padding {
                    break;
                }
                return Err(Error::Truncated);
            }
            let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.source.consume(n);
            left -= n as u64;
        }
        self.data_left = 0;
        self.padding = 0;
        Ok(())
    }

    /// The whole data of an extended header.
    fn header_data(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let limit = self.limits.header_bytes;
        if header.data_size > limit {
            return Err(Error::Limit { what: "bytes in an extended header", limit });
        }
        let mut bytes = Vec::new();
        while self.data_left > 0 {
            let lent = self.data()?;
            let n = lent.len();
            bytes.extend_from_slice(lent);
            self.consume(n);
        }
        Ok(bytes)
    }

    /// A block of the current entry's data, for the sparse maps that begin it.
    fn data_block(&mut self) -> Result<[u8; BLOCK], Error> {
        self.data_left = self.data_left.checked_sub(BLOCK as u64).ok_or(Error::Truncated)?;
        self.block()?.ok_or(Error::Truncated)
    }

    /// A block between header and data, which no size counts.
    fn extra_block(&mut self) -> Result<[u8; BLOCK], Error> {
        self.block()?.ok_or(Error::Truncated)
    }

    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        if self.ended {
            return Ok(None);
        }
        if let Some(block) = self.block()? {
            if block != [0; BLOCK] {
                return Ok(Some(block));
            }
            // Two blocks of zeroes are the end; one and then something is nobody's tar.
            if self.block()?.is_some_and(|block| block != [0; BLOCK]) {
                return Err(Error::Header("one block of zeroes in the middle"));
            }
        }
        self.ended = true;
        Ok(None)
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let bytes = self.source.fill_buf().map_err(Error::Read)?;
            if bytes.is_empty() {
                return if have == 0 { Ok(None) } else { Err(Error::Truncated) };
            }
            let n = bytes.len().min(BLOCK - have);
            block[have..have + n].copy_from_slice(&bytes[..n]);
            self.source.consume(n);
            have += n;
        }
        Ok(Some(block))
    }
}

/// The bytes before the first NUL.
fn text(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests;
