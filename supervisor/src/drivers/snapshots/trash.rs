//! Removes trees of files, however deep and hostile they are.
//!
//! A tree is first renamed into the trash, which is atomic, and then taken apart there on a thread.
//! Folders inside of it are moved up into the trash before they are emptied: so neither the depth of
//! the tree nor the length of its paths costs stack, descriptors or PATH_MAX.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};

use super::Error;

/// A folder for what is to be removed; clones share it.
#[derive(Clone, Debug)]
pub struct Trash {
    path: Arc<Path>,
    next: Arc<AtomicU64>,
}

impl Trash {
    /// Opens the trash and removes what an earlier process left in it.
    ///
    /// # Errors
    /// None now; a thread that can't be started is told of.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let trash = Self { path: path.into(), next: Arc::default() };
        trash.empty_in_background(path);
        Ok(trash)
    }

    /// Moves a file or folder into the trash; gone when it answers.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub fn take(&self, path: &Path) -> Result<(), Error> {
        let target = self.path.join(self.name());
        match fs::rename(path, &target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| Error::io("remove", path, e))?,
        }
        self.empty_in_background(&self.path);
        Ok(())
    }

    /// [`Trash::take`] where nobody waits for the answer.
    pub fn throw(&self, path: &Path) {
        if let Err(error) = self.take(path) {
            tracing::warn!(error = crate::fault::chain(&error), "not removed; the next start does");
        }
    }

    /// Removes a folder that is expected to be empty, or throws it away.
    pub fn purge(&self, path: &Path) {
        if fs::remove_dir(path).is_err() {
            self.throw(path);
        }
    }

    fn name(&self) -> String {
        // Unique beside what earlier processes left.
        format!("{}-{}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn empty_in_background(&self, path: &Path) {
        let trash = self.clone();
        let path = path.to_path_buf();
        let spawned = std::thread::Builder::new().name("trash".into()).spawn(move || {
            if let Err(error) = trash.empty() {
                tracing::warn!(path = %path.display(), %error, "trash not emptied");
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "trash not emptied");
        }
    }

    /// Takes everything in the trash apart. Several threads may do so at once: each meets what
    /// another has removed already with a shrug.
    fn empty(&self) -> io::Result<()> {
        let top = File::open(&self.path)?;
        // Folders appear in the trash while it is emptied, so until it is empty.
        while self.empty_once(&top)? {}
        Ok(())
    }

    fn empty_once(&self, top: &File) -> io::Result<bool> {
        let mut found = false;
        for name in names(Dir::read_from(top)?)? {
            found = true;
            if remove(top, &name)? {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = match openat(top, &name, flags, Mode::empty()) {
                Ok(dir) => File::from(dir),
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            for inner in names(Dir::read_from(&dir)?)? {
                if !remove(&dir, &inner)? {
                    ignore_missing(renameat(&dir, &inner, top, self.name()))?;
                }
            }
            match unlinkat(top, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(found)
    }
}

/// Whether it is gone; if not, it is a folder with something in it.
fn remove(dir: &File, name: &CString) -> io::Result<bool> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY) => Ok(false),
            Err(e) => Err(e.into()),
        },
        Err(e) => Err(e.into()),
    }
}

fn ignore_missing(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn names(dir: Dir) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in dir {
        let entry = entry?;
        let name = entry.file_name();
        if OsStr::from_bytes(name.to_bytes()) != "." && name.to_bytes() != b".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
