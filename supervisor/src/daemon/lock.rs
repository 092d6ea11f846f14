//! One wharfd a folder: a lock that ends with the process.

use std::{
    fs::{self, File, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::Path,
    time::{Duration, Instant},
};

use super::Error;

const NAME: &str = "wharfd.lock";
/// A supervisor that was killed a moment ago holds its lock until the kernel has taken it apart.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// A lock that is held; the kernel gives it back when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Lock {
    /// Locks a folder and writes down the pid.
    pub(super) fn take(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(NAME);
        let error = |source| Error::File { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(error)?;
        let patience = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::WouldBlock) if Instant::now() < patience => {
                    std::thread::sleep(PAUSE);
                }
                Err(fs::TryLockError::WouldBlock) => {
                    let pid = fs::read_to_string(&path).unwrap_or_default();
                    let pid = pid.trim().to_owned();
                    return Err(Error::Locked { folder: folder.into(), pid });
                }
                Err(fs::TryLockError::Error(source)) => return Err(error(source)),
            }
        }
        write_pid(file, &path)
    }

    /// The lock of `folder` that another process took and gave us, as an open file.
    pub(super) fn given(folder: &Path, lock: OwnedFd) -> Result<Self, Error> {
        let path = folder.join(NAME);
        let file = File::from(lock);
        // It is held by whoever has the open file: for us this changes nothing.
        match file.try_lock() {
            Ok(()) => write_pid(file, &path),
            Err(fs::TryLockError::WouldBlock) => {
                Err(Error::Locked { folder: folder.into(), pid: String::new() })
            }
            Err(fs::TryLockError::Error(source)) => Err(Error::File { path, source }),
        }
    }
}

fn write_pid(mut file: File, path: &Path) -> Result<Lock, Error> {
    let written = file
        .set_len(0)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| writeln!(file, "{}", std::process::id()));
    written.map_err(|source| Error::File { path: path.into(), source })?;
    Ok(Lock { file })
}
