//! What can go wrong with volumes.

use std::{
    io,
    path::{Path, PathBuf},
};

use wharf_proto::kind::Kind;

use crate::{
    drivers::snapshots,
    fault::{Detail, Fault, io_kind},
    ids::IdError,
    store,
};

/// An error of a volume.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No volume is called that.
    #[error("no volume is called {0:?}: `wharf volume ls` lists them")]
    NotFound(String),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] IdError),
    /// One with that name and other options is there.
    #[error("volume {0} is there already, with other options or labels")]
    Exists(String),
    /// A container has it.
    #[error("volume {volume} is used by container {container}: remove that first")]
    InUse {
        /// Which.
        volume: String,
        /// One of its users.
        container: String,
    },
    /// A driver or an option that is not there.
    #[error("{field}: {problem}")]
    Field {
        /// Its path.
        field: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file or folder of the volumes.
    #[error("{action} {}", path.display())]
    Io {
        /// The verb.
        action: &'static str,
        /// Of the file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image that it is filled from.
    #[error("fill volume {volume} from the image")]
    Fill {
        /// Which.
        volume: String,
        /// Why not.
        source: snapshots::Error,
    },
    /// The records.
    #[error(transparent)]
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
            Self::NotFound(_) => Kind::NotFound,
            Self::Name(_) | Self::Field { .. } => Kind::Invalid,
            Self::Exists(_) => Kind::AlreadyExists,
            Self::InUse { .. } => Kind::Precondition,
            Self::Io { source, .. } => io_kind(source),
            Self::Fill { source, .. } => source.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "VOLUME_NOT_FOUND",
            Self::Name(_) | Self::Field { .. } => "INVALID_FIELD",
            Self::Exists(_) => "VOLUME_EXISTS",
            Self::InUse { .. } => "VOLUME_IN_USE",
            Self::Io { .. } => "VOLUME_IO",
            Self::Fill { source, .. } => source.reason(),
            Self::Store(error) => error.reason(),
        }
    }

    fn detail(&self) -> Detail {
        let volume = |name: &String| Detail::Resource { kind: "volume", name: name.clone() };
        match self {
            Self::NotFound(name) | Self::Exists(name) => volume(name),
            Self::InUse { container, .. } => {
                Detail::State(format!("used by container {container}"))
            }
            Self::Name(_) => Detail::Field("name".into()),
            Self::Field { field, .. } => Detail::Field((*field).into()),
            Self::Fill { volume: name, .. } => volume(name),
            Self::Io { .. } => Detail::None,
            Self::Store(error) => error.detail(),
        }
    }
}
