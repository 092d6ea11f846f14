//! A tar into a folder of a container.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::Arc,
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, linkat, lsetxattr, mkdirat, mknodat, openat, statat, symlinkat, unlinkat,
        utimensat,
    },
    io::Errno,
};

use super::{Error, Owners, open_in, shown, split};
use crate::drivers::unpack::{
    Limits, decompress,
    tar::{Entry, EntryKind, TarReader},
};

const BUFFER_BYTES: usize = 128 << 10;
/// What overlay keeps for itself.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Whose the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Those that the tar names.
    Owners,
    /// Root.
    Nothing,
}

/// Writes what is in the tar into `folder`. The thread is spent by it where the container has users of
/// its own: it goes on as their root.
///
/// # Errors
/// At the first entry that can't be made; what came before it stays.
pub fn extract(
    source: impl Read + Send,
    root: BorrowedFd<'_>,
    folder: &[u8],
    keep: Keep,
    owners: &Owners,
) -> Result<(), Error> {
    let is_there = open_in(root, folder, OFlags::PATH | OFlags::DIRECTORY);
    drop(is_there.map_err(|e| Error::io("open", folder, e))?);
    owners.become_root().map_err(|source| Error::Io {
        action: "write to",
        path: shown(folder),
        source,
    })?;
    let reader = decompress(source).map_err(Error::Archive)?;
    let reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let mut tar = TarReader::new(reader, Limits::default());
    let mut target =
        Extract { root, folder: folder.to_vec(), keep, owners, parent: None, times: Vec::new() };
    while let Some(entry) = tar.next_entry()? {
        target.entry(&entry, &mut tar)?;
    }
    target.set_times();
    // Whoever sends it waits until all has been read.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map(drop).map_err(Error::Archive)
}

struct Extract<'a> {
    root: BorrowedFd<'a>,
    folder: Vec<u8>,
    keep: Keep,
    owners: &'a Owners,
    /// The folder of the entry before.
    parent: Option<(Vec<u8>, Arc<OwnedFd>)>,
    /// Of folders, which change while something is made in them.
    times: Vec<(Vec<u8>, Timestamps)>,
}

/// Folders whose times are kept.
const MAX_TIMES: usize = 100_000;

struct Place<'a> {
    path: &'a [u8],
    dir: &'a OwnedFd,
    name: &'a [u8],
}

impl Place<'_> {
    fn fail(&self, action: &'static str) -> impl Fn(Errno) -> Error {
        let path = shown(self.path);
        move |e| Error::Io { action, path: path.clone(), source: e.into() }
    }

    fn proc_path(&self) -> Vec<u8> {
        [format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).as_bytes(), self.name].concat()
    }

    fn is_folder(&self) -> Option<bool> {
        let stat = statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }
}

impl Extract<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, tar: &mut TarReader<R>) -> Result<(), Error> {
        let path = self.path(&entry.path)?;
        let Some(path) = path else {
            // The folder itself is as it is.
            return Ok(());
        };
        let (folder, name) = split(&path);
        let dir = self.ensure(folder)?;
        let place = Place { path: &path, dir: &dir, name };
        match entry.kind {
            EntryKind::Dir => return self.make_folder(&place, entry),
            EntryKind::HardLink => return self.hard_link(&place, entry),
            EntryKind::File => {
                let file = file(&place, entry, tar)?;
                self.dress(&place, entry)?;
                drop(file);
                return Ok(());
            }
            EntryKind::Symlink => {
                exclusively(&place, "make the link", || symlinkat(&entry.link[..], &*dir, name))?;
            }
            EntryKind::Char(major, minor) => {
                node(&place, FileType::CharacterDevice, major, minor)?;
            }
            EntryKind::Block(major, minor) => node(&place, FileType::BlockDevice, major, minor)?,
            EntryKind::Fifo => node(&place, FileType::Fifo, 0, 0)?,
        }
        self.dress(&place, entry)
    }

    /// Of an entry, from the root of the container; none for the folder that all go to.
    fn path(&self, entry: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut path = self.folder.clone();
        let before = path.len();
        for part in entry.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    let problem = "an archive's path can't have .. in it";
                    return Err(Error::Path { path: shown(entry), problem });
                }
                name => {
                    path.push(b'/');
                    path.extend_from_slice(name);
                }
            }
        }
        Ok((path.len() > before).then_some(path))
    }

    /// The folder, made as far as it is missing.
    fn ensure(&mut self, folder: &[u8]) -> Result<Arc<OwnedFd>, Error> {
        if let Some((known, dir)) = &self.parent
            && known == folder
        {
            return Ok(Arc::clone(dir));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match open_in(self.root, folder, flags) {
            Err(Errno::NOENT) => {
                let trimmed = folder.strip_suffix(b"/").unwrap_or(folder);
                let (above, name) = split(trimmed);
                if name.is_empty() {
                    return Err(Error::NotFound(shown(folder)));
                }
                let dir = self.ensure(above)?;
                let place = Place { path: trimmed, dir: &dir, name };
                match mkdirat(&*dir, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(place.fail("make")(e)),
                }
                open_in(self.root, folder, flags)
            }
            opened => opened,
        };
        let dir = Arc::new(opened.map_err(|e| Error::io("open", folder, e))?);
        self.parent = Some((folder.to_vec(), Arc::clone(&dir)));
        Ok(dir)
    }

    fn make_folder(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), Error> {
        match mkdirat(place.dir, place.name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                // A link to a folder is one for whoever copies into it, and is left as it is.
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                match place.is_folder() {
                    Some(true) => {}
                    _ if open_in(self.root, place.path, flags).is_ok() => return Ok(()),
                    _ => return Err(Error::FolderInTheWay(shown(place.path))),
                }
            }
            Err(e) => return Err(place.fail("make")(e)),
        }
        self.dress(place, entry)?;
        if self.times.len() < MAX_TIMES {
            self.times.push((place.path.to_vec(), times(entry)));
        }
        Ok(())
    }

    fn hard_link(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), Error> {
        let to_folder = || Error::Path {
            path: shown(&entry.link),
            problem: "a hard link to a folder can't be made",
        };
        let target = self.path(&entry.link)?.ok_or_else(to_folder)?;
        let (folder, name) = split(&target);
        let fail = |e| Error::io("link to", &target, e);
        let from = open_in(self.root, folder, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
        let there = statat(&from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return Err(to_folder());
        }
        if let Ok(taken) = statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW)
            && (taken.st_dev, taken.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        exclusively(place, "link", || linkat(&from, name, place.dir, place.name, AtFlags::empty()))
    }

    /// Owner, mode, attributes and times of what was made.
    fn dress(&self, place: &Place<'_>, entry: &Entry) -> Result<(), Error> {
        let (uid, gid) = match self.keep {
            Keep::Owners => (entry.uid, entry.gid),
            Keep::Nothing => (0, 0),
        };
        let (uid, gid) = self.owners.outside(uid, gid).ok_or_else(|| Error::Path {
            path: shown(place.path),
            problem: "its owner is not in the container's user namespace",
        })?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        chownat(place.dir, place.name, Some(uid), Some(gid), no_follow)
            .map_err(place.fail("set the owner of"))?;
        if entry.kind != EntryKind::Symlink {
            self.set_mode(place, entry)?;
        }
        let path = place.proc_path();
        for (name, value) in &entry.xattrs {
            if OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix)) {
                continue;
            }
            match lsetxattr(&path[..], &name[..], value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(e) => return Err(place.fail("set an extended attribute of")(e)),
            }
        }
        utimensat(place.dir, place.name, &times(entry), no_follow)
            .map_err(place.fail("set the times of"))
    }

    /// By a descriptor of what is there now and is no link: the container may have put one there.
    fn set_mode(&self, place: &Place<'_>, entry: &Entry) -> Result<(), Error> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = place.fail("set the mode of");
        let made = openat(place.dir, place.name, flags, Mode::empty()).map_err(&fail)?;
        let stat = rustix::fs::fstat(&made).map_err(&fail)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Err(fail(Errno::LOOP));
        }
        let path = format!("/proc/self/fd/{}", made.as_raw_fd());
        let mode = Mode::from_raw_mode(entry.mode);
        chmodat(rustix::fs::CWD, path.as_str(), mode, AtFlags::empty()).map_err(fail)
    }

    /// A folder that is gone or another has no times of ours.
    fn set_times(&mut self) {
        for (path, times) in self.times.drain(..) {
            let (folder, name) = split(&path);
            if let Ok(dir) = open_in(self.root, folder, OFlags::PATH | OFlags::DIRECTORY) {
                let _ = utimensat(&dir, name, &times, AtFlags::SYMLINK_NOFOLLOW);
            }
        }
    }
}

/// Runs a call that fails if the name is taken; then takes away what has it, and runs it again.
fn exclusively<T>(
    place: &Place<'_>,
    action: &'static str,
    make: impl Fn() -> Result<T, Errno>,
) -> Result<T, Error> {
    match make() {
        Err(Errno::EXIST) => {
            if place.is_folder() == Some(true) {
                return Err(Error::FolderInTheWay(shown(place.path)));
            }
            unlinkat(place.dir, place.name, AtFlags::empty()).map_err(place.fail("replace"))?;
            make().map_err(place.fail(action))
        }
        other => other.map_err(place.fail(action)),
    }
}

fn node(place: &Place<'_>, kind: FileType, major: u32, minor: u32) -> Result<(), Error> {
    let number = rustix::fs::makedev(major, minor);
    exclusively(place, "make the device", || {
        mknodat(place.dir, place.name, kind, Mode::from_raw_mode(0o600), number)
    })
}

fn file<R: BufRead>(
    place: &Place<'_>,
    entry: &Entry,
    tar: &mut TarReader<R>,
) -> Result<File, Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(exclusively(place, "make", || {
        openat(place.dir, place.name, flags, Mode::from_raw_mode(0o600))
    })?);
    let fail = |source| Error::Io { action: "write", path: shown(place.path), source };
    let Some(extents) = &entry.sparse else {
        loop {
            let data = tar.data()?;
            let n = data.len();
            if n == 0 {
                return Ok(file);
            }
            file.write_all(data).map_err(fail)?;
            tar.consume(n);
        }
    };
    for extent in extents {
        let (mut offset, mut left) = (extent.offset, extent.len);
        while left > 0 {
            let data = tar.data()?;
            let n = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
            file.write_all_at(&data[..n], offset).map_err(fail)?;
            tar.consume(n);
            offset += n as u64;
            left -= n as u64;
        }
    }
    file.set_len(entry.size).map_err(fail)?;
    Ok(file)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime_s, tv_nsec: entry.mtime_ns.into() };
    Timestamps { last_access: time, last_modification: time }
}
