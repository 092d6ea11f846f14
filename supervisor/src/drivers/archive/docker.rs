//! `docker save`: `manifest.json` names a config, layers (plain tars) and tags for each image.

use serde::Deserialize;

use super::{Error, Files, Found};
use crate::drivers::{
    content::{Blob, ContentStore},
    oci::{Descriptor, Manifest, media},
    unpack::Compression,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Adds the images of `manifest.json`. One that the OCI layout beside it has already gets the tags.
pub(super) fn add(
    files: &Files,
    content: &ContentStore,
    found: &mut Vec<Found>,
) -> Result<(), Error> {
    const DOCUMENT: &str = "manifest.json";
    let Some(bytes) = files.document(DOCUMENT, content)? else { return Ok(()) };
    let saved: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|source| Error::Document { document: DOCUMENT, source })?;
    for image in saved {
        let missing = |path: &str| Error::Missing { path: path.into(), document: DOCUMENT };
        let config = files.find(&image.config).ok_or_else(|| missing(&image.config))?;
        let tags = image.repo_tags.unwrap_or_default();
        if let Some(known) = found.iter_mut().find(|f| f.manifest.config.digest == config.digest) {
            let new: Vec<_> = tags.into_iter().filter(|t| !known.names.contains(t)).collect();
            known.names.extend(new);
            continue;
        }
        let mut layers = Vec::new();
        for path in image.layers.unwrap_or_default() {
            let blob = files.find(&path).ok_or_else(|| missing(&path))?;
            layers.push(describe(blob, layer_type(blob, content)?));
        }
        let manifest = Manifest::synthesise(describe(config, media::OCI_CONFIG), layers);
        let blob = content.put(&manifest.to_bytes())?;
        found.push(Found {
            names: tags,
            target: blob.digest.clone(),
            manifest_digest: blob.digest.clone(),
            documents: vec![blob],
            manifest,
        });
    }
    Ok(())
}

fn describe(blob: &Blob, media_type: &str) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: blob.digest.clone(),
        size: blob.size_bytes,
        urls: Vec::new(),
        annotations: Default::default(),
        platform: None,
    }
}

/// Docker's layers are plain tars; other tools compress them.
fn layer_type(blob: &Blob, content: &ContentStore) -> Result<&'static str, Error> {
    Ok(match Compression::detect(&content.first_bytes(&blob.digest)?) {
        Compression::None => media::OCI_LAYER,
        Compression::Gzip => media::OCI_LAYER_GZIP,
        Compression::Zstd => media::OCI_LAYER_ZSTD,
    })
}
