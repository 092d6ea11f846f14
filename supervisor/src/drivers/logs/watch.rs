//! Being told that a log has grown or was rotated (inotify(7)).

use std::{io, path::Path};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tokio::net::unix::pipe;

/// A watch on the file that a path names now.
#[derive(Debug)]
pub struct LogWatch {
    /// inotify's descriptor: like the end of a pipe, something to poll and to read.
    inotify: pipe::Receiver,
    /// The kernel's number for what is watched.
    watched: Option<i32>,
}

impl LogWatch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// When the host has no more inotify instances (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let inotify = pipe::Receiver::from_owned_fd_unchecked(inotify)?;
        Ok(Self { inotify, watched: None })
    }

    /// Watches what `path` names now, in place of what was watched before. Read after this, not
    /// before, and nothing is missed. A file that is not there is no error: ask again soon.
    ///
    /// # Errors
    /// When the kernel refuses the watch.
    pub fn watch(&mut self, path: &Path) -> io::Result<bool> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF
            | WatchFlags::CLOSE_WRITE;
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(watched) => {
                if let Some(old) = self.watched.replace(watched)
                    && old != watched
                {
                    // Gone with its file, perhaps.
                    let _ = inotify::remove_watch(&self.inotify, old);
                }
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for a change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When inotify fails.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            self.inotify.readable().await?;
            match self.inotify.try_read(&mut [0; 4096]) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(_) => return Ok(()),
            }
        }
    }
}
