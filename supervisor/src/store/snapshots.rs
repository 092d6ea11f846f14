//! sled's snapshots: `snap.<number>` beside its log, where recovery begins. They save time and hold
//! nothing that the log has not.
//!
//! sled 0.34.7 takes one that it has not finished (`.generating`: it was killed, or the disk was
//! full) for a damaged one and does not open, so those are removed before it looks.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// sled passes over files whose names end so.
const HIDDEN: &str = ".in___motion";

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn ends(path: &Path, end: &str) -> bool {
    path.to_string_lossy().ends_with(end)
}

/// Removes what was being written when a process ended, and what was hidden by one.
pub(super) fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for path in files(folder)? {
        if ends(&path, ".generating") {
            fs::remove_file(&path)?;
        } else if let Some(shown) = path.to_string_lossy().strip_suffix(HIDDEN) {
            fs::rename(&path, shown)?;
        }
    }
    Ok(())
}

/// Tries once more without snapshots: with the log alone. They are back if that is no good either.
/// `None`: there are none.
pub(super) fn without<T, E>(
    folder: &Path,
    open: impl FnOnce() -> Result<T, E>,
) -> Option<Result<T, E>> {
    let hidden: Vec<(PathBuf, PathBuf)> = files(folder)
        .ok()?
        .into_iter()
        .map(|path| (PathBuf::from(format!("{}{HIDDEN}", path.display())), path))
        .filter(|(hidden, path)| fs::rename(path, hidden).is_ok())
        .collect();
    if hidden.is_empty() {
        return None;
    }
    let opened = open();
    for (hidden, path) in hidden {
        // What is left is put back by the next opening.
        let _ = if opened.is_ok() { fs::remove_file(&hidden) } else { fs::rename(&hidden, &path) };
    }
    if opened.is_ok() {
        tracing::warn!(folder = %folder.display(), "a damaged snapshot of the metadata is passed over");
    }
    Some(opened)
}
