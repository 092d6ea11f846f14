//! What a container has changed, held against the layers it runs on.
//!
//! Two ways to the same answer. Overlay has the changes in a folder of their own: that is walked, and
//! what it says (a whiteout, an opaque folder) is taken at its word. A copying snapshotter has only
//! the whole: that is compared, entry by entry, with what it was copied from.
//!
//! The container may be running and hostile. Folders are opened beneath the walk's root by openat2
//! with no link followed, and nothing is kept open by the depth of the tree.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fgetxattr, lgetxattr, llistxattr,
        llistxattr_query, openat2, readlinkat, statat,
    },
    io::Errno,
};

/// Folders of the way down that stay open.
const KEPT_OPEN: usize = 32;
const RETRIES: u32 = 1024;
const OPAQUE: &str = "trusted.overlay.opaque";
/// What overlay writes where the changes alone do not tell what is there.
const INCOMPLETE: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was not there.
    Added,
    /// It was there, and is another.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change. Folders come before what is in them, siblings in the order of their names' bytes.
#[derive(Debug)]
pub struct Change<'a> {
    /// What happened.
    pub kind: ChangeKind,
    /// Without a leading slash; empty for the root.
    pub path: &'a [u8],
    /// How it is now; none for what is gone.
    pub now: Option<Now<'a>>,
    /// A folder that hides all that the layers below have in it.
    pub opaque: bool,
    /// Gone with an opaque folder above it, which has been told.
    pub covered: bool,
}

/// How to get at what a change is about.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    /// The folder it is in, or the root itself.
    pub dir: BorrowedFd<'a>,
    /// Its name in that; "." for the root.
    pub name: &'a [u8],
    /// As it was looked at.
    pub stat: &'a Stat,
}

/// Where the changes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In a folder of their own, in overlay's form.
    Upper,
    /// In a whole tree.
    Whole,
}

/// What is told of each change.
pub type Visit<'v> = dyn FnMut(&Change<'_>) -> io::Result<()> + 'v;

/// Walks the container's files at `top`; `base` is the root file system without its changes (none: it
/// had nothing). `own` are paths that the runtime makes to mount on: what is empty there, and was not
/// in the base, is no change.
pub(super) fn walk(
    source: Source,
    top: &OwnedFd,
    base: Option<BorrowedFd<'_>>,
    own: &HashSet<Vec<u8>>,
    visit: &mut Visit<'_>,
) -> io::Result<()> {
    Walk { source, top, base, own, visit, frames: Vec::new() }.run()
}

struct Walk<'a, 'v> {
    source: Source,
    top: &'a OwnedFd,
    base: Option<BorrowedFd<'a>>,
    own: &'a HashSet<Vec<u8>>,
    visit: &'a mut Visit<'v>,
    frames: Vec<Frame>,
}

/// A folder on the way down.
struct Frame {
    path: Vec<u8>,
    stat: Stat,
    /// Sorted, the next last.
    names: Vec<CString>,
    /// Opened again when it is needed after it was closed.
    dir: Option<OwnedFd>,
    /// The base has a folder here that this one does not hide.
    in_base: bool,
    kind: ChangeKind,
    told: bool,
}

impl Walk<'_, '_> {
    fn run(&mut self) -> io::Result<()> {
        let stat = rustix::fs::fstat(self.top)?;
        let before = self.base_stat(b"")?;
        self.enter(Vec::new(), stat, before.as_ref())?;
        while let Some(frame) = self.frames.last_mut() {
            match frame.names.pop() {
                Some(name) => self.entry(&name)?,
                None => drop(self.frames.pop()),
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &CString) -> io::Result<()> {
        self.reopen()?;
        let frame = self.frames.last().expect("an entry is in a folder");
        let dir = frame.dir.as_ref().expect("was opened above");
        let stat = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // It has gone since the folder was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let path = join(&frame.path, name.to_bytes());
        let before = if frame.in_base { self.base_stat(&path)? } else { None };
        if self.source == Source::Upper && is_whiteout(&stat) {
            return match before {
                Some(_) => self.tell_gone(&path, false),
                None => Ok(()),
            };
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return self.enter(path, stat, before.as_ref());
        }
        if before.is_none() && stat.st_size == 0 && self.own.contains(&path) {
            return Ok(());
        }
        let kind = match &before {
            None => ChangeKind::Added,
            Some(before) if self.source == Source::Whole && self.same(before, &stat, &path)? => {
                return Ok(());
            }
            Some(_) => ChangeKind::Modified,
        };
        self.tell_ancestors()?;
        let frame = self.frames.last().expect("an entry is in a folder");
        let dir = frame.dir.as_ref().expect("was opened above").as_fd();
        let now = Some(Now { dir, name: name.to_bytes(), stat: &stat });
        (self.visit)(&Change { kind, path: &path, now, opaque: false, covered: false })
    }

    fn enter(&mut self, path: Vec<u8>, stat: Stat, before: Option<&Stat>) -> io::Result<()> {
        let dir = match self.open(&path) {
            Ok(dir) => dir,
            // Replaced or gone since it was looked at.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) =>
            {
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let base_folder =
            before.filter(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        let opaque = self.source == Source::Upper && base_folder.is_some() && is_opaque(&dir)?;
        if self.source == Source::Upper && is_incomplete(&dir)? {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a folder was renamed in a way that its layer alone does not tell",
            ));
        }
        let mut names = names(&dir)?;
        names.sort_by(|a, b| b.cmp(a));
        let gone = match (base_folder, self.source) {
            (Some(_), Source::Whole) => self.missing(&path, &names)?,
            (Some(_), Source::Upper) if opaque => self.missing(&path, &names)?,
            _ => BTreeSet::new(),
        };
        let looks_different = match base_folder {
            None => !(before.is_none() && self.own.contains(&path)),
            Some(before) => {
                (before.st_mode, before.st_uid, before.st_gid)
                    != (stat.st_mode, stat.st_uid, stat.st_gid)
            }
        };
        let kind = if before.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let in_base = base_folder.is_some() && !opaque;
        let dir = Some(dir);
        self.frames.push(Frame { path, stat, names, dir, in_base, kind, told: false });
        if let Some(far) = self.frames.len().checked_sub(KEPT_OPEN + 1) {
            self.frames[far].dir = None;
        }
        if looks_different || opaque {
            self.tell_above()?;
            self.tell_frame(self.frames.len() - 1, opaque)?;
        }
        let path = self.frames.last().expect("was pushed above").path.clone();
        for name in gone {
            self.tell_gone(&join(&path, name.to_bytes()), opaque)?;
        }
        Ok(())
    }

    /// A folder in which something changed is told before that, if it has not been.
    fn tell_ancestors(&mut self) -> io::Result<()> {
        self.tell_above()?;
        let last = self.frames.len() - 1;
        if self.frames[last].told {
            return Ok(());
        }
        self.tell_frame(last, false)
    }

    fn tell_above(&mut self) -> io::Result<()> {
        for index in 0..self.frames.len().saturating_sub(1) {
            if !self.frames[index].told {
                self.tell_frame(index, false)?;
            }
        }
        Ok(())
    }

    fn tell_frame(&mut self, index: usize, opaque: bool) -> io::Result<()> {
        if self.frames[index].dir.is_none() {
            self.frames[index].dir = Some(self.open(&self.frames[index].path)?);
        }
        let frame = &mut self.frames[index];
        frame.told = true;
        let frame = &self.frames[index];
        let dir = frame.dir.as_ref().expect("was opened above").as_fd();
        let now = Some(Now { dir, name: b".", stat: &frame.stat });
        (self.visit)(&Change { kind: frame.kind, path: &frame.path, now, opaque, covered: false })
    }

    fn tell_gone(&mut self, path: &[u8], covered: bool) -> io::Result<()> {
        self.tell_ancestors()?;
        let kind = ChangeKind::Deleted;
        (self.visit)(&Change { kind, path, now: None, opaque: false, covered })
    }

    /// Names that the base's folder has and this one has not.
    fn missing(&self, path: &[u8], names: &[CString]) -> io::Result<BTreeSet<CString>> {
        let Some(base) = self.base else { return Ok(BTreeSet::new()) };
        let there: HashSet<&CString> = names.iter().collect();
        let folder = open_beneath(base, path)?;
        Ok(self::names(&folder)?.into_iter().filter(|name| !there.contains(name)).collect())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let frame = self.frames.last().expect("an entry is in a folder");
        if frame.dir.is_none() {
            let dir = self.open(&frame.path)?;
            self.frames.last_mut().expect("as above").dir = Some(dir);
        }
        Ok(())
    }

    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        open_beneath(self.top.as_fd(), path)
    }

    /// Each folder on the way has been seen to be one in the base, which does not change.
    fn base_stat(&self, path: &[u8]) -> io::Result<Option<Stat>> {
        let Some(base) = self.base else { return Ok(None) };
        let path = if path.is_empty() { b"." } else { path };
        match statat(base, path, AtFlags::SYMLINK_NOFOLLOW) {
            // A lowest layer may have marks of its own, which hide nothing.
            Ok(stat) if is_whiteout(&stat) => Ok(None),
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// As Docker compares where it has nothing better: all that a copy keeps and a write changes.
    fn same(&self, before: &Stat, now: &Stat, path: &[u8]) -> io::Result<bool> {
        let of = |s: &Stat| (s.st_mode, s.st_uid, s.st_gid, s.st_rdev, s.st_size);
        if of(before) != of(now)
            || (before.st_mtime, before.st_mtime_nsec) != (now.st_mtime, now.st_mtime_nsec)
        {
            return Ok(false);
        }
        if FileType::from_raw_mode(now.st_mode) != FileType::Symlink {
            return Ok(true);
        }
        let base = self.base.expect("there is something before");
        let frame = self.frames.last().expect("an entry is in a folder");
        let dir = frame.dir.as_ref().expect("was opened before");
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        Ok(readlinkat(base, path, Vec::new())? == readlinkat(dir, name, Vec::new())?)
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(super) fn is_opaque(dir: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 1];
    match fgetxattr(dir, OPAQUE, &mut value) {
        Ok(n) => Ok(n == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn is_incomplete(dir: &OwnedFd) -> io::Result<bool> {
    for name in INCOMPLETE {
        match fgetxattr(dir, name, &mut [0_u8; 0]) {
            Ok(_) => return Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

fn names(dir: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Opens a folder with no link followed on the way.
pub(super) fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < RETRIES => tries += 1,
            other => return Ok(other?),
        }
    }
}

const XATTR_BYTES: usize = 64 << 10;
/// Attributes that belong to this host, not to the file.
const LOCAL_XATTRS: [&[u8]; 5] =
    [b"trusted.overlay.", b"user.overlay.", b"security.selinux", b"security.ima", b"security.evm"];

/// Extended attributes of what is told of, sorted by name.
pub(in crate::drivers) fn xattrs(now: &Now<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = [format!("/proc/self/fd/{}/", now.dir.as_raw_fd()).as_bytes(), now.name].concat();
    // Nearly always there is nothing, and that is known without room for it.
    if matches!(llistxattr_query(&path[..]), Ok(0)) {
        return Ok(Vec::new());
    }
    let mut names = vec![0_u8; XATTR_BYTES];
    let len = match llistxattr(&path[..], &mut names[..]) {
        Err(Errno::OPNOTSUPP | Errno::NOENT) => return Ok(Vec::new()),
        other => other?,
    };
    let mut sorted: Vec<&[u8]> =
        names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
    sorted.sort_unstable();
    let mut found = Vec::new();
    for name in sorted {
        if LOCAL_XATTRS.iter().any(|local| name.starts_with(local)) {
            continue;
        }
        let mut value = vec![0_u8; XATTR_BYTES];
        match lgetxattr(&path[..], name, &mut value[..]) {
            Err(Errno::NODATA | Errno::NOENT) => {}
            Ok(len) => {
                value.truncate(len);
                found.push((name.to_vec(), value));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}
