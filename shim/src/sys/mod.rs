//! The kernel, files and sockets, and all of the crate's unsafe code. Decides nothing.

#![allow(unsafe_code)]

pub(crate) mod cgroup;
pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod files;
pub(crate) mod handover;
pub(crate) mod journal;
pub(crate) mod logger;
pub(crate) mod memory;
pub(crate) mod pidfd;
pub(crate) mod pipes;
pub(crate) mod poller;
pub(crate) mod process;
pub(crate) mod rights;
pub(crate) mod sockets;

use wharf_proto::kind::Kind;

/// A call to the kernel that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {object}")]
pub(crate) struct SysError {
    pub(crate) action: &'static str,
    pub(crate) object: String,
    #[source]
    pub(crate) source: std::io::Error,
}

impl SysError {
    pub(crate) fn new(
        action: &'static str,
        object: impl Into<String>,
        source: impl Into<std::io::Error>,
    ) -> Self {
        Self { action, object: object.into(), source: source.into() }
    }

    pub(crate) fn kind(&self) -> Kind {
        use std::io::ErrorKind as Io;

        match self.source.kind() {
            Io::NotFound => Kind::NotFound,
            Io::PermissionDenied => Kind::Denied,
            Io::AlreadyExists | Io::AddrInUse => Kind::AlreadyExists,
            Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory => Kind::Exhausted,
            Io::TimedOut => Kind::Deadline,
            Io::InvalidInput | Io::InvalidFilename => Kind::Invalid,
            _ => match self.source.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => Kind::Exhausted,
                _ => Kind::Internal,
            },
        }
    }
}
