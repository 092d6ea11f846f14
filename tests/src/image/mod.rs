//! Small real images, made without network or tools: an OCI layout or what `docker save` writes.
//!
//! Owns the bytes of layers, config and manifest. Knows no daemon: [`crate::api`] loads an archive,
//! [`crate::registry`] pushes an image.

mod archive;
mod busybox;
mod layer;

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use busybox::{BUSYBOX, busybox, passwd_layer};
pub use layer::Layer;

/// Bytes and what they are called by.
#[derive(Clone, Debug)]
pub struct Blob {
    /// "sha256:…"
    pub digest: String,
    /// Media type in OCI's words.
    pub media_type: &'static str,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), media_type, bytes }
    }

    /// The digest without "sha256:".
    #[must_use]
    pub fn hex(&self) -> &str {
        self.digest.trim_start_matches("sha256:")
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// One layer as it travels and as it is unpacked.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// Compressed or not, as the manifest names it.
    pub blob: Blob,
    /// The tar.
    pub tar: Vec<u8>,
    /// Digest of the tar.
    pub diff_id: String,
}

/// How layers are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Plain tar.
    Plain,
    /// tar.gz
    Gzip,
}

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// The `config` object of the image's config: Entrypoint, Cmd, Env …
    pub config: Value,
    /// How layers are packed.
    pub packing: Packing,
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Image {
    /// "busybox:test"
    pub name: String,
    /// Lowest first.
    pub layers: Vec<BuiltLayer>,
    /// The image's config; its digest is the image's id.
    pub config: Blob,
    /// The manifest that names them.
    pub manifest: Blob,
}

impl Recipe {
    /// Packs the layers and writes config and manifest.
    ///
    /// # Errors
    /// When a layer can't be written as a tar.
    pub fn build(&self, name: &str) -> Result<Image> {
        let layers = self
            .layers
            .iter()
            .map(|layer| pack(layer, self.packing))
            .collect::<Result<Vec<_>>>()?;
        let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id.as_str()).collect();
        let history: Vec<_> = layers.iter().map(|_| json!({"created_by": "wharf-tests"})).collect();
        let config = json!({
            "created": "2024-05-06T07:08:09Z",
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config =
            Blob::new("application/vnd.oci.image.config.v1+json", serde_json::to_vec(&config)?);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": layers.iter().map(|l| l.blob.descriptor()).collect::<Vec<_>>(),
        });
        let manifest =
            Blob::new("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest)?);
        Ok(Image { name: name.to_owned(), layers, config, manifest })
    }
}

/// "sha256:…" of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// This machine's architecture as images name it.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn pack(layer: &Layer, packing: Packing) -> Result<BuiltLayer> {
    let tar = layer.tar()?;
    let blob = match packing {
        Packing::Plain => Blob::new("application/vnd.oci.image.layer.v1.tar", tar.clone()),
        Packing::Gzip => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&tar).context("compress a layer")?;
            let bytes = gzip.finish().context("compress a layer")?;
            Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", bytes)
        }
    };
    Ok(BuiltLayer { diff_id: digest(&tar), blob, tar })
}
