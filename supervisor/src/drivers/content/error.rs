//! What can go wrong with the content store.

use std::{
    io,
    path::{Path, PathBuf},
};

use wharf_proto::kind::Kind;

use super::Digest;
use crate::fault::{Detail, Fault, io_kind};

/// An error of the content store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob is not here.
    #[error("blob {0} is not in the content store")]
    NotFound(Digest),
    /// The bytes are not what their digest says.
    #[error("blob {expected} is corrupted: its bytes have the digest {found}")]
    Corrupt {
        /// What it should have been.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// More or fewer bytes than announced.
    #[error("blob {digest} is corrupted: it has {found} bytes instead of {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// Bytes announced.
        expected: u64,
        /// Bytes found (at least).
        found: u64,
    },
    /// A blob that is read whole into memory is too large for that.
    #[error("blob {digest} has {size} bytes where at most {limit} are allowed")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A file of the store can't be made, read, written or flushed.
    #[error("{action} {}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// Of the file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// The digest of the blob that this is about.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::NotFound(digest)
            | Self::Corrupt { expected: digest, .. }
            | Self::Size { digest, .. }
            | Self::TooLarge { digest, .. } => Some(digest),
            Self::Io { .. } => None,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Corrupt { .. } | Self::Size { .. } => Kind::Corrupt,
            Self::TooLarge { .. } => Kind::Invalid,
            Self::Io { source, .. } => io_kind(source),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "BLOB_NOT_FOUND",
            Self::Corrupt { .. } | Self::Size { .. } => "BLOB_CORRUPTED",
            Self::TooLarge { .. } => "BLOB_TOO_LARGE",
            Self::Io { .. } => "CONTENT_IO",
        }
    }

    fn detail(&self) -> Detail {
        self.digest().map_or(Detail::None, |digest| Detail::Resource {
            kind: "blob",
            name: digest.to_string(),
        })
    }
}
