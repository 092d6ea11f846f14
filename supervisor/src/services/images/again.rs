//! Images whose records were lost: taken in again from their documents in the content store.

use std::collections::HashMap;

use super::{
    Error, Images,
    assemble::{Plan, parse_config},
    blocking,
    layer::Source,
    progress::Reporter,
};
use crate::{
    drivers::{
        content::{Blob, ContentStore, Digest},
        oci::{Document, MAX_DOCUMENT_BYTES, Manifest, Platform},
    },
    ids::Namespace,
};

/// What is still known of an image: who uses it, and by what name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KnownAs {
    /// Where.
    pub namespace: Namespace,
    /// As it was asked for.
    pub reference: String,
}

/// A manifest in the content store, with all that it names.
struct Whole {
    document: Blob,
    manifest: Manifest,
    config: Vec<u8>,
}

impl Images {
    /// Records every image whose manifest, config and layers are here and that no record names:
    /// under the names that `known` has for its config, or under none. Gives how many.
    ///
    /// # Errors
    /// When the content can't be listed.
    pub async fn take_in_again(
        &self,
        known: &HashMap<String, Vec<KnownAs>>,
    ) -> Result<usize, Error> {
        let hold = self.hold().await;
        let content = self.inner.content.clone();
        let found = blocking(move || Ok(whole_images(&content)?)).await?;
        let reporter = Reporter::default();
        let mut count = 0;
        for Whole { document, manifest, config } in found {
            let id = manifest.config.digest.to_string();
            let namespace: Namespace = "default".parse().expect("a name");
            let nameless = [KnownAs { namespace, reference: String::new() }];
            let names = known.get(&id).map_or(nameless.as_slice(), Vec::as_slice);
            for name in names {
                if self.get(&name.namespace, &id).is_ok() {
                    continue;
                }
                let reference = name.reference.parse::<crate::drivers::oci::Reference>();
                let names: Vec<String> = reference.iter().map(ToString::to_string).collect();
                let digests = [&document.digest];
                let digest = &manifest.config.digest;
                if let Err(error) = self.check_import(&name.namespace, &names, digest, &digests) {
                    let error = crate::fault::chain(&error);
                    tracing::warn!(image = id, error, "image is not taken in again");
                    continue;
                }
                let plan = Plan {
                    namespace: name.namespace.clone(),
                    names,
                    target: document.digest.clone(),
                    documents: vec![document.clone()],
                    manifest: manifest.clone(),
                    manifest_digest: document.digest.clone(),
                    config: parse_config(&config, &manifest.config.digest)?,
                    signatures: Vec::new(),
                    topic: "image.found",
                };
                match self.assemble(plan, Source::Content, 1, &reporter).await {
                    Ok(_) => count += 1,
                    Err(error) => {
                        let error = crate::fault::chain(&error);
                        tracing::warn!(image = id, error, "image is not taken in again");
                    }
                }
            }
        }
        hold.end_quietly();
        Ok(count)
    }
}

/// Manifests of this host's platform whose parts are all here.
fn whole_images(content: &ContentStore) -> Result<Vec<Whole>, crate::drivers::content::Error> {
    let mut found = Vec::new();
    for blob in content.list()? {
        if blob.size_bytes > MAX_DOCUMENT_BYTES
            || !content.first_bytes(&blob.digest).is_ok_and(|first| first.starts_with(b"{"))
        {
            continue;
        }
        // One that is damaged is none.
        let Ok(bytes) = content.read(&blob.digest, MAX_DOCUMENT_BYTES) else { continue };
        let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, &blob.digest) else {
            continue;
        };
        let Ok(config) = content.read(&manifest.config.digest, MAX_DOCUMENT_BYTES) else {
            continue;
        };
        let here = |digest: &Digest| content.stat(digest).is_ok_and(|blob| blob.is_some());
        if !manifest.layers.iter().all(|layer| here(&layer.digest)) || !for_this_host(&config) {
            continue;
        }
        found.push(Whole { document: blob, manifest: *manifest, config });
    }
    Ok(found)
}

fn for_this_host(config: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Of {
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        os: String,
    }
    let host = Platform::host();
    serde_json::from_slice::<Of>(config)
        .is_ok_and(|of| of.os == host.os && of.architecture == host.architecture)
}
