//! Files of a container, running or not, in and out as tars.
//!
//! The container is hostile and may be running: it can change any link and folder while we work. So
//! every path is resolved by the kernel below the container's root (openat2 with RESOLVE_IN_ROOT), the
//! last component is never followed unless that was asked for, and nothing is opened for writing that
//! we have not made.
//!
//! All of it blocks.

mod extract;
mod owners;
mod read;

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

pub use extract::{Keep, extract};
pub use owners::{Owners, Run};
pub use read::{Follow, Found, find};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};
use wharf_proto::kind::Kind;

use super::unpack;
use crate::fault::{Detail, Fault, io_kind};

const RETRIES: u32 = 1024;

/// An error of files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing at the path.
    #[error("there is no {0:?} in the container")]
    NotFound(String),
    /// Something else than a folder is.
    #[error("{0:?} in the container is no folder")]
    NotFolder(String),
    /// The path, or one in the archive, makes no sense.
    #[error("{path:?}: {problem}")]
    Path {
        /// Which.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A folder would be replaced by something else, or the other way around.
    #[error("{0:?} is a folder on one side only: one never replaces the other")]
    FolderInTheWay(String),
    /// The kernel refuses.
    #[error("{action} {path:?} in the container")]
    Io {
        /// The verb.
        action: &'static str,
        /// Of which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The archive can't be read.
    #[error("read the archive")]
    Archive(#[source] io::Error),
    /// It is no tar, or not one that is accepted.
    #[error("read the archive")]
    Tar(#[from] unpack::tar::Error),
    /// The tar can't be sent.
    #[error("send the archive")]
    Send(#[source] io::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::NotFolder(_) | Self::Path { .. } | Self::Archive(_) | Self::Tar(_) => {
                Kind::Invalid
            }
            Self::FolderInTheWay(_) => Kind::AlreadyExists,
            Self::Io { source, .. } | Self::Send(source) => io_kind(source),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "FILE_NOT_FOUND",
            Self::NotFolder(_) => "FILE_NOT_FOLDER",
            Self::Path { .. } => "FILE_PATH",
            Self::FolderInTheWay(_) => "FILE_FOLDER_IN_THE_WAY",
            Self::Io { .. } => "FILE_IO",
            Self::Archive(_) | Self::Tar(_) => "FILE_ARCHIVE",
            Self::Send(_) => "FILE_SEND",
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::NotFound(path) => Detail::Resource { kind: "file", name: path.clone() },
            _ => Detail::None,
        }
    }
}

impl Error {
    fn io(action: &'static str, path: &[u8], source: Errno) -> Self {
        match source {
            Errno::NOENT => Self::NotFound(shown(path)),
            Errno::NOTDIR => Self::NotFolder(shown(path)),
            _ => Self::Io { action, path: shown(path), source: source.into() },
        }
    }
}

/// For people; hostile ones are long.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(256).collect()
}

/// Opens a path as the container would, its root being `root`.
fn open_in(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"." } else { path };
    let mut tries = 0;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < RETRIES => tries += 1,
            other => return other,
        }
    }
}

/// Folder and last component; that is empty or a dot for a path that ends in a folder's own name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..=slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests;
