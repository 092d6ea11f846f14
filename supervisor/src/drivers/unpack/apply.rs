//! Makes a layer's entries below its folder, in overlay's form.
//!
//! The folder is private to us while we write, so the only adversary is the layer itself: it can
//! plant links and then name paths through them. Parents are resolved in-root by the kernel; the
//! last component is made with O_EXCL or its like, after what was there has been taken away.

use std::{
    fs::File,
    io::{self, BufRead, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat,
        chownat, fchmod, fchown, fsetxattr, futimens, linkat, lsetxattr, mkdirat, mknodat, openat,
        renameat, statat, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

use super::{
    Error,
    parents::{Parents, clean, open_in_root, split},
    tar::{Entry, EntryKind, TarReader},
    whiteout::{Meaning, meaning},
};

const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// What overlay itself keeps: from a layer it could redirect a path to another layer's.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// Bytes of the paths of folders whose times wait for the end. A layer with more gets the times of
/// the first ones early, and they change when something is made in them.
const PENDING_TIMES_BYTES: usize = 16 << 20;

/// A path as text, for people; hostile ones are long.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(256).collect()
}

#[derive(Debug)]
pub(super) struct Applier {
    parents: Parents,
    trash: File,
    trashed: u64,
    pending_times: Vec<(Vec<u8>, Timestamps)>,
    pending_bytes: usize,
    size_bytes: u64,
}

/// Where an entry goes: an open folder and a name in it.
struct Place<'a> {
    path: &'a [u8],
    dir: &'a OwnedFd,
    name: &'a [u8],
}

impl Place<'_> {
    fn fail(&self, action: &'static str) -> impl Fn(Errno) -> Error {
        let entry = shown(self.path);
        move |e| Error::Entry { action, entry: entry.clone(), source: e.into() }
    }

    /// A path that leads to the entry itself and follows nothing in the layer: for the calls that
    /// know no folder descriptors.
    fn proc_path(&self) -> Vec<u8> {
        [format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).as_bytes(), self.name].concat()
    }
}

impl Applier {
    pub(super) fn new(root: File, trash: File) -> Self {
        Self {
            parents: Parents::new(root),
            trash,
            trashed: 0,
            pending_times: Vec::new(),
            pending_bytes: 0,
            size_bytes: 0,
        }
    }

    pub(super) fn apply<R: BufRead>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), Error> {
        let path = clean(&entry.path).ok_or_else(|| Error::Escape { entry: shown(&entry.path) })?;
        if path.is_empty() {
            return self.root(entry);
        }
        let (folder, name) = split(&path);
        let meaning = meaning(name);
        match meaning {
            Meaning::Ignored => return Ok(()),
            Meaning::Hostile => return Err(Error::Escape { entry: shown(&path) }),
            Meaning::Entry(_) | Meaning::Whiteout(_) | Meaning::Opaque => {}
        }
        let dir = self.parents.ensure(folder)?;
        let place = Place { path: &path, dir: &dir, name };
        match meaning {
            Meaning::Opaque => opaque(&Place { path: folder, dir: &dir, name: b"." }),
            Meaning::Whiteout(gone) => whiteout(&Place { path: &path, dir: &dir, name: gone }),
            Meaning::Entry(_) | Meaning::Ignored | Meaning::Hostile => {
                self.make(&place, entry, tar)
            }
        }
    }

    /// Sets the times of folders. Answers with the bytes of all files and the implicit folders.
    pub(super) fn finish(mut self) -> Result<(u64, Vec<Vec<u8>>), Error> {
        self.set_pending_times()?;
        Ok((self.size_bytes, self.parents.into_implicit()))
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != EntryKind::Dir {
            return Err(Error::Escape { entry: shown(&entry.path) });
        }
        let dir = self.parents.find(b"").map_err(|source| Error::Entry {
            action: "open",
            entry: String::new(),
            source,
        })?;
        self.parents.made_explicit(b"");
        let place = Place { path: b"", dir: &dir, name: b"." };
        set_owner_and_mode(&place, entry)?;
        set_xattrs(entry, &place)?;
        self.times_later(b"", entry)
    }

    fn make<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), Error> {
        match entry.kind {
            EntryKind::File => return self.file(place, entry, tar),
            EntryKind::Dir => return self.dir(place, entry),
            EntryKind::HardLink => return self.hard_link(place, entry),
            EntryKind::Symlink => self.exclusively(place, "make the link", || {
                symlinkat(&entry.link[..], place.dir, place.name)
            })?,
            EntryKind::Char(major, minor) => {
                self.device(place, FileType::CharacterDevice, major, minor)?;
            }
            EntryKind::Block(major, minor) => {
                self.device(place, FileType::BlockDevice, major, minor)?;
            }
            EntryKind::Fifo => self.device(place, FileType::Fifo, 0, 0)?,
        }
        set_owner_and_mode(place, entry)?;
        set_xattrs(entry, place)?;
        utimensat(place.dir, place.name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(place.fail("set the times of"))
    }

    /// Runs a call that fails if the name is taken; then frees the name and runs it again.
    fn exclusively<T>(
        &mut self,
        place: &Place<'_>,
        action: &'static str,
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Error> {
        match make() {
            Err(Errno::EXIST) => {
                self.take_away(place)?;
                make().map_err(place.fail(action))
            }
            other => other.map_err(place.fail(action)),
        }
    }

    fn take_away(&mut self, place: &Place<'_>) -> Result<(), Error> {
        match unlinkat(place.dir, place.name, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                let number = self.trashed.to_string();
                self.trashed += 1;
                renameat(place.dir, place.name, &self.trash, &number)
                    .map_err(place.fail("replace"))?;
            }
            other => other.map_err(place.fail("replace"))?,
        }
        self.parents.forget();
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mut file = File::from(self.exclusively(place, "make", || {
            openat(place.dir, place.name, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
        })?);
        let fail = |source| Error::Entry { action: "write", entry: shown(place.path), source };
        match &entry.sparse {
            None => loop {
                let data = tar.data()?;
                let n = data.len();
                if n == 0 {
                    break;
                }
                file.write_all(data).map_err(fail)?;
                self.size_bytes += n as u64;
                tar.consume(n);
            },
            Some(extents) => {
                for extent in extents {
                    self.size_bytes += extent.len;
                    write_extent(&file, extent.offset, extent.len, tar, fail)?;
                }
                file.set_len(entry.size).map_err(fail)?;
            }
        }
        // Owner first: changing it takes set-id bits and capabilities away.
        fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
            .map_err(place.fail("set the owner of"))?;
        fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(place.fail("set the mode of"))?;
        each_xattr(entry, place, |name, value| fsetxattr(&file, name, value, XattrFlags::empty()))?;
        futimens(&file, &times(entry)).map_err(place.fail("set the times of"))
    }

    fn dir(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), Error> {
        let make = || mkdirat(place.dir, place.name, Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) => {
                let there = statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(place.fail("look at"))?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    self.take_away(place)?;
                    make().map_err(place.fail("make the folder"))?;
                    if is_whiteout(&there) {
                        // What was below is still gone.
                        opaque(place)?;
                    }
                }
            }
            other => other.map_err(place.fail("make the folder"))?,
        }
        self.parents.made_explicit(place.path);
        set_owner_and_mode(place, entry)?;
        set_xattrs(entry, place)?;
        self.times_later(place.path, entry)
    }

    fn hard_link(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), Error> {
        let target =
            clean(&entry.link).ok_or_else(|| Error::Escape { entry: shown(&entry.link) })?;
        let (folder, name) = split(&target);
        let bad_target = |source| Error::LinkTarget {
            entry: shown(place.path),
            target: shown(&entry.link),
            source,
        };
        if name.is_empty() {
            return Err(bad_target(Errno::ISDIR.into()));
        }
        let from = self.parents.find(folder).map_err(bad_target)?;
        let there =
            statat(&*from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| bad_target(e.into()))?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return Err(bad_target(Errno::ISDIR.into()));
        }
        if let Ok(taken) = statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW)
            && (taken.st_dev, taken.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        self.exclusively(place, "link", || {
            linkat(&*from, name, place.dir, place.name, AtFlags::empty())
        })
    }

    fn device(
        &mut self,
        place: &Place<'_>,
        kind: FileType,
        major: u32,
        minor: u32,
    ) -> Result<(), Error> {
        let number = rustix::fs::makedev(major, minor);
        self.exclusively(place, "make the device", || {
            mknodat(place.dir, place.name, kind, Mode::from_raw_mode(0o600), number)
        })
    }

    /// What is made in a folder changes its times, so they are set when all has been made.
    fn times_later(&mut self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        self.pending_bytes += path.len() + size_of::<(Vec<u8>, Timestamps)>();
        self.pending_times.push((path.to_vec(), times(entry)));
        if self.pending_bytes > PENDING_TIMES_BYTES { self.set_pending_times() } else { Ok(()) }
    }

    fn set_pending_times(&mut self) -> Result<(), Error> {
        self.pending_bytes = 0;
        for (path, times) in std::mem::take(&mut self.pending_times) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let set = open_in_root(self.parents.root(), &path, flags)
                .and_then(|dir| Ok(futimens(&dir, &times)?));
            match set {
                Ok(()) => {}
                // It has been replaced since, by a link or by something with no folder's face.
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO)
                    ) => {}
                Err(source) => {
                    let entry = shown(&path);
                    return Err(Error::Entry { action: "set the times of", entry, source });
                }
            }
        }
        Ok(())
    }
}

fn write_extent<R: BufRead>(
    file: &File,
    mut offset: u64,
    mut left: u64,
    tar: &mut TarReader<R>,
    fail: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    while left > 0 {
        let data = tar.data()?;
        let n = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
        file.write_all_at(&data[..n], offset).map_err(&fail)?;
        tar.consume(n);
        offset += n as u64;
        left -= n as u64;
    }
    Ok(())
}

/// A character device 0/0, unless the layer has something of that name itself: then only what is
/// below is gone.
fn whiteout(place: &Place<'_>) -> Result<(), Error> {
    let mode = Mode::from_raw_mode(0o600);
    match mknodat(place.dir, place.name, FileType::CharacterDevice, mode, 0) {
        Err(Errno::EXIST) => {
            let there = statat(place.dir, place.name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(place.fail("look at"))?;
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                opaque(place)?;
            }
            Ok(())
        }
        other => other.map_err(place.fail("white out")),
    }
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn opaque(place: &Place<'_>) -> Result<(), Error> {
    lsetxattr(&place.proc_path()[..], OPAQUE_XATTR, b"y", XattrFlags::empty())
        .map_err(place.fail("make opaque"))
}

/// Not for files, which have a descriptor.
fn set_owner_and_mode(place: &Place<'_>, entry: &Entry) -> Result<(), Error> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(place.dir, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(place.fail("set the owner of"))?;
    if entry.kind == EntryKind::Symlink {
        return Ok(());
    }
    // Follows links, and there is none: we have just made or seen what is there.
    chmodat(place.dir, place.name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
        .map_err(place.fail("set the mode of"))
}

fn set_xattrs(entry: &Entry, place: &Place<'_>) -> Result<(), Error> {
    if entry.xattrs.is_empty() {
        return Ok(());
    }
    let path = place.proc_path();
    each_xattr(entry, place, |name, value| lsetxattr(&path[..], name, value, XattrFlags::empty()))
}

fn each_xattr(
    entry: &Entry,
    place: &Place<'_>,
    set: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
) -> Result<(), Error> {
    for (name, value) in &entry.xattrs {
        if OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        match set(name, value) {
            // What the file system does not have (SELinux off), or not on this kind of file.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(Errno::PERM) if entry.kind != EntryKind::File && name.starts_with(b"user.") => {}
            Err(e) => return Err(place.fail("set an extended attribute of")(e)),
        }
    }
    Ok(())
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime_s, tv_nsec: entry.mtime_ns.into() };
    Timestamps { last_access: time, last_modification: time }
}
