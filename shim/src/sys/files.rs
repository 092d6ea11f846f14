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

/// Removes a folder and all in it. Not there is fine.
pub(crate) fn remove_folder(path: &Path) -> Result<(), SysError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|source| SysError::new("remove", path.display().to_string(), source)),
    }
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

/// Removes the files of a folder whose names begin and end like this.
pub(crate) fn remove_like(folder: &Path, begin: &str, end: &str) -> Result<(), SysError> {
    for entry in fs::read_dir(folder).map_err(failed("list", folder))?.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(begin) && name.ends_with(end)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes the end of a log whole: a shim that is killed may leave a part of a line. `judge` says
/// what to do with the part.
pub(crate) fn mend(path: &Path, judge: impl FnOnce(&[u8]) -> Torn) -> Result<(), SysError> {
    use std::os::unix::fs::FileExt as _;

    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(failed("open", path))?,
    };
    let size = file.metadata().map_err(failed("stat", path))?.len();
    let from = size.saturating_sub(LONGEST_LINE);
    let mut tail = vec![0; usize::try_from(size - from).unwrap_or(0)];
    file.read_exact_at(&mut tail, from).map_err(failed("read", path))?;
    let start = memchr::memrchr(b'\n', &tail).map_or(0, |end| end + 1);
    if start == tail.len() {
        return Ok(());
    }
    let begin = from + start as u64;
    match judge(&tail[start..]) {
        Torn::Drop => file.set_len(begin),
        Torn::Close { at, byte } => file
            .write_all_at(&[byte], begin + at as u64)
            .and_then(|()| file.write_all_at(b"\n", size)),
    }
    .map_err(failed("mend", path))
}

/// More than any line of a log has.
const LONGEST_LINE: u64 = 128 << 10;

/// What becomes of a part of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Torn {
    Drop,
    /// One byte is changed, and the line ended.
    Close {
        at: usize,
        byte: u8,
    },
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

    /// Path, bytes before a rotation, rotated files.
    pub(crate) fn limits(&self) -> (&Path, u64, u32) {
        (&self.path, self.max_bytes, self.max_files)
    }

    /// Takes the last bytes back. Best effort.
    pub(crate) fn cut(&mut self, count: usize) {
        let size = self.size.saturating_sub(count as u64);
        if count > 0 && self.file.set_len(size).is_ok() {
            self.size = size;
        }
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
