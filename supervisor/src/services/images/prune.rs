//! Images that nobody needs, taken away together; and what images take on the disk.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Error, Force, Image, Images, collect::Collected};
use crate::{
    drivers::{content::Digest, snapshots::LayerRecord},
    ids::Namespace,
    services::prune::PruneFilter,
};

/// Which images are not needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unneeded {
    /// Those without a name.
    Dangling,
    /// All that no container was made from.
    Unused,
}

/// What is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names.
    pub untagged: Vec<String>,
    /// Ids of images, digests of blobs and chain ids of layers.
    pub deleted: Vec<String>,
    /// On the disk.
    pub bytes: u64,
}

/// What one image takes on the disk.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// Which.
    pub image: Image,
    /// Bytes of layers and blobs that other images need too.
    pub shared_bytes: u64,
    /// Bytes that are this one's alone.
    pub unique_bytes: u64,
    /// A container was made from it.
    pub in_use: bool,
}

/// What all images take.
#[derive(Clone, Debug, Default)]
pub struct ImagesUsage {
    /// Of the namespace.
    pub images: Vec<ImageUsage>,
    /// Bytes of all layers and blobs of all namespaces, each counted once.
    pub total_bytes: u64,
    /// Of these, what only images that are not in use need.
    pub reclaimable_bytes: u64,
}

impl Images {
    /// Takes away the images of the namespace that are not needed, and what only they needed.
    ///
    /// # Errors
    /// When the records or folders can't be read or changed.
    pub async fn prune(
        &self,
        namespace: &Namespace,
        unneeded: Unneeded,
        filter: &PruneFilter,
    ) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        for image in self.all(namespace)? {
            if unneeded == Unneeded::Dangling && !image.names.is_empty() {
                continue;
            }
            if !filter.lets(&self.labels(&image).await, made_unix_ns(&image)) {
                continue;
            }
            // By its names one after the other, since several can't go by its id unforced. One that a
            // container has, or is being made from, is refused, and stays.
            let asked = match image.names.as_slice() {
                [] => vec![image.id.to_string()],
                names if !self.is_used(&image) => {
                    names.iter().map(|n| n.reference.clone()).collect()
                }
                _ => continue,
            };
            for name in asked {
                match self.forget(namespace, &name, Force::No).await {
                    Ok(removed) => {
                        pruned.untagged.extend(removed.untagged);
                        pruned.deleted.extend(removed.deleted);
                    }
                    Err(Error::InUse { .. } | Error::NotFound(_)) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        // Also when no image went: a removal before may have been put off.
        let Collected { blobs, layers, bytes } = self.collect().await?;
        for digest in blobs.iter().chain(&layers).map(ToString::to_string) {
            if !pruned.deleted.contains(&digest) {
                pruned.deleted.push(digest);
            }
        }
        pruned.bytes = bytes;
        Ok(pruned)
    }

    async fn labels(&self, image: &Image) -> BTreeMap<String, String> {
        // A config that can't be read says nothing.
        let Ok((_, config)) = self.config(image).await else { return BTreeMap::new() };
        let labels = config.labels_of_config().cloned().unwrap_or_default();
        labels.into_iter().collect()
    }

    /// What images take on the disk. Blocks.
    ///
    /// # Errors
    /// When the records can't be read.
    pub fn usage(&self, namespace: &Namespace) -> Result<ImagesUsage, Error> {
        let mut layers: HashMap<Digest, LayerRecord> = HashMap::new();
        for layer in self.inner.store.all::<LayerRecord>()? {
            let layer = layer?.1;
            layers.insert(layer.chain_id.clone(), layer);
        }
        // Parts of images by name: how large, and how many images need them.
        let mut parts: HashMap<String, (u64, usize)> = HashMap::new();
        let mut used: HashSet<String> = HashSet::new();
        let parts_of = |image: &Image| {
            let mut found: HashMap<String, u64> = HashMap::new();
            for blob in &image.blobs {
                // Blobs that are named and not here, of other platforms, take nothing.
                if let Ok(Some(blob)) = self.inner.content.stat(&blob.digest) {
                    found.insert(format!("blob {}", blob.digest), blob.size_bytes);
                }
            }
            let mut next = image.chain_id.clone();
            while let Some(layer) = next.and_then(|id| layers.get(&id)) {
                found.insert(format!("layer {}", layer.chain_id), layer.size_bytes);
                next = layer.parent.clone();
            }
            found
        };
        let mut own = Vec::new();
        for image in self.inner.store.all::<Image>()? {
            let image = image?.1;
            let found = parts_of(&image);
            let in_use = self.is_used(&image);
            for (name, size) in &found {
                parts.entry(name.clone()).or_insert((*size, 0)).1 += 1;
                if in_use {
                    used.insert(name.clone());
                }
            }
            if image.namespace == *namespace {
                own.push((image, found, in_use));
            }
        }
        let images = own.into_iter().map(|(image, found, in_use)| {
            let shared = found.iter().filter(|(name, _)| parts[*name].1 > 1);
            let shared_bytes: u64 = shared.map(|(_, size)| size).sum();
            let all: u64 = found.values().sum();
            ImageUsage { image, shared_bytes, unique_bytes: all - shared_bytes, in_use }
        });
        let reclaimable = parts.iter().filter(|(name, _)| !used.contains(*name));
        Ok(ImagesUsage {
            images: images.collect(),
            total_bytes: parts.values().map(|(size, _)| size).sum(),
            reclaimable_bytes: reclaimable.map(|(_, (size, _))| size).sum(),
        })
    }
}

/// When it was built, by its own word, else when it came here: as Docker's `until` has it.
fn made_unix_ns(image: &Image) -> i64 {
    image.created_unix_ns.unwrap_or(image.imported_unix_ns)
}
