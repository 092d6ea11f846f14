//! What can go wrong with images.

use wharf_proto::kind::Kind;

use crate::{
    drivers::{
        archive,
        content::{self, Digest},
        oci::{ManifestError, PlatformError, ReferenceError},
        registry,
        signatures::Refusal,
        snapshots, unpack,
    },
    fault::{Detail, Fault, io_kind},
    store,
};

/// An error of the images.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image of that name or id.
    #[error("image {0:?} is not here: pull or import it first")]
    NotFound(String),
    /// Several ids begin so.
    #[error("{prefix:?} is the beginning of {count} image ids: give more digits")]
    Ambiguous {
        /// As asked.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// Not a reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Not a platform.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// A container was made from it.
    #[error("image {image} is used by container {container}: remove that first, or force")]
    InUse {
        /// As asked.
        image: String,
        /// One of its containers.
        container: String,
    },
    /// The signature policy does not let it in.
    #[error("image {image} is refused: {refusal}")]
    Refused {
        /// In full.
        image: String,
        /// Why.
        refusal: Refusal,
    },
    /// A container runs on it.
    #[error(
        "image {image} is what container {container} runs on: stop that first; this can't be forced"
    )]
    Running {
        /// As asked.
        image: String,
        /// One of its containers.
        container: String,
    },
    /// It has several names, and was given by its id.
    #[error("image {image} has the names {}: give the one to remove, or force", names.join(", "))]
    SeveralNames {
        /// As asked.
        image: String,
        /// All of them.
        names: Vec<String>,
    },
    /// The config is not one.
    #[error("the config {digest} of the image is damaged: {problem}")]
    Config {
        /// Of the config.
        digest: Digest,
        /// What is wrong with it.
        problem: String,
    },
    /// The token of a page.
    #[error("{0:?} is not a token of a page of images")]
    PageToken(String),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The content store.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// The layers' folders.
    #[error(transparent)]
    Snapshots(#[from] snapshots::Error),
    /// A layer.
    #[error("layer {blob}")]
    Layer {
        /// Digest of its blob.
        blob: Digest,
        /// What is wrong with it.
        source: unpack::Error,
    },
    /// A new layer.
    #[error("write the layer")]
    Pack {
        /// Why not.
        source: std::io::Error,
    },
    /// The archive.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The records.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The caller gave up, or the process ends.
    #[error("given up before the image was complete")]
    Cancelled,
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) => Kind::NotFound,
            Self::Ambiguous { .. }
            | Self::Reference(_)
            | Self::Platform(_)
            | Self::PageToken(_) => Kind::Invalid,
            Self::InUse { .. } | Self::Running { .. } | Self::SeveralNames { .. } => {
                Kind::Precondition
            }
            Self::Refused { .. } => Kind::Denied,
            Self::Config { .. } => Kind::Corrupt,
            Self::Cancelled => Kind::Cancelled,
            Self::Registry(error) => error.kind(),
            Self::Manifest(error) => error.kind(),
            Self::Content(error) => error.kind(),
            Self::Snapshots(error) => error.kind(),
            Self::Layer { source, .. } => source.kind(),
            Self::Pack { source } => io_kind(source),
            Self::Archive(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "IMAGE_NOT_FOUND",
            Self::Ambiguous { .. } => "AMBIGUOUS_ID",
            Self::Reference(_) => "BAD_REFERENCE",
            Self::Platform(_) => "BAD_PLATFORM",
            Self::PageToken(_) => "BAD_PAGE_TOKEN",
            Self::InUse { .. } | Self::Running { .. } => "IMAGE_IN_USE",
            Self::SeveralNames { .. } => "IMAGE_HAS_SEVERAL_NAMES",
            Self::Refused { .. } => "SIGNATURE_POLICY",
            Self::Config { .. } => "CONFIG_DAMAGED",
            Self::Cancelled => "CANCELLED",
            Self::Registry(error) => error.reason(),
            Self::Manifest(error) => error.reason(),
            Self::Content(error) => error.reason(),
            Self::Snapshots(error) => error.reason(),
            Self::Layer { source, .. } => source.reason(),
            Self::Pack { .. } => "LAYER_IO",
            Self::Archive(error) => error.reason(),
            Self::Store(error) => error.reason(),
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::NotFound(image) => Detail::Resource { kind: "image", name: image.clone() },
            Self::Ambiguous { .. } => Detail::Field("image".into()),
            Self::Reference(_) => Detail::Field("reference".into()),
            Self::Platform(_) => Detail::Field("platform".into()),
            Self::PageToken(_) => Detail::Field("page_token".into()),
            Self::InUse { container, .. } | Self::Running { container, .. } => {
                Detail::State(format!("used by container {container}"))
            }
            Self::SeveralNames { names, .. } => Detail::State(format!("{} names", names.len())),
            Self::Refused { image, .. } => Detail::Resource { kind: "image", name: image.clone() },
            Self::Config { digest, .. } => {
                Detail::Resource { kind: "blob", name: digest.to_string() }
            }
            Self::Cancelled | Self::Pack { .. } => Detail::None,
            Self::Registry(error) => error.detail(),
            Self::Manifest(error) => error.detail(),
            Self::Content(error) => error.detail(),
            Self::Snapshots(error) => error.detail(),
            Self::Layer { blob, .. } => Detail::Resource { kind: "layer", name: blob.to_string() },
            Self::Archive(error) => error.detail(),
            Self::Store(error) => error.detail(),
        }
    }
}
