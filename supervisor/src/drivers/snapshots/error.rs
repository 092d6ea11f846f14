//! What can go wrong with snapshots.

use std::{
    io,
    path::{Path, PathBuf},
};

use wharf_proto::kind::Kind;

use crate::{
    drivers::content::Digest,
    fault::{Detail, Fault, io_kind},
    ids::ContainerId,
    store,
};

/// An error of the snapshotter.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No layer with this chain id is here.
    #[error("layer {0} is not here")]
    NoLayer(Digest),
    /// The container has no read-write layer.
    #[error("container {0} has no snapshot")]
    NoContainer(ContainerId),
    /// A file or folder of the snapshots.
    #[error("{action} {}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// Of the file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file in a root file system is too large to be read whole.
    #[error("{} in the image is larger than {limit} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Bytes allowed.
        limit: u64,
    },
    /// The records can't be read or written.
    #[error("the records of the layers")]
    Store(#[from] store::Error),
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoLayer(_) | Self::NoContainer(_) => Kind::NotFound,
            Self::Io { source, .. } => io_kind(source),
            Self::TooLarge { .. } => Kind::Invalid,
            Self::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NoLayer(_) => "LAYER_NOT_FOUND",
            Self::NoContainer(_) => "SNAPSHOT_NOT_FOUND",
            Self::Io { .. } => "SNAPSHOT_IO",
            Self::TooLarge { .. } => "FILE_TOO_LARGE",
            Self::Store(error) => error.reason(),
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::NoLayer(id) => Detail::Resource { kind: "layer", name: id.to_string() },
            Self::NoContainer(id) => Detail::Resource { kind: "container", name: id.to_string() },
            Self::Store(error) => error.detail(),
            Self::Io { .. } | Self::TooLarge { .. } => Detail::None,
        }
    }
}
