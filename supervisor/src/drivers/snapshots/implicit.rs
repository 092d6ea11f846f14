//! Folders that a layer names only in the paths of what is in them.
//!
//! Such a folder hides nothing and says nothing: in the merged tree it has to look as it does below.
//! Overlay shows the topmost folder's mode and owner, so they are copied from the nearest layer that
//! has it.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
        fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, openat2, statat,
    },
    io::Errno,
};

use super::Error;

const XATTR_BYTES: usize = 64 << 10;
const RETRIES: u32 = 1024;

pub(super) fn adopt(files: &Path, implicit: &[Vec<u8>], below: &[PathBuf]) -> Result<(), Error> {
    if implicit.is_empty() || below.is_empty() {
        return Ok(());
    }
    let open = |path: &Path| File::open(path).map_err(|e| Error::io("open", path, e));
    let layer = open(files)?;
    let below: Vec<File> = below.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    for path in implicit {
        let fail = |e: io::Error| Error::Io {
            action: "fit a folder of the layer",
            path: files.join(OsStr::from_bytes(path)),
            source: e,
        };
        // Behind a link in this layer, or replaced since: no folder of that name to be merged.
        let Some(folder) = open_dir(&layer, path).map_err(fail)? else { continue };
        if let Some(model) = find(&below, path).map_err(fail)? {
            copy(&model, &folder).map_err(fail)?;
        }
    }
    Ok(())
}

/// The folder in the nearest layer that has it, unless something in between hides it.
fn find(below: &[File], path: &[u8]) -> io::Result<Option<OwnedFd>> {
    for layer in below {
        if let Some(folder) = open_dir(layer, path)? {
            return Ok(Some(folder));
        }
        if is_hidden_from_here(layer, path)? {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Whether the layer has something at the path or on the way to it that is no folder (a file, a
/// link, a whiteout), or an opaque folder: then what lies deeper is not seen.
fn is_hidden_from_here(layer: &File, path: &[u8]) -> io::Result<bool> {
    let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(i, _)| i);
    for end in ends.chain([path.len()]) {
        let Some(folder) = open_dir(layer, &path[..end])? else {
            return match statat(layer, &path[..end], AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Ok(true),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
                Err(e) => Err(e.into()),
            };
        };
        let mut value = [0; 1];
        if let Ok(1) = fgetxattr(&folder, "trusted.overlay.opaque", &mut value)
            && value == *b"y"
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_dir(layer: &File, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut tries = 0;
    loop {
        match openat2(layer.as_fd(), path, flags, Mode::empty(), resolve) {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(Errno::AGAIN) if tries < RETRIES => tries += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

/// Owner, mode, extended attributes and times.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let model = fstat(from)?;
    debug_assert_eq!(FileType::from_raw_mode(model.st_mode), FileType::Directory);
    fchown(to, Some(Uid::from_raw(model.st_uid)), Some(Gid::from_raw(model.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(model.st_mode & 0o7777))?;
    copy_xattrs(from, to)?;
    let time =
        |tv_sec, tv_nsec: u64| Timespec { tv_sec, tv_nsec: i64::try_from(tv_nsec).unwrap_or(0) };
    futimens(
        to,
        &Timestamps {
            last_access: time(model.st_atime, model.st_atime_nsec),
            last_modification: time(model.st_mtime, model.st_mtime_nsec),
        },
    )?;
    Ok(())
}

fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut names = vec![0; XATTR_BYTES];
    let len = match flistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0; XATTR_BYTES];
        let len = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..len], XattrFlags::empty())?;
    }
    Ok(())
}
