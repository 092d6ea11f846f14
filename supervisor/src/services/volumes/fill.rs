//! What an image has where a volume is mounted goes into the volume, the first time.
//!
//! As Docker does it: an empty volume gets the files and the looks of the image's folder. The target
//! is resolved inside of the image's root, whatever links are on the way.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use super::{Error, make_private};
use crate::{
    drivers::snapshots::{self, RootView, copy_tree},
    faultpoint,
};

/// Fills the volumes of (name, folder, target) that are empty. Blocks.
pub(super) fn fill_all(
    wanted: &[(String, PathBuf, String)],
    view: impl FnOnce() -> Result<RootView, snapshots::Error>,
) -> Result<(), Error> {
    let mut empty = Vec::new();
    for (name, folder, target) in wanted {
        if is_empty(&folder.join("data"))? {
            empty.push((name, folder, target));
        }
    }
    let Some((first, ..)) = empty.first() else { return Ok(()) };
    let failed = |volume: &str| {
        let volume = volume.to_owned();
        move |source| Error::Fill { volume, source }
    };
    let view = view().map_err(failed(first))?;
    for (name, folder, target) in empty {
        let found = view.open_folder(Path::new(target.as_str())).map_err(failed(name))?;
        if let Some(image) = found {
            fill(folder, &image)?;
        }
    }
    Ok(())
}

fn is_empty(data: &Path) -> Result<bool, Error> {
    let mut entries = fs::read_dir(data).map_err(|e| Error::io("list", data, e))?;
    Ok(entries.next().is_none())
}

/// Beside it first, then in its place at once: a volume is never half filled. One that a container
/// has mounted already gets what is in it entry by entry, since its folder must stay the same.
fn fill(folder: &Path, image: &OwnedFd) -> Result<(), Error> {
    let (aside, data) = (folder.join("fill"), folder.join("data"));
    match fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &aside, e));
        }
        _ => {}
    }
    make_private(&aside)?;
    let to = File::open(&aside).map_err(|e| Error::io("open", &aside, e))?;
    copy_tree(image, &OwnedFd::from(to))
        .map_err(|e| Error::io("copy the image's files to", &aside, e))?;
    let flushed = File::open(&aside).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
    flushed.map_err(|e| Error::io("flush", &aside, e))?;
    faultpoint::step_blocking("volume.filled").map_err(|e| Error::io("fill", &data, e))?;
    if folder.join("pending").exists() {
        // Nobody can have it yet.
        return fs::rename(&aside, &data).map_err(|e| Error::io("fill", &data, e));
    }
    let entries = fs::read_dir(&aside).map_err(|e| Error::io("list", &aside, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", &aside, e))?;
        let to = data.join(entry.file_name());
        fs::rename(entry.path(), &to).map_err(|e| Error::io("fill", &to, e))?;
    }
    let looks = |from: &Path, to: &Path| -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let model = fs::metadata(from)?;
        std::os::unix::fs::chown(to, Some(model.uid()), Some(model.gid()))?;
        fs::set_permissions(to, fs::Permissions::from_mode(model.mode() & 0o7777))
    };
    looks(&aside, &data).map_err(|e| Error::io("fill", &data, e))?;
    fs::remove_dir(&aside).map_err(|e| Error::io("remove", &aside, e))
}
