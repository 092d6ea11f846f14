//! Small files that are whole or absent, and log files.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::SysError;

fn failed(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> SysError {
    move |source| SysError::new(action, path.display().to_string(), source)
}

/// Writes a temporary file and renames it over `path`. Not flushed to a disk: a bundle lives in
/// `/run`, and its records have to survive the death of processes, not of the host, whose
/// containers end with it.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), SysError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    file.write_all(bytes).map_err(failed("write", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("rename to", path))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SysError> {
    fs::read(path).map_err(failed("read", path))
}

/// A file that is gone already is fine.
pub(crate) fn remove(path: &Path) -> Result<(), SysError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(failed("remove", path)(source))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The container's log: appended to, and moved aside when it has grown.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LogFile {
    #[serde(with = "super::handover::fd")]
    file: File,
    path: PathBuf,
    size: u64,
    max_bytes: u64,
    max_files: u32,
}

impl LogFile {
    /// `max_bytes` 0: never rotated.
    pub(crate) fn open(path: &Path, max_bytes: u64, max_files: u32) -> Result<Self, SysError> {
        let file = open_append(path)?;
        let size = file.metadata().map_err(failed("stat", path))?.len();
        Ok(Self { file, path: path.to_owned(), size, max_bytes, max_files })
    }

    /// Writes as much as the disk takes; an error means that nothing more went in.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.size += count as u64;
        Ok(count)
    }

    /// Call between two lines.
    pub(crate) fn is_due(&self) -> bool {
        self.max_bytes > 0 && self.size >= self.max_bytes
    }

    /// Grown to twice its size.
    pub(crate) fn is_overdue(&self) -> bool {
        self.is_due() && self.size / 2 >= self.max_bytes
    }

    /// path → path.1 → path.2 …; the oldest goes.
    pub(crate) fn rotate(&mut self) -> Result<(), SysError> {
        if self.max_files == 0 {
            remove(&self.path)?;
        }
        for number in (1..=self.max_files).rev() {
            let from = if number == 1 { self.path.clone() } else { self.numbered(number - 1) };
            match fs::rename(&from, self.numbered(number)) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed("rename", &from)(source));
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.reopen()
    }

    /// Leaves the open file to whoever renamed it and opens the path anew.
    pub(crate) fn reopen(&mut self) -> Result<(), SysError> {
        let file = open_append(&self.path)?;
        self.size = file.metadata().map_err(failed("stat", &self.path))?.len();
        self.file = file;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!(".{number}"));
        PathBuf::from(path)
    }
}

fn open_append(path: &Path) -> Result<File, SysError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(failed("open", path))
}

#[cfg(test)]
mod tests {
    use super::{LogFile, read, write_atomic};

    #[test]
    fn rotation_keeps_the_newest() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, 4, 2).expect("open");
        for text in ["aaaa", "bbbb", "cccc", "dddd"] {
            assert_eq!(log.write(text.as_bytes()).expect("write"), 4);
            assert!(log.is_due());
            log.rotate().expect("rotate");
        }
        assert_eq!(read(&path).expect("current"), b"");
        assert_eq!(read(&folder.path().join("log.1")).expect("newest"), b"dddd");
        assert_eq!(read(&folder.path().join("log.2")).expect("older"), b"cccc");
        assert!(read(&folder.path().join("log.3")).is_err());
    }

    #[test]
    fn atomic_files_replace() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("exit.json");
        write_atomic(&path, b"one").expect("written");
        write_atomic(&path, b"two").expect("written");
        assert_eq!(read(&path).expect("there"), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).expect("list").count(), 1);
    }
}
