//! Devices of the host, for a privileged container.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use serde_json::{Value, json};

const DEV: &str = "/dev";
/// In `/dev`: what each container has of its own.
const OWN: &[&str] = &["pts", "shm", "fd", "mqueue", "console", "ptmx", ".udev"];
/// Folders in folders; the kernel makes three.
const MAX_DEPTH: usize = 6;

/// All nodes in the host's `/dev`, as the OCI spec has them. Blocks.
pub(super) fn of_host() -> Vec<Value> {
    let mut found = Vec::new();
    collect(Path::new(DEV), MAX_DEPTH, &mut found);
    found
}

/// What is gone or can't be read meanwhile is left out: devices come and go.
fn collect(folder: &Path, depth: usize, found: &mut Vec<Value>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let is_own = folder == Path::new(DEV) && OWN.iter().any(|name| entry.file_name() == *name);
        // Of a link itself: links are not followed.
        let Some(facts) = entry.metadata().ok().filter(|_| !is_own) else { continue };
        let kind = match facts.file_type() {
            kind if kind.is_dir() && depth > 0 => {
                collect(&entry.path(), depth - 1, found);
                continue;
            }
            kind if kind.is_char_device() => "c",
            kind if kind.is_block_device() => "b",
            _ => continue,
        };
        // One whose name is no text can't be in a JSON file.
        let Some(path) = entry.path().to_str().map(str::to_owned) else { continue };
        found.push(json!({
            "path": path,
            "type": kind,
            "major": nix::sys::stat::major(facts.rdev()),
            "minor": nix::sys::stat::minor(facts.rdev()),
            "fileMode": facts.mode() & 0o777,
            "uid": facts.uid(),
            "gid": facts.gid(),
        }));
    }
}
