//! Writes images as one tar: an OCI layout, and a `manifest.json` beside it for `docker load`.
//!
//! Blobs go out as they are in the content store, checked on the way, and names and times are fixed:
//! the same images make the same bytes.

use std::{
    collections::HashSet,
    io::{Read, Write},
};

use serde_json::json;

use super::Error;
use crate::drivers::{
    content::{ContentStore, Digest},
    oci::{Document, MAX_DOCUMENT_BYTES, media},
};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const FULL_NAME: &str = "io.containerd.image.name";
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

/// An image to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What its names point to: an index or the manifest.
    pub target: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Names in full that go with it.
    pub names: Vec<String>,
}

/// Writes the images. Blocks.
///
/// # Errors
/// When a blob is not here or corrupted, or `out` takes no more.
pub fn export(content: &ContentStore, images: &[Wanted], out: impl Write) -> Result<(), Error> {
    let mut index = Vec::new();
    let mut saved = Vec::new();
    let mut blobs: Vec<Digest> = Vec::new();
    for image in images {
        let bytes = content.read(&image.manifest, MAX_DOCUMENT_BYTES)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, &image.manifest)? else {
            return Err(Error::NoImage);
        };
        match whole_index(content, &image.target, MAX_DEPTH)? {
            Some(whole) => {
                index.extend(entries(image, &whole.media_type, &image.target, whole.size));
                blobs.extend(whole.blobs);
            }
            None => index.extend(entries(
                image,
                manifest.media_type(),
                &image.manifest,
                bytes.len() as u64,
            )),
        }
        saved.push(json!({
            "Config": path(&manifest.config.digest),
            "RepoTags": image.names,
            "Layers": manifest.layers.iter().map(|l| path(&l.digest)).collect::<Vec<_>>(),
        }));
        blobs.push(image.manifest.clone());
        blobs.push(manifest.config.digest);
        blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
    }
    let mut tar = tar::Builder::new(out);
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": index});
    for (name, text) in [
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string()),
        ("index.json", index.to_string()),
        ("manifest.json", json!(saved).to_string()),
    ] {
        append(&mut tar, name, text.len() as u64, text.as_bytes())?;
    }
    let mut written = HashSet::new();
    for digest in blobs {
        if !written.insert(digest.clone()) {
            continue;
        }
        let Some(blob) = content.stat(&digest)? else {
            return Err(crate::drivers::content::Error::NotFound(digest).into());
        };
        let mut reader = content.open_blob(&digest)?;
        let appended = append(&mut tar, &path(&digest), blob.size_bytes, &mut reader)
            // The tar takes no more than the length it was told, and the digest comes after that.
            .and_then(|()| reader.read(&mut [0]).map(drop).map_err(Error::Sink));
        if let Err(error) = appended {
            return Err(reader.corruption().map_or(error, Into::into));
        }
    }
    tar.into_inner().and_then(|mut out| out.flush()).map_err(Error::Sink)
}

struct Whole {
    media_type: String,
    size: u64,
    blobs: Vec<Digest>,
}

/// An index and all that it names, if it is one and all of it is here.
fn whole_index(
    content: &ContentStore,
    target: &Digest,
    depth: usize,
) -> Result<Option<Whole>, Error> {
    if depth == 0 || content.stat(target)?.is_none() {
        return Ok(None);
    }
    let bytes = content.read(target, MAX_DOCUMENT_BYTES)?;
    let document = Document::parse(&bytes, target)?;
    let media_type = document.media_type().to_owned();
    let Document::Index(index) = document else { return Ok(None) };
    let mut blobs = vec![target.clone()];
    for entry in &index.manifests {
        if content.stat(&entry.digest)?.is_none() {
            return Ok(None);
        }
        let bytes = content.read(&entry.digest, MAX_DOCUMENT_BYTES)?;
        match Document::parse(&bytes, &entry.digest)? {
            Document::Index(_) => match whole_index(content, &entry.digest, depth - 1)? {
                Some(inner) => blobs.extend(inner.blobs),
                None => return Ok(None),
            },
            Document::Manifest(manifest) => {
                blobs.push(entry.digest.clone());
                for blob in std::iter::once(manifest.config).chain(manifest.layers) {
                    if content.stat(&blob.digest)?.is_none() {
                        return Ok(None);
                    }
                    blobs.push(blob.digest);
                }
            }
        }
    }
    Ok(Some(Whole { media_type, size: bytes.len() as u64, blobs }))
}

/// One entry of the index for each name, or one for none.
fn entries(image: &Wanted, media_type: &str, digest: &Digest, size: u64) -> Vec<serde_json::Value> {
    let entry = |annotations: Option<serde_json::Value>| {
        let mut entry = json!({"mediaType": media_type, "digest": digest, "size": size});
        if let Some(annotations) = annotations {
            entry["annotations"] = annotations;
        }
        entry
    };
    if image.names.is_empty() {
        return vec![entry(None)];
    }
    image
        .names
        .iter()
        .map(|name| {
            let tag = name.rsplit_once(':').map_or(name.as_str(), |(_, tag)| tag);
            entry(Some(json!({FULL_NAME: name, REF_NAME: tag})))
        })
        .collect()
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    data: impl Read,
) -> Result<(), Error> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, name, data).map_err(Error::Sink)
}
