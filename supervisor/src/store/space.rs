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
/// What one group of commits needs at most, more or less.
const LEAST: u64 = 256 << 10;
/// Has to be free for new things beside what is kept: sled writes what is large (a page of 128 KiB or
/// more) into files of their own.
const FREE: u64 = 1 << 20;
/// Commits that may lead to such files.
const LARGE: u64 = 32 << 10;
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
    /// Things taken away: refused only when they would not even fit into what is kept.
    Removal,
}

/// The room of one store.
#[derive(Debug)]
pub(super) struct Space {
    /// Its end, with what is kept.
    end: u64,
    /// The file system can't keep blocks ahead.
    unsupported: bool,
    folder: PathBuf,
}

impl Space {
    pub(super) fn new(file: &File, folder: &Path) -> Self {
        let mut space = Self { end: 0, unsupported: false, folder: folder.into() };
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
        // Less, if that is all there is: what is left may still do.
        let mut ahead = AHEAD;
        while ahead >= LEAST && ahead > left {
            match fallocate(file, FallocateFlags::KEEP_SIZE, len, ahead) {
                Ok(()) => {
                    self.end = len + ahead;
                    return Ok(ahead);
                }
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    self.unsupported = true;
                    return Ok(AHEAD);
                }
                Err(_) => ahead /= 2,
            }
        }
        Ok(left)
    }

    /// Whether there is room for a commit of so many bytes.
    pub(super) fn has_room(&mut self, file: &File, need: Need, bytes: u64) -> bool {
        // Where it can't be known, the commit itself says so.
        let Ok(left) = self.refill(file) else { return true };
        if self.unsupported {
            return need == Need::Removal || has_free(file, LAST);
        }
        if bytes > LARGE && need != Need::Growth && !has_free(file, FREE + 4 * bytes) {
            // The last resort: to be made again when there is space.
            give_up_reserve(&self.folder);
        }
        match need {
            Need::Growth => left > REFILL_AT && has_free(file, FREE + 4 * bytes),
            Need::Change => left > LAST,
            // Not even that: to begin a write that does not fit would end the process.
            Need::Removal => left >= LEAST,
        }
    }
}

fn has_free(file: &File, bytes: u64) -> bool {
    rustix::fs::fstatvfs(file).map_or(true, |stat| stat.f_bavail * stat.f_frsize > bytes)
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

/// The store that a reserve was made for has been moved away.
pub fn forget_reserve(folder: &Path) {
    let _ = give_up_reserve(folder);
}

/// Whether a store was opened here before: the reserve is made at its first opening.
pub(super) fn was_here(folder: &Path) -> bool {
    reserve_path(folder).exists()
}

/// Whether an error says that the disk is full.
pub(super) fn is_full(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.raw_os_error() == Some(libc::ENOSPC))
}
