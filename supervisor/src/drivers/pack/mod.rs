//! From the changes of a container to a layer's tar, as the OCI image spec has it.
//!
//! The same changes make the same bytes: entries in the order of the walk, no names of users, no time
//! of the writing. What is gone becomes `.wh.NAME`, an opaque folder gets `.wh..wh..opq` before all
//! that is in it. Owners, modes, times to the nanosecond, hard links, devices, extended attributes
//! with capabilities, and holes are kept; sockets, which mean nothing without their process, are not.

mod header;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::FileExt as _},
};

use rustix::{
    fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, major, minor, openat, readlinkat, seek},
    io::Errno,
};

use super::{
    files::Owners,
    snapshots::{Change, ChangeKind, Now, xattrs},
};
use header::{Header, Kind, Records};

const BUFFER_BYTES: usize = 128 << 10;
/// Holes of one file that are kept as such; what is beyond is written as zeros.
const MAX_EXTENTS: usize = 10_000;
/// Writes a layer.
#[derive(Debug)]
pub struct Packer<W: Write> {
    out: W,
    /// Names of files with several.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Whether anything but the root has been written.
    is_empty: bool,
    buffer: Vec<u8>,
    owners: Owners,
    holes: Holes,
}

/// What becomes of the holes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holes {
    /// They stay holes, in a form that not every reader knows.
    Kept,
    /// Zeros, for any reader.
    Filled,
}

impl<W: Write> Packer<W> {
    /// A layer that goes to `out`.
    pub fn new(out: W) -> Self {
        Self { holes: Holes::Kept, ..Self::for_anyone(out, Owners::default()) }
    }

    /// A tar that any program reads, of files whose owners are others in the container.
    pub fn for_anyone(out: W, owners: Owners) -> Self {
        let (buffer, holes) = (vec![0; BUFFER_BYTES], Holes::Filled);
        Self { out, links: HashMap::new(), is_empty: true, buffer, owners, holes }
    }

    fn header_of(&self, stat: &Stat, kind: Kind) -> Header<'static> {
        let (uid, gid) = self.owners.inside(stat.st_uid, stat.st_gid);
        Header { uid, gid, ..of(stat, kind) }
    }

    /// Adds a change.
    ///
    /// # Errors
    /// When the file can't be read or the tar not be written.
    pub fn change(&mut self, change: &Change<'_>) -> io::Result<()> {
        if change.kind == ChangeKind::Deleted {
            if change.covered {
                return Ok(());
            }
            return self.mark(&marked(change.path, b".wh."));
        }
        let Some(now) = &change.now else { return Ok(()) };
        match FileType::from_raw_mode(now.stat.st_mode) {
            FileType::Directory => {
                self.folder(change.path, now)?;
                if change.opaque {
                    let path = [change.path, b"/.wh..wh..opq"].concat();
                    self.mark(path.strip_prefix(b"/").unwrap_or(&path))?;
                }
                Ok(())
            }
            FileType::RegularFile => self.file(change.path, now),
            FileType::Symlink => match readlinkat(now.dir, now.name, Vec::new()) {
                Ok(target) => {
                    let header = Header {
                        link: target.as_bytes(),
                        ..self.header_of(now.stat, Kind::Symlink)
                    };
                    self.entry(change.path, &header, now)
                }
                Err(Errno::NOENT | Errno::INVAL) => Ok(()),
                Err(e) => Err(e.into()),
            },
            FileType::CharacterDevice => self.device(change.path, now, Kind::Char),
            FileType::BlockDevice => self.device(change.path, now, Kind::Block),
            FileType::Fifo => self.entry(change.path, &self.header_of(now.stat, Kind::Fifo), now),
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    /// Ends the tar. Answers with where it went, and whether there was nothing in it.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn finish(mut self) -> io::Result<(W, bool)> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()?;
        Ok((self.out, self.is_empty))
    }

    fn mark(&mut self, path: &[u8]) -> io::Result<()> {
        self.is_empty = false;
        let header = Header { mode: 0o644, ..Header::default() };
        header.write(path, &Records::default(), &mut self.out)
    }

    fn folder(&mut self, path: &[u8], now: &Now<'_>) -> io::Result<()> {
        // The root is there in any case.
        let named = if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() };
        self.entry(&named, &self.header_of(now.stat, Kind::Folder), now)
    }

    fn device(&mut self, path: &[u8], now: &Now<'_>, kind: Kind) -> io::Result<()> {
        let number = now.stat.st_rdev;
        let device = Some((major(number), minor(number)));
        self.entry(path, &Header { device, ..self.header_of(now.stat, kind) }, now)
    }

    fn entry(&mut self, path: &[u8], header: &Header<'_>, now: &Now<'_>) -> io::Result<()> {
        if self.is_second_name(path, header, now.stat)? {
            return Ok(());
        }
        self.is_empty = false;
        let mut records = Records::default();
        attributes(now, &mut records)?;
        header.write(path, &records, &mut self.out)
    }

    /// A file that has been written under another name becomes a link to that.
    fn is_second_name(
        &mut self,
        path: &[u8],
        header: &Header<'_>,
        stat: &Stat,
    ) -> io::Result<bool> {
        if stat.st_nlink < 2 || header.kind == Kind::Folder {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            let link = Header { kind: Kind::HardLink, link: first, size: 0, ..header.clone() };
            link.write(path, &Records::default(), &mut self.out)?;
            return Ok(true);
        }
        self.links.insert(key, path.to_vec());
        Ok(false)
    }

    fn file(&mut self, path: &[u8], now: &Now<'_>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(now.dir, now.name, flags, Mode::empty()) {
            Ok(file) => file,
            // Gone or replaced since it was looked at: it runs on.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let now = Now { stat: &stat, ..*now };
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let header = Header { size, ..self.header_of(&stat, Kind::File) };
        if self.is_second_name(path, &header, &stat)? {
            return Ok(());
        }
        self.is_empty = false;
        let mut records = Records::default();
        attributes(&now, &mut records)?;
        let has_holes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512 < size;
        let extents =
            if has_holes && self.holes == Holes::Kept { extents(&file, size)? } else { None };
        let file = File::from(file);
        match extents {
            Some(extents) => self.sparse(path, &file, &header, records, &extents),
            None => {
                header.write(path, &records, &mut self.out)?;
                self.data(&file, 0, size)?;
                self.pad(size)
            }
        }
    }

    /// GNU's form 1.0 in PAX, which Go's, Python's and libarchive's readers know.
    fn sparse(
        &mut self,
        path: &[u8],
        file: &File,
        header: &Header<'_>,
        mut records: Records,
        extents: &[(u64, u64)],
    ) -> io::Result<()> {
        let mut map = format!("{}\n", extents.len());
        for (offset, len) in extents {
            map.push_str(&format!("{offset}\n{len}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        records.add(b"GNU.sparse.major", b"1");
        records.add(b"GNU.sparse.minor", b"0");
        records.add(b"GNU.sparse.name", path);
        records.add(b"GNU.sparse.realsize", header.size.to_string().as_bytes());
        let data: u64 = extents.iter().map(|(_, len)| len).sum();
        let size = map.len() as u64 + data;
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        let stand_in = [b"GNUSparseFile.0/", &name[..name.len().min(80)]].concat();
        Header { size, ..header.clone() }.write(&stand_in, &records, &mut self.out)?;
        self.out.write_all(&map)?;
        for (offset, len) in extents {
            self.data(file, *offset, *len)?;
        }
        self.pad(size)
    }

    /// Exactly so many bytes: a file that grows is cut, one that shrinks goes on with zeros.
    fn data(&mut self, file: &File, mut offset: u64, mut left: u64) -> io::Result<()> {
        while left > 0 {
            let want = usize::try_from(left).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
            let read = match file.read_at(&mut self.buffer[..want], offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let n = if read == 0 {
                self.buffer[..want].fill(0);
                want
            } else {
                read
            };
            self.out.write_all(&self.buffer[..n])?;
            offset += n as u64;
            left -= n as u64;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.out.write_all(&[0; 512][..rest])
    }
}

fn of(stat: &Stat, kind: Kind) -> Header<'static> {
    Header {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_s: stat.st_mtime,
        mtime_ns: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        ..Header::default()
    }
}

/// `a/b` with a mark before its last component.
fn marked(path: &[u8], mark: &[u8]) -> Vec<u8> {
    let start = path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    [&path[..start], mark, &path[start..]].concat()
}

/// Where the data of a file is; none when that can't be said or is not worth it.
fn extents(file: &OwnedFd, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if end > start {
            extents.push((start, end - start));
        }
        if extents.len() > MAX_EXTENTS {
            return Ok(None);
        }
        at = end.max(start + 1);
    }
    if extents.first() == Some(&(0, size)) {
        return Ok(None);
    }
    // By convention an extent of no bytes at the end says how long the file is.
    if extents.last().is_none_or(|(offset, len)| offset + len < size) {
        extents.push((size, 0));
    }
    Ok(Some(extents))
}

/// Adds the extended attributes of what is told of.
fn attributes(now: &Now<'_>, records: &mut Records) -> io::Result<()> {
    for (name, value) in xattrs(now)? {
        // A record's key ends at the first =.
        if !name.contains(&b'=') {
            records.add(&[b"SCHILY.xattr.", &name[..]].concat(), &value);
        }
    }
    Ok(())
}

/// Counts and hashes what passes.
#[derive(Debug)]
pub struct Hashing<W> {
    /// Where it goes on.
    pub inner: W,
    /// Of all that has passed.
    pub hasher: super::content::Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
