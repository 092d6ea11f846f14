//! What can go wrong with a layer.

use std::{io, path::PathBuf};

use wharf_proto::kind::Kind;

use super::tar;
use crate::{
    drivers::content::Digest,
    fault::{Detail, Fault, io_kind},
};

/// An error of unpacking a layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blob's bytes did not come. Whoever gave the source knows more.
    #[error("read the layer")]
    Source(#[source] io::Error),
    /// They came and can't be decompressed.
    #[error("decompress the layer")]
    Decompress(#[source] io::Error),
    /// They are no tar, or not one that is accepted.
    #[error("unpack the layer")]
    Tar(#[from] tar::Error),
    /// The tar is not the one that the image's config names.
    #[error("the layer's content is corrupted: it has the diff id {found} instead of {expected}")]
    DiffId {
        /// The config's word.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A path that would leave the layer.
    #[error("the layer has an entry {entry:?} that reaches outside of it")]
    Escape {
        /// Its path, or the target of a hard link.
        entry: String,
    },
    /// A parent that is no folder, a link to nothing, a loop of links.
    #[error("the layer has an entry {entry:?} whose parent is no folder in it")]
    Parent {
        /// Its path.
        entry: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A hard link to what is not in the layer.
    #[error("the layer has a hard link {entry:?} to {target:?}, which is no file in it")]
    LinkTarget {
        /// Its path.
        entry: String,
        /// What it asks for.
        target: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The layer asks for more than is allowed.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The kernel refuses to make an entry.
    #[error("{action} {entry:?} of the layer")]
    Entry {
        /// The verb.
        action: &'static str,
        /// Its path.
        entry: String,
        /// Why.
        source: io::Error,
    },
    /// The layer's folder can't be used.
    #[error("{action} {}", path.display())]
    Folder {
        /// The verb.
        action: &'static str,
        /// Of the folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Source(_) => Kind::Unavailable,
            Self::Decompress(_) | Self::Tar(_) | Self::DiffId { .. } => Kind::Corrupt,
            Self::Escape { .. } | Self::Parent { .. } | Self::LinkTarget { .. } => Kind::Invalid,
            Self::Limit { .. } => Kind::Exhausted,
            Self::Entry { source, .. } | Self::Folder { source, .. } => io_kind(source),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Source(_) => "LAYER_UNREADABLE",
            Self::Decompress(_) | Self::Tar(_) | Self::DiffId { .. } => "LAYER_CORRUPTED",
            Self::Escape { .. } | Self::Parent { .. } | Self::LinkTarget { .. } => "LAYER_HOSTILE",
            Self::Limit { .. } => "LAYER_TOO_LARGE",
            Self::Entry { .. } | Self::Folder { .. } => "LAYER_IO",
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::DiffId { expected, .. } => {
                Detail::Resource { kind: "layer", name: expected.to_string() }
            }
            Self::Source(_)
            | Self::Decompress(_)
            | Self::Tar(_)
            | Self::Escape { .. }
            | Self::Parent { .. }
            | Self::LinkTarget { .. }
            | Self::Limit { .. }
            | Self::Entry { .. }
            | Self::Folder { .. } => Detail::None,
        }
    }
}
