//! OCI's documents, as plain data: references, manifests, indexes, platforms. No I/O.

mod manifest;
mod platform;
mod reference;

pub use manifest::{
    Descriptor, Document, Index, MAX_DOCUMENT_BYTES, Manifest, ManifestError, media,
};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
