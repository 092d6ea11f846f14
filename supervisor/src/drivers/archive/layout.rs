//! OCI layouts: `index.json` names manifests and indexes in `blobs/`.

use super::{Error, Files, Found};
use crate::drivers::{
    content::{Blob, ContentStore, Digest},
    oci::{Descriptor, Document, MAX_DOCUMENT_BYTES, Platform},
};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's and Docker's: the full name, where the spec's is often only a tag.
const FULL_NAME: &str = "io.containerd.image.name";
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

pub(super) fn images(
    files: &Files,
    content: &ContentStore,
    platform: &Platform,
) -> Result<Vec<Found>, Error> {
    let Some(bytes) = files.document("index.json", content)? else { return Ok(Vec::new()) };
    let digest = Digest::of(&bytes);
    let Document::Index(index) = Document::parse(&bytes, &digest)? else {
        return Err(Error::NoImage);
    };
    let mut found: Vec<Found> = Vec::new();
    // Without names, an index of one image for each platform is one image.
    let is_one = index.manifests.len() > 1
        && index.manifests.iter().all(|m| name_of(m).is_none() && m.platform.is_some());
    if is_one {
        let entry = index.choose(platform, &digest)?;
        found.push(follow(entry, content, platform)?);
        return Ok(found);
    }
    for entry in &index.manifests {
        let image = follow(entry, content, platform)?;
        match found.iter_mut().find(|known| known.target == image.target) {
            Some(known) => known.names.extend(image.names),
            None => found.push(image),
        }
    }
    Ok(found)
}

/// A manifest or index and what it names, if all of that is here.
fn all_of(digest: &Digest, content: &ContentStore, depth: usize) -> Result<Vec<Blob>, Error> {
    let Some(blob) = content.stat(digest)?.filter(|_| depth > 0) else { return Ok(Vec::new()) };
    let bytes = content.read(digest, MAX_DOCUMENT_BYTES)?;
    let mut blobs = vec![blob];
    match Document::parse(&bytes, digest)? {
        Document::Manifest(manifest) => {
            for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
                let Some(blob) = content.stat(&part.digest)? else { return Ok(Vec::new()) };
                blobs.push(blob);
            }
        }
        Document::Index(index) => {
            for entry in &index.manifests {
                blobs.extend(all_of(&entry.digest, content, depth - 1)?);
            }
        }
    }
    Ok(blobs)
}

fn name_of(entry: &Descriptor) -> Option<&String> {
    entry.annotations.get(FULL_NAME).or_else(|| entry.annotations.get(REF_NAME))
}

/// From an entry of the index down to the manifest for the platform.
fn follow(entry: &Descriptor, content: &ContentStore, platform: &Platform) -> Result<Found, Error> {
    let names = name_of(entry).cloned().into_iter().collect();
    let target = entry.digest.clone();
    let mut documents = Vec::new();
    let mut at = entry.digest.clone();
    for _ in 0..MAX_DEPTH {
        let blob = content.stat(&at)?.ok_or_else(|| Error::Missing {
            path: format!("blobs/{}/{}", at.algorithm().as_str(), at.hex()),
            document: "index",
        })?;
        let bytes = content.read(&at, MAX_DOCUMENT_BYTES)?;
        documents.push(blob);
        match Document::parse(&bytes, &at)? {
            Document::Manifest(manifest) => {
                let manifest = *manifest;
                return Ok(Found { names, target, documents, manifest, manifest_digest: at });
            }
            Document::Index(index) => {
                // Other platforms that are in the archive stay with the image: it is one index.
                for other in &index.manifests {
                    documents.extend(all_of(&other.digest, content, MAX_DEPTH)?);
                }
                at = index.choose(platform, &at)?.digest.clone();
            }
        }
    }
    Err(Error::Limit { what: "indexes within indexes", limit: MAX_DEPTH as u64 })
}
