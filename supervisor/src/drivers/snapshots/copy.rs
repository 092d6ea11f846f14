//! Copies trees of files: owners, modes, times, extended attributes, hard links, devices and holes
//! are kept. Where the file system can share blocks between files, nothing is copied.
//!
//! The source may be hostile and changing; the target is a folder that nobody else writes to.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fstat, futimens, ioctl_ficlone, linkat, lsetxattr, mkdirat, mknodat, openat,
        readlinkat, renameat, statat, symlinkat, utimensat,
    },
    io::Errno,
};

use super::changes::{self, Change, Now, Source, open_beneath};

/// Copies all that is in `from` into the empty folder `to`, which gets the looks of `from`.
///
/// # Errors
/// When the source can't be read or the target not be written.
pub fn copy_tree(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut copier = Copier::new(to);
    changes::walk(Source::Whole, from, None, &HashSet::new(), &mut |change| copier.take(change))?;
    copier.finish()
}

/// Puts a layer in overlay's form over the tree in `to`; what it replaces is moved to `replaced`, on
/// the same file system.
pub(super) fn merge(from: &OwnedFd, to: &OwnedFd, replaced: &OwnedFd) -> io::Result<()> {
    let mut copier = Copier::new(to);
    copier.over = Some(replaced);
    changes::walk(Source::Whole, from, None, &HashSet::new(), &mut |change| copier.take(change))?;
    copier.finish()
}

struct Copier<'a> {
    to: &'a OwnedFd,
    /// Where to move what is in the way; none: nothing is.
    over: Option<&'a OwnedFd>,
    moved: u64,
    /// The folder that was written to last.
    parent: Option<(Vec<u8>, OwnedFd)>,
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Their times change while they are filled.
    folders: Vec<(Vec<u8>, Timestamps)>,
}

impl<'a> Copier<'a> {
    fn new(to: &'a OwnedFd) -> Self {
        let (links, folders) = (HashMap::new(), Vec::new());
        Self { to, over: None, moved: 0, parent: None, links, folders }
    }

    /// Moves what has this name out of the way.
    fn clear(&mut self, name: &[u8]) -> io::Result<()> {
        let Some(aside) = self.over else { return Ok(()) };
        let dir = &self.parent.as_ref().expect("was set before").1;
        // Unique beside what the layers before have replaced.
        self.moved += 1;
        let to = format!("{}-{}", self.to.as_raw_fd(), self.moved);
        match renameat(dir, name, aside, to.as_str()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a folder, or takes the one that is there.
    fn folder(&mut self, now: &Now<'_>, name: &[u8]) -> io::Result<()> {
        let dir = &self.parent.as_ref().expect("was set before").1;
        let make = |dir: &OwnedFd| mkdirat(dir, name, Mode::from_raw_mode(0o700));
        match make(dir) {
            Err(Errno::EXIST) if self.over.is_some() => {
                let there = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_folder = FileType::from_raw_mode(there.st_mode) == FileType::Directory;
                if !is_folder || changes::is_opaque(&now.dir.try_clone_to_owned()?)? {
                    self.clear(name)?;
                    make(&self.parent.as_ref().expect("as above").1)?;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

impl Copier<'_> {
    fn take(&mut self, change: &Change<'_>) -> io::Result<()> {
        let Some(now) = &change.now else { return Ok(()) };
        let (folder, name) = match change.path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&change.path[..slash], &change.path[slash + 1..]),
            None => (&b""[..], change.path),
        };
        if self.parent.as_ref().is_none_or(|(path, _)| path != folder) {
            self.parent = Some((folder.to_vec(), open_beneath(self.to.as_fd(), folder)?));
        }
        let kind = FileType::from_raw_mode(now.stat.st_mode);
        if kind == FileType::Directory {
            let name: &[u8] = if name.is_empty() { b"." } else { name };
            if name != b"." {
                self.folder(now, name)?;
            }
            let dir = &self.parent.as_ref().expect("was set above").1;
            self.folders.push((change.path.to_vec(), times(now.stat)));
            return dress(now, now.stat, dir, name);
        }
        self.clear(name)?;
        let dir = &self.parent.as_ref().expect("was set above").1;
        let key = (now.stat.st_dev, now.stat.st_ino);
        if now.stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&key) {
                let (folder, first) = match first.iter().rposition(|b| *b == b'/') {
                    Some(slash) => (&first[..slash], &first[slash + 1..]),
                    None => (&b""[..], &first[..]),
                };
                let from = open_beneath(self.to.as_fd(), folder)?;
                return Ok(linkat(&from, first, dir, name, AtFlags::empty())?);
            }
            self.links.insert(key, change.path.to_vec());
        }
        match kind {
            FileType::RegularFile => return file(now, dir, name),
            FileType::Symlink => match readlinkat(now.dir, now.name, Vec::new()) {
                Ok(target) => symlinkat(&target, dir, name)?,
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                Err(e) => return Err(e.into()),
            },
            // A mark of overlay's: there is nothing.
            FileType::CharacterDevice if now.stat.st_rdev == 0 => return Ok(()),
            FileType::Unknown => return Ok(()),
            _ => mknodat(dir, name, kind, Mode::from_raw_mode(0o600), now.stat.st_rdev)?,
        }
        dress(now, now.stat, dir, name)?;
        utimensat(dir, name, &times(now.stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        for (path, times) in self.folders.iter().rev() {
            futimens(&open_beneath(self.to.as_fd(), path)?, times)?;
        }
        Ok(())
    }
}

fn file(now: &Now<'_>, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = match openat(now.dir, now.name, flags, Mode::empty()) {
        Ok(from) => from,
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let stat = fstat(&from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = openat(dir, name, flags, Mode::from_raw_mode(0o600))?;
    if stat.st_size > 0 && ioctl_ficlone(&to, &from).is_err() {
        bytes(File::from(from), &mut File::from(to.try_clone()?), &stat)?;
    }
    dress(now, &stat, dir, name)?;
    futimens(&to, &times(&stat))?;
    Ok(())
}

/// What has data; the rest are holes.
fn bytes(mut from: File, to: &mut File, stat: &Stat) -> io::Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    to.set_len(size)?;
    let mut at = 0;
    while at < size {
        let (start, end) = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => (start, rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(start))?),
            Err(Errno::NXIO) => return Ok(()),
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (at, size),
            Err(e) => return Err(e.into()),
        };
        let end = end.min(size);
        if end <= start {
            return Ok(());
        }
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut (&from).take(end - start), to)?;
        at = end;
    }
    Ok(())
}

/// Owner, mode and extended attributes. The owner first: a change of it takes setuid and capabilities
/// away.
fn dress(now: &Now<'_>, stat: &Stat, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // There is no link to follow: we have just made what is there.
        chmodat(dir, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat();
    for (key, value) in changes::xattrs(now)? {
        match lsetxattr(&path[..], &key[..], &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec: i64::try_from(tv_nsec).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
