//! Images as they are kept.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{
    drivers::{content::Digest, signatures::Signature},
    ids::Namespace,
    store::Record,
};

/// An image of a namespace, kept under "namespace/id".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Where it is known.
    pub namespace: Namespace,
    /// Digest of its config.
    pub id: Digest,
    /// Its names, in the order they came. None: it is dangling.
    pub names: Vec<Name>,
    /// Digest of the manifest for its platform.
    pub manifest_digest: Digest,
    /// "linux/amd64".
    pub platform: String,
    /// Chain id of its top layer; none for an image with no layers.
    pub chain_id: Option<Digest>,
    /// Its blobs: documents, config, layers.
    pub blobs: Vec<BlobRef>,
    /// Bytes of its layers, unpacked.
    pub size_bytes: u64,
    /// When it was built, by its own word.
    pub created_unix_ns: Option<i64>,
    /// When it came here.
    pub imported_unix_ns: i64,
    /// What stood beside it in its registry, where the policy asked for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
}

/// A name of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// In full: "docker.io/library/alpine:3.20".
    pub reference: String,
    /// What it points to: a manifest or an index.
    pub digest: Digest,
}

/// A blob of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size_bytes: u64,
}

impl Record for Image {
    const TREE: &'static str = "images";
}

/// Which image a name means, kept under "namespace/reference".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NameRecord {
    pub(super) image: Digest,
}

impl Record for NameRecord {
    const TREE: &'static str = "image_names";
}

/// A namespace has no slash in it, so no two keys are the same.
pub(super) fn key(namespace: &Namespace, name: impl std::fmt::Display) -> Vec<u8> {
    format!("{namespace}/{name}").into_bytes()
}

impl Image {
    pub(super) fn key(&self) -> Vec<u8> {
        key(&self.namespace, &self.id)
    }

    /// What its first name points to, or its manifest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        self.names.first().map_or(&self.manifest_digest, |name| &name.digest)
    }

    /// Bytes of its blobs, each counted once.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        let mut seen = HashSet::new();
        self.blobs.iter().filter(|b| seen.insert(&b.digest)).map(|b| b.size_bytes).sum()
    }

    pub(super) fn has_name(&self, reference: &str) -> bool {
        self.names.iter().any(|name| name.reference == reference)
    }

    pub(super) fn drop_name(&mut self, reference: &str) {
        self.names.retain(|name| name.reference != reference);
    }

    pub(super) fn add_blobs(&mut self, blobs: impl IntoIterator<Item = BlobRef>) {
        for blob in blobs {
            if !self.blobs.iter().any(|known| known.digest == blob.digest) {
                self.blobs.push(blob);
            }
        }
    }
}
