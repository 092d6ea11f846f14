//! How much disk a tree takes.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::File,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

use super::{Error, Usage};

/// Counts a tree; a file with several names counts once. What goes away meanwhile is not counted,
/// and what is deeper than a path can say is left out. Blocks.
///
/// # Errors
/// When it can't be read.
pub fn measure(root: &Path) -> Result<Usage, Error> {
    let fail = |e: io::Error| Error::io("measure", root, e);
    let top = File::open(root).map_err(fail)?;
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    let mut folders = vec![PathBuf::from(".")];
    while let Some(folder) = folders.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match openat(&top, &folder, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NAMETOOLONG | Errno::NOTDIR) => continue,
            Err(e) => return Err(fail(e.into())),
        };
        for entry in Dir::read_from(&dir).map_err(|e| fail(e.into()))? {
            let entry = entry.map_err(|e| fail(e.into()))?;
            let name = entry.file_name();
            if name.to_bytes() == b".." {
                continue;
            }
            let Ok(stat) = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if name.to_bytes() != b"."
                && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            {
                folders.push(folder.join(OsStr::from_bytes(name.to_bytes())));
                continue;
            }
            if name.to_bytes() != b"." && stat.st_nlink > 1 && !linked.insert(stat.st_ino) {
                continue;
            }
            usage.inodes += 1;
            usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
    }
    Ok(usage)
}
