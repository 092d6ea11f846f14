//! Kills for want of memory: how many there were, and word of the next.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use super::Cgroup;
use crate::error::{Failure, Step};
use crate::sys::watch::Watch;

/// The file that counts them.
fn file(cgroup: &Cgroup) -> Option<PathBuf> {
    match (cgroup.with("memory"), cgroup.unified()) {
        (Some(dir), _) => Some(dir.path.join("memory.oom_control")),
        (None, Some(dir)) => Some(dir.path.join("memory.events")),
        (None, None) => None,
    }
}

/// How many processes the kernel killed for want of memory.
pub(crate) fn oom_kills(cgroup: &Cgroup) -> Result<u64, Failure> {
    let Some(file) = file(cgroup) else { return Ok(0) };
    match fs::read_to_string(&file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        text => {
            let text = text.step(|| format!("read {}", file.display()))?;
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
        }
    }
}

/// Readable when memory has run out. On v1 the word comes before the kill that it is about.
#[derive(Debug)]
pub(crate) struct OomWatch(Watch);

impl OomWatch {
    /// None where no controller for memory is.
    pub(crate) fn new(cgroup: &Cgroup) -> Result<Option<Self>, Failure> {
        let Some(file) = file(cgroup).filter(|file| file.exists()) else { return Ok(None) };
        let watch = match cgroup.with("memory") {
            Some(dir) => Watch::eventfd(&file, &dir.path.join("cgroup.event_control")),
            None => Watch::inotify(&file),
        };
        watch.map(|watch| Some(Self(watch))).step(|| format!("watch {}", file.display()))
    }

    /// Takes the word; whether there was any.
    pub(crate) fn take(&self) -> bool {
        self.0.take()
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
