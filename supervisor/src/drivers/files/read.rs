//! What is at a path of a container, and all below it as a tar.

use std::{
    ffi::CString,
    io::{self, Write},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat},
    io::Errno,
};

use super::{Error, Owners, open_in, shown, split};
use crate::drivers::{
    pack::Packer,
    snapshots::{Change, ChangeKind, Now},
};

/// Links at the end of a path, each followed.
const MAX_LINKS: u32 = 40;
/// Folders in each other; what is deeper has no path that the kernel would take.
const MAX_DEPTH: usize = 2048;

/// Whether a link at the end of the path is meant, or what it points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// What it points to.
    Yes,
    /// The link.
    No,
}

/// Something in a container.
#[derive(Debug)]
pub struct Found {
    /// The folder it is in; itself, if `name` is a dot.
    dir: OwnedFd,
    name: Vec<u8>,
    /// How it was when it was looked at.
    pub stat: Stat,
    /// What it is called in a tar; empty: only what is in it.
    pub called: Vec<u8>,
    /// Where a link points to.
    pub link_target: Vec<u8>,
}

/// Finds what a path means below `root`.
///
/// # Errors
/// [`Error::NotFound`] and others.
pub fn find(root: BorrowedFd<'_>, path: &[u8], follow: Follow) -> Result<Found, Error> {
    if path.contains(&0) {
        return Err(Error::Path { path: shown(path), problem: "it has a zero byte" });
    }
    let only_content = path.ends_with(b"/.") || path == b".";
    let trimmed = path.trim_suffix_slashes();
    // What ends like this is a folder, through a link too.
    let is_folder = trimmed.len() < path.len() || only_content;
    let called = |path: &[u8]| match split(path).1 {
        _ if only_content => Vec::new(),
        b"" | b"." | b".." => Vec::new(),
        name => name.to_vec(),
    };
    let called = called(trimmed);
    let mut at = trimmed.to_vec();
    for _ in 0..MAX_LINKS {
        let (folder, name) = split(&at);
        let fail = |e| Error::io("look at", path, e);
        if is_folder || matches!(name, b"" | b"." | b"..") {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let dir = open_in(root, &at, flags).map_err(fail)?;
            let stat = fstat(&dir).map_err(fail)?;
            return Ok(Found { dir, name: b".".into(), stat, called, link_target: Vec::new() });
        }
        let dir = open_in(root, folder, OFlags::PATH | OFlags::DIRECTORY).map_err(fail)?;
        let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(Found { dir, name: name.to_vec(), stat, called, link_target: Vec::new() });
        }
        let target = readlinkat(&dir, name, Vec::new()).map_err(fail)?.into_bytes();
        if follow == Follow::No {
            return Ok(Found { dir, name: name.to_vec(), stat, called, link_target: target });
        }
        at = if target.starts_with(b"/") { target } else { [folder, &target[..]].concat() };
    }
    Err(Error::io("look at", path, Errno::LOOP))
}

trait TrimSlashes {
    fn trim_suffix_slashes(&self) -> &Self;
}

impl TrimSlashes for [u8] {
    fn trim_suffix_slashes(&self) -> &[u8] {
        let len = self.iter().rposition(|b| *b != b'/').map_or(0, |last| last + 1);
        if len == 0 && !self.is_empty() { &self[..1] } else { &self[..len] }
    }
}

struct Frame {
    path: Vec<u8>,
    dir: OwnedFd,
    /// Sorted, the next last.
    names: Vec<CString>,
}

impl Found {
    /// Writes it as a tar, with all that is in it.
    ///
    /// # Errors
    /// When something can't be read or the tar not be written.
    pub fn pack(&self, out: impl Write, owners: &Owners) -> Result<(), Error> {
        let mut packer = Packer::for_anyone(out, owners.clone());
        self.pack_all(&mut packer).map_err(|source| Error::Io {
            action: "read",
            path: shown(&self.called),
            source,
        })?;
        packer.finish().map(drop).map_err(Error::Send)
    }

    fn pack_all<W: Write>(&self, packer: &mut Packer<W>) -> io::Result<()> {
        if !self.called.is_empty() {
            tell(packer, &self.called, self.dir.as_fd(), &self.name, &self.stat)?;
        }
        if FileType::from_raw_mode(self.stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let Some(top) = enter(self.dir.as_fd(), &self.name, self.called.clone())? else {
            return Ok(());
        };
        let mut frames = vec![top];
        while let Some(frame) = frames.last_mut() {
            let Some(name) = frame.names.pop() else {
                frames.pop();
                continue;
            };
            let stat = match statat(&frame.dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It has gone since the folder was read.
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            let path = match frame.path.as_slice() {
                b"" => name.to_bytes().to_vec(),
                folder => [folder, b"/", name.to_bytes()].concat(),
            };
            tell(packer, &path, frame.dir.as_fd(), name.to_bytes(), &stat)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let entered = enter(frame.dir.as_fd(), name.to_bytes(), path)?;
                if frames.len() == MAX_DEPTH {
                    return Err(Errno::NAMETOOLONG.into());
                }
                frames.extend(entered);
            }
        }
        Ok(())
    }
}

fn tell<W: Write>(
    packer: &mut Packer<W>,
    path: &[u8],
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
) -> io::Result<()> {
    let now = Some(Now { dir, name, stat });
    packer.change(&Change { kind: ChangeKind::Added, path, now, opaque: false, covered: false })
}

/// None if it is no folder any more.
fn enter(dir: BorrowedFd<'_>, name: &[u8], path: Vec<u8>) -> io::Result<Option<Frame>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match openat(dir, name, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_by(|a, b| b.cmp(a));
    Ok(Some(Frame { path, dir, names }))
}
