//! Room on the disk: so that stop, delete and list work when not one byte is free.
//!
//! Blocks behind the end of sled's file are kept for it (fallocate with KEEP_SIZE): nobody else can
//! take them, and what it appends fits. When they can't be refilled the disk is full: then what would
//! grow the store is refused, and what frees space goes on. Opening needs new files, for which a
//! reserve file beside the store is given up.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate};

/// Kept behind the end of the file.
const AHEAD: u64 = 16 << 20;
/// Refilled when no more than this is left.
const REFILL_AT: u64 = 12 << 20;
/// What only removals may use.
const LAST: u64 = 4 << 20;
/// Size of the reserve file.
const RESERVE: u64 = 4 << 20;

/// What a commit needs room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// New things: refused when the disk is full.
    Growth,
    /// What happens to things that are there: refused when even what is kept ahead runs low.
    #[default]
    Change,
    /// Things taken away: never refused.
    Removal,
}

/// The room of one store.
#[derive(Debug)]
pub(super) struct Space {
    /// Its end, with what is kept.
    end: u64,
    /// The file system can't keep blocks ahead.
    unsupported: bool,
}

impl Space {
    pub(super) fn new(file: &File) -> Self {
        let mut space = Self { end: 0, unsupported: false };
        // Whether it fits shows at the first commit.
        let _ = space.refill(file);
        space
    }

    fn refill(&mut self, file: &File) -> io::Result<u64> {
        let len = file.metadata()?.size();
        let left = self.end.saturating_sub(len);
        if self.unsupported || left > REFILL_AT {
            return Ok(left);
        }
        match fallocate(file, FallocateFlags::KEEP_SIZE, len, AHEAD) {
            Ok(()) => self.end = len + AHEAD,
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.unsupported = true;
                return Ok(AHEAD);
            }
            // Full. What is left may still do.
            Err(_) => return Ok(left),
        }
        Ok(AHEAD)
    }

    /// Whether there is room for a commit.
    pub(super) fn has_room(&mut self, file: &File, need: Need) -> bool {
        // Where it can't be known, the commit itself says so.
        let Ok(left) = self.refill(file) else { return true };
        if self.unsupported {
            return need == Need::Removal || has_free(file);
        }
        match need {
            Need::Growth => left > REFILL_AT,
            Need::Change => left > LAST,
            Need::Removal => true,
        }
    }
}

fn has_free(file: &File) -> bool {
    rustix::fs::fstatvfs(file).map_or(true, |stat| stat.f_bavail * stat.f_frsize > LAST)
}

fn reserve_path(folder: &Path) -> PathBuf {
    folder.with_extension("reserve")
}

/// Gives the reserve up; whether there was one.
pub(super) fn give_up_reserve(folder: &Path) -> bool {
    fs::remove_file(reserve_path(folder)).is_ok()
}

/// Sets a reserve aside for the next opening on a full disk.
pub(super) fn make_reserve(folder: &Path) {
    let path = reserve_path(folder);
    if fs::metadata(&path).is_ok_and(|meta| meta.blocks() * 512 >= RESERVE) {
        return;
    }
    let made = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, RESERVE)?));
    if let Err(error) = made {
        let _ = fs::remove_file(&path);
        tracing::warn!(path = %path.display(), %error, "no reserve for a full disk");
    }
}

/// Whether an error says that the disk is full.
pub(super) fn is_full(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.raw_os_error() == Some(libc::ENOSPC))
}
