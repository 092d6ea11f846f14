//! Garbage: blobs and layers that no image and no container needs.

use std::collections::{HashMap, HashSet};

use super::{Error, Image, Images, blocking};
use crate::{
    drivers::{content::Digest, snapshots::LayerRecord},
    faultpoint,
    ids::ContainerId,
    store::{Durability, Need, Ops},
};

/// What was garbage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Chain ids of layers.
    pub layers: Vec<Digest>,
    /// What both took on the disk.
    pub bytes: u64,
}

impl Images {
    /// Removes what nobody needs. While anything is pulled, imported or being made into a container
    /// nothing is removed, and it is done as soon as that has ended.
    ///
    /// # Errors
    /// When the records or folders can't be read or changed.
    pub async fn collect(&self) -> Result<Collected, Error> {
        let images = self.clone();
        blocking(move || {
            // Shut for as long as files go: nobody may find what is about to vanish.
            let Some(_shut) = images.inner.gate.shut() else { return Ok(Collected::default()) };
            images.collect_now()
        })
        .await
    }

    /// At start, when it is known who uses images and before anything is pulled or made: removes what
    /// no record names. `containers` are all there are; `mounted` tells what those that run have
    /// mounted. Blocks.
    ///
    /// # Errors
    /// As [`Images::collect`].
    pub fn sweep(
        &self,
        containers: &HashSet<ContainerId>,
        mounted: &[String],
    ) -> Result<Collected, Error> {
        let needed = self.needed()?;
        let swept = self.inner.content.sweep(&needed.blobs)?;
        self.inner.snapshots.sweep(containers, mounted)?;
        let collected = self.collect_now()?;
        let bytes = collected.bytes + swept.iter().map(|blob| blob.size_bytes).sum::<u64>();
        let blobs = swept.into_iter().map(|blob| blob.digest).collect();
        Ok(Collected { blobs, layers: collected.layers, bytes })
    }

    /// What a hold put off, if it was the last one.
    pub(super) fn collect_put_off(&self) {
        if !self.inner.gate.is_wanted() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let images = self.clone();
        runtime.spawn(async move {
            if let Err(error) = images.collect().await {
                tracing::warn!(error = crate::fault::chain(&error), "garbage not collected");
            }
        });
    }

    fn collect_now(&self) -> Result<Collected, Error> {
        let needed = self.needed()?;
        let mut ops = Ops::new();
        ops.needs(Need::Removal);
        let mut garbage = Vec::new();
        for (chain_id, record) in &needed.all_layers {
            if !needed.layers.contains(chain_id) {
                ops.delete::<LayerRecord>(chain_id.to_string().as_bytes());
                garbage.push(record);
            }
        }
        if !ops.is_empty() {
            // Records first: a folder without one is garbage, one without a folder would be a lie.
            self.inner.store.commit_blocking(ops, Durability::Power)?;
        }
        faultpoint::reach_blocking("collect.records.deleted");
        let mut bytes = 0;
        for record in &garbage {
            self.inner.snapshots.remove_layer(record.number);
            bytes += record.size_bytes;
            faultpoint::reach_blocking("collect.layer");
        }
        faultpoint::reach_blocking("collect.layers.removed");
        let blobs = self.inner.content.retain(&needed.blobs)?;
        bytes += blobs.iter().map(|blob| blob.size_bytes).sum::<u64>();
        let layers = garbage.into_iter().map(|record| record.chain_id.clone()).collect();
        faultpoint::reach_blocking("collect.blobs.removed");
        Ok(Collected { blobs: blobs.into_iter().map(|blob| blob.digest).collect(), layers, bytes })
    }

    fn needed(&self) -> Result<Needed, Error> {
        let mut needed = Needed::default();
        for layer in self.inner.store.all::<LayerRecord>()? {
            let record = layer?.1;
            needed.all_layers.insert(record.chain_id.clone(), record);
        }
        // A record that can't be read might need anything: then nothing is garbage.
        for image in self.inner.store.all::<Image>()? {
            let image = image?.1;
            needed.blobs.extend(image.blobs.into_iter().map(|blob| blob.digest));
            needed.add_stack(image.chain_id);
        }
        for chain_id in
            self.inner.users.get().map(|users| users.chains_in_use()).unwrap_or_default()
        {
            needed.add_stack(Some(chain_id));
        }
        Ok(needed)
    }
}

#[derive(Default)]
struct Needed {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
    all_layers: HashMap<Digest, LayerRecord>,
}

impl Needed {
    fn add_stack(&mut self, top: Option<Digest>) {
        let mut next = top;
        while let Some(chain_id) = next {
            next = self.all_layers.get(&chain_id).and_then(|record| record.parent.clone());
            if !self.layers.insert(chain_id) {
                break;
            }
        }
    }
}
