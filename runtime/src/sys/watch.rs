//! Word of the kernel's that something happened in a cgroup.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// A descriptor that is readable when there is word.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// cgroup v1: word about `control`, ordered by its directory's `cgroup.event_control`.
    pub(crate) fn eventfd(control: &Path, order: &Path) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let file = fs::File::open(control)?;
        fs::write(order, format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd()))?;
        Ok(Self(event.into()))
    }

    /// cgroup v2: each change of a file.
    pub(crate) fn inotify(file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(file, AddWatchFlags::IN_MODIFY)?;
        Ok(Self(inotify.into()))
    }

    /// Takes the word; whether there was any.
    pub(crate) fn take(&self) -> bool {
        let mut buffer = [0; 512];
        let mut any = false;
        while matches!(nix::unistd::read(&self.0, &mut buffer), Ok(1..)) {
            any = true;
        }
        any
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
