//! What can go wrong with the store.

use std::{io, path::Path, path::PathBuf};

use wharf_proto::kind::Kind;

use crate::fault::{Detail, Fault, io_kind};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder can't be made, read or flushed.
    #[error("metadata folder {}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// sled does not open.
    #[error("open the metadata in {}", folder.display())]
    Open {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: sled::Error,
    },
    /// sled does not answer.
    #[error("read the metadata")]
    Read(#[source] sled::Error),
    /// The mark of the schema is damaged.
    #[error("the metadata does not say its schema: it is not Wharf's or it is damaged")]
    NoSchema,
    /// A newer Wharf wrote it.
    #[error(
        "the metadata has schema {found}, this wharfd knows up to {known}: start the newer wharfd again"
    )]
    NewerSchema {
        /// In the store.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A record is not what it should be.
    #[error("record {key:?} of {tree}")]
    Record {
        /// Its kind.
        tree: &'static str,
        /// Its key, as text.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A record is too large for the store.
    #[error("record {key:?} of {tree} would be {len} bytes, over the limit of {limit}")]
    TooLarge {
        /// Its kind.
        tree: &'static str,
        /// Its key, as text.
        key: String,
        /// Bytes.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// No room for anything new.
    #[error("the disk of the metadata is full: free some space; stop, delete and list still work")]
    Full,
    /// The file is damaged.
    #[error("the metadata in {} is damaged: {problem}", folder.display())]
    Damaged {
        /// Which.
        folder: PathBuf,
        /// How it shows.
        problem: String,
    },
    /// A backup can't be read or written.
    #[error("backup of the metadata")]
    Backup(#[source] io::Error),
    /// A file is not a backup, or not a whole one.
    #[error("line {line} of the backup: {problem}")]
    BadBackup {
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// There is a store already.
    #[error("{} has metadata already: move it away first", folder.display())]
    Occupied {
        /// Where.
        folder: PathBuf,
    },
    /// The thread can't be started.
    #[error("start the thread that writes the metadata")]
    Thread(#[source] io::Error),
    /// The thread has ended, which ends the process.
    #[error("the thread that writes the metadata has ended")]
    WriterGone,
}

impl Error {
    /// Whether it is the files themselves that are no good: whoever sets them aside can begin anew.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::NoSchema)
    }

    pub(super) fn folder(folder: &Path, source: io::Error) -> Self {
        Self::Folder { folder: folder.into(), source }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Folder { source, .. } | Self::Backup(source) => io_kind(source),
            Self::NewerSchema { .. } | Self::Occupied { .. } => Kind::Precondition,
            Self::NoSchema | Self::Record { .. } | Self::Damaged { .. } => Kind::Corrupt,
            Self::TooLarge { .. } | Self::BadBackup { .. } => Kind::Invalid,
            Self::Full => Kind::Exhausted,
            Self::Open { .. } | Self::Read(_) | Self::Thread(_) | Self::WriterGone => {
                Kind::Internal
            }
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "RECORD_TOO_LARGE",
            Self::NewerSchema { .. } => "NEWER_SCHEMA",
            Self::NoSchema | Self::Record { .. } | Self::Damaged { .. } => "METADATA_DAMAGED",
            Self::Full => "DISK_FULL",
            Self::Backup(_) | Self::BadBackup { .. } => "BACKUP",
            Self::Occupied { .. } => "METADATA_OCCUPIED",
            Self::Folder { .. }
            | Self::Open { .. }
            | Self::Read(_)
            | Self::Thread(_)
            | Self::WriterGone => "METADATA_UNAVAILABLE",
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::Record { tree, key, .. } | Self::TooLarge { tree, key, .. } => {
                Detail::Resource { kind: tree, name: key.clone() }
            }
            _ => Detail::None,
        }
    }
}
