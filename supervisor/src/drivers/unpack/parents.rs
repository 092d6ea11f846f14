//! Folders below a layer's root, found and made without ever leaving it.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, chmodat, mkdirat},
    io::Errno,
};

use super::Error;

/// Folders kept open: tars go depth first, so the next entry's is nearly always among them.
const KEPT_OPEN: usize = 16;
/// As the kernel: more links than this on one way are a loop.
const MAX_LINKS: u32 = 40;
/// Bytes of the paths of implicit folders; what an honest layer needs is a thousandth.
const IMPLICIT_BYTES: usize = 16 << 20;
/// openat2 gives EAGAIN when something was renamed anywhere at that moment.
const RETRIES: u32 = 1024;

/// A path in canonical form: no empty component, no ".", no leading slash. The root is empty.
/// None if it has "..".
pub(super) fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut clean = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            name => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(name);
            }
        }
    }
    Some(clean)
}

/// Folder and last component of a clean path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The folders of one layer.
#[derive(Debug)]
pub(super) struct Parents {
    root: Arc<OwnedFd>,
    /// Most recently used last.
    open: Vec<(Vec<u8>, Arc<OwnedFd>)>,
    implicit: HashSet<Vec<u8>>,
    implicit_bytes: usize,
}

impl Parents {
    pub(super) fn new(root: File) -> Self {
        let implicit = HashSet::from([Vec::new()]);
        Self { root: Arc::new(root.into()), open: Vec::new(), implicit, implicit_bytes: 0 }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The folder has an entry of its own.
    pub(super) fn made_explicit(&mut self, path: &[u8]) {
        self.implicit.remove(path);
    }

    /// Something that may have been a folder or a link to one is gone.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    pub(super) fn into_implicit(self) -> Vec<Vec<u8>> {
        let mut implicit: Vec<_> = self.implicit.into_iter().collect();
        implicit.sort();
        implicit
    }

    /// An open folder, by its clean path; made when missing.
    pub(super) fn ensure(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, Error> {
        self.ensure_following(path, 0)
    }

    /// An open folder that must be there.
    pub(super) fn find(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(index) = self.open.iter().rposition(|(known, _)| known == path) {
            let hit = self.open.remove(index);
            let fd = Arc::clone(&hit.1);
            self.open.push(hit);
            return Ok(fd);
        }
        let fd = Arc::new(open_in_root(self.root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)?);
        if self.open.len() == KEPT_OPEN {
            self.open.remove(0);
        }
        self.open.push((path.to_vec(), Arc::clone(&fd)));
        Ok(fd)
    }

    fn ensure_following(&mut self, path: &[u8], links: u32) -> Result<Arc<OwnedFd>, Error> {
        // Upwards to the first that is there, then down again: no recursion by the path's depth.
        let mut missing: Vec<&[u8]> = Vec::new();
        let mut at = path;
        let mut dir = loop {
            match self.find(at) {
                Ok(fd) => break fd,
                Err(e) if e.kind() == io::ErrorKind::NotFound && !at.is_empty() => {
                    missing.push(at);
                    at = split(at).0;
                }
                Err(source) => return Err(parent(path, source)),
            }
        };
        while let Some(at) = missing.pop() {
            let name = split(at).1;
            let mode = Mode::from_raw_mode(0o755);
            // The mode is set apart: the one given to mkdir is less the umask.
            let made = mkdirat(&dir, name, mode)
                .and_then(|()| chmodat(&dir, name, mode, AtFlags::empty()));
            match made {
                Ok(()) => self.note_implicit(at)?,
                Err(Errno::EXIST) => {
                    // A link to what is not there yet: make that, inside of the root.
                    let target = link_target(&dir, at).map_err(|e| parent(path, e))?;
                    if links == MAX_LINKS {
                        return Err(parent(path, Errno::LOOP.into()));
                    }
                    self.ensure_following(&target, links + 1)?;
                }
                Err(e) => return Err(parent(path, e.into())),
            }
            dir = self.find(at).map_err(|e| parent(path, e))?;
        }
        Ok(dir)
    }

    fn note_implicit(&mut self, path: &[u8]) -> Result<(), Error> {
        self.implicit_bytes += path.len();
        if self.implicit_bytes > IMPLICIT_BYTES {
            return Err(Error::Limit {
                what: "bytes in the paths of folders without an entry",
                limit: IMPLICIT_BYTES as u64,
            });
        }
        self.implicit.insert(path.to_vec());
        Ok(())
    }
}

/// Where the link at the clean path `at`, which is in `dir`, points to inside of the root.
fn link_target(dir: &OwnedFd, at: &[u8]) -> io::Result<Vec<u8>> {
    let (folder, name) = split(at);
    let target = rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| match e {
        // Not a link: something that is no folder.
        Errno::INVAL => Errno::NOTDIR,
        other => other,
    })?;
    let target = target.as_bytes();
    let base: &[u8] = if target.starts_with(b"/") { b"" } else { folder };
    let mut parts: Vec<&[u8]> = base.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            // As RESOLVE_IN_ROOT has it: the root is its own parent.
            b".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    Ok(parts.join(&b'/'))
}

/// Opens a path below `root`, whatever its links say.
pub(super) fn open_in_root(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < RETRIES => tries += 1,
            other => return Ok(other?),
        }
    }
}

fn parent(entry: &[u8], source: io::Error) -> Error {
    Error::Parent { entry: super::apply::shown(entry), source }
}

#[cfg(test)]
mod tests {
    use super::{clean, split};

    #[test]
    fn paths_are_cleaned_or_refused() {
        let table: [(&[u8], Option<&[u8]>); 8] = [
            (b"./usr//bin/", Some(b"usr/bin")),
            (b"/etc/passwd", Some(b"etc/passwd")),
            (b"./", Some(b"")),
            (b"", Some(b"")),
            (b"../x", None),
            (b"a/../../x", None),
            (b"a/..", None),
            (b"..a/b..", Some(b"..a/b..")),
        ];
        for (path, expected) in table {
            assert_eq!(clean(path).as_deref(), expected, "{}", String::from_utf8_lossy(path));
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
