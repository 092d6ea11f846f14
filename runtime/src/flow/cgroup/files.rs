//! The files and folders of any cgroup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::sys::no;

/// Writes a file of the kernel's, which is there or not: never made, never cut.
pub(crate) fn put(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

pub(super) enum Made {
    New,
    WasThere,
}

pub(super) fn make(path: &Path) -> io::Result<Made> {
    // Somebody may remove an empty parent between the two steps; twice is bad luck, ten is not.
    for _ in 0..10 {
        match fs::create_dir(path) {
            Ok(()) => return Ok(Made::New),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Made::WasThere),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(path))?;
            }
            Err(e) => return Err(e),
        }
    }
    Err(crate::sys::errno(no::ENOENT))
}

/// Processes of a cgroup and of those below.
pub(crate) fn pids_in(dir: &Path) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(e) if gone(&e) => return Ok(all),
        Err(e) => return Err(e),
    };
    all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for below in directories(dir)? {
        all.extend(pids_in(&below)?);
    }
    Ok(all)
}

/// Removed meanwhile: by name, or while a file of it is open.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(19 /* ENODEV */)
}

fn directories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    // The kernel counts a cgroup's children as links: two mean none, and no listing is needed.
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(dir) {
        Ok(facts) if facts.nlink() <= 2 => return Ok(Vec::new()),
        Err(e) if gone(&e) => return Ok(Vec::new()),
        Ok(_) | Err(_) => {}
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(e) if e.raw_os_error() == Some(no::EBUSY) => {}
        Err(e) if gone(&e) => return Ok(()),
        done => return done,
    }
    for below in directories(dir)? {
        remove_tree(&below)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if gone(&e) => Ok(()),
        done => done,
    }
}
