//! What can go wrong with an archive of images.

use std::io;

use wharf_proto::kind::Kind;

use crate::{
    drivers::{content, oci::ManifestError, unpack::tar},
    fault::{Detail, Fault},
};

/// An error of an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It did not come whole.
    #[error("read the archive")]
    Source(#[source] io::Error),
    /// Whoever it is written to takes no more.
    #[error("write the archive")]
    Sink(#[source] io::Error),
    /// It is no tar.
    #[error("the archive is not a tar, plain, gzip or zstd")]
    Tar(#[source] tar::Error),
    /// A tar without an image.
    #[error("the archive has neither an index.json (OCI layout) nor a manifest.json (docker save)")]
    NoImage,
    /// Too much in it.
    #[error("the archive has more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// A file that one of its documents names.
    #[error("the archive lacks {path:?}, which its {document} names")]
    Missing {
        /// The file.
        path: String,
        /// The document.
        document: &'static str,
    },
    /// A document that can't be read.
    #[error("the archive's {document} is damaged")]
    Document {
        /// Which.
        document: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A manifest in it.
    #[error("the archive's manifest")]
    Manifest(#[from] ManifestError),
    /// A blob of it.
    #[error("the archive's content")]
    Content(#[from] content::Error),
}

impl From<tar::Error> for Error {
    fn from(error: tar::Error) -> Self {
        match error {
            tar::Error::Read(source) => Self::Source(source),
            tar::Error::Limit { what, limit } => Self::Limit { what, limit },
            other => Self::Tar(other),
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Source(_) | Self::Sink(_) => Kind::Cancelled,
            Self::Tar(_) | Self::NoImage | Self::Missing { .. } | Self::Document { .. } => {
                Kind::Invalid
            }
            Self::Limit { .. } => Kind::Exhausted,
            Self::Manifest(error) => error.kind(),
            Self::Content(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Source(_) | Self::Sink(_) => "ARCHIVE_CUT_SHORT",
            Self::Tar(_) | Self::Document { .. } => "ARCHIVE_DAMAGED",
            Self::NoImage => "NO_IMAGE_IN_ARCHIVE",
            Self::Missing { .. } => "ARCHIVE_INCOMPLETE",
            Self::Limit { .. } => "ARCHIVE_TOO_LARGE",
            Self::Manifest(error) => error.reason(),
            Self::Content(error) => error.reason(),
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::Manifest(error) => error.detail(),
            Self::Content(error) => error.detail(),
            _ => Detail::None,
        }
    }
}
