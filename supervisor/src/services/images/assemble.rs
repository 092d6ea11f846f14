//! From a manifest and a source of layers to a recorded image.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Instant};

use oci_spec::image::ImageConfiguration;
use tokio::{
    sync::{OwnedMutexGuard, Semaphore},
    task::JoinSet,
};

use super::{
    BlobRef, Error, Image, Images, Inner, Name, blocking,
    layer::{self, Layer, Source, Stop, Wanted},
    progress::Reporter,
    record::{NameRecord, key},
};
use crate::{
    drivers::{
        content::{Blob, Digest},
        oci::{Manifest, Platform},
        signatures::Signature,
        snapshots::{LayerRecord, chain_ids},
        unpack::Spent,
    },
    faultpoint,
    ids::Namespace,
    services::events::{Event, now_unix_ns},
    store::{Durability, Need, Ops},
};

/// An image to be made of what is known about it. Its documents are in the content store.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) namespace: Namespace,
    /// In full.
    pub(super) names: Vec<String>,
    pub(super) target: Digest,
    pub(super) documents: Vec<Blob>,
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    pub(super) config: ImageConfiguration,
    pub(super) signatures: Vec<Signature>,
    /// "image.pull" or "image.import".
    pub(super) topic: &'static str,
}

pub(super) fn parse_config(bytes: &[u8], digest: &Digest) -> Result<ImageConfiguration, Error> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::Config { digest: digest.clone(), problem: e.to_string() })
}

impl Plan {
    fn wanted(&self) -> Result<Vec<Wanted>, Error> {
        let bad = |problem: String| Error::Config {
            digest: self.manifest.config.digest.clone(),
            problem,
        };
        self.manifest.check_layers()?;
        let diff_ids: Vec<Digest> = self
            .config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|id| id.parse().map_err(|e| bad(format!("{e}"))))
            .collect::<Result<_, _>>()?;
        let layers = &self.manifest.layers;
        if layers.len() != diff_ids.len() {
            let (found, named) = (layers.len(), diff_ids.len());
            return Err(bad(format!("it names {named} layers where the manifest has {found}")));
        }
        let chain = chain_ids(&diff_ids);
        Ok(layers
            .iter()
            .cloned()
            .zip(diff_ids)
            .zip(chain)
            .map(|((blob, diff_id), chain_id)| Wanted { blob, diff_id, chain_id })
            .collect())
    }
}

impl Images {
    /// Brings the layers, `parallel` at a time, flushes all and commits the image. The caller holds
    /// the gate. Dropping the future leaves garbage at worst.
    pub(super) async fn assemble(
        &self,
        plan: Plan,
        source: Source,
        parallel: usize,
        reporter: &Reporter,
    ) -> Result<Image, Error> {
        // What has come of an image that is refused is garbage when its hold ends.
        self.assemble_whole(plan, source, parallel, reporter)
            .await
            .inspect_err(|_| self.inner.gate.want())
    }

    async fn assemble_whole(
        &self,
        plan: Plan,
        source: Source,
        parallel: usize,
        reporter: &Reporter,
    ) -> Result<Image, Error> {
        let wanted = plan.wanted()?;
        // From the lowest to the highest: two images that share layers meet at the first of them and
        // wait there for each other, never in a ring.
        let mut alone: Vec<OwnedMutexGuard<()>> = Vec::with_capacity(wanted.len());
        for layer in &wanted {
            alone.push(self.inner.layers.lock(&layer.chain_id).await);
        }
        let layers = self.bring_all(&wanted, &source, parallel, reporter).await?;
        let inner = Arc::clone(&self.inner);
        let chain: Vec<Wanted> = wanted.clone();
        fault(faultpoint::step("image.layers.brought").await)?;
        let begun = Instant::now();
        let (layers, records) = blocking(move || settle(&inner, &chain, layers)).await?;
        reporter.add(Spent { flush: begun.elapsed(), ..Spent::default() });
        fault(faultpoint::step("image.settled").await)?;
        let image = self.commit(plan, &wanted, &records).await?;
        faultpoint::reach("image.committed").await;
        for layer in layers {
            if let Layer::New(layer, _) = layer {
                layer.keep();
            }
        }
        Ok(image)
    }

    async fn bring_all(
        &self,
        wanted: &[Wanted],
        source: &Source,
        parallel: usize,
        reporter: &Reporter,
    ) -> Result<Vec<Layer>, Error> {
        let permits = Arc::new(Semaphore::new(parallel));
        let stop = Stop::default();
        let mut jobs = JoinSet::new();
        for (index, layer) in wanted.iter().enumerate() {
            let (inner, layer, source) = (Arc::clone(&self.inner), layer.clone(), source.clone());
            let (permits, reporter) = (Arc::clone(&permits), reporter.clone());
            let (stop, turns) = (stop.flag(), Arc::clone(&self.inner.turns));
            jobs.spawn(async move {
                let _permit = permits.acquire_owned().await.expect("never closed");
                let _turn = turns.acquire_owned().await.expect("never closed");
                (index, layer::bring(inner, layer, source, stop, reporter).await)
            });
        }
        let mut layers: Vec<Option<Layer>> = wanted.iter().map(|_| None).collect();
        while let Some(done) = jobs.join_next().await {
            let layer = match done {
                Ok((index, layer)) => layer.map(|layer| layers[index] = Some(layer)),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => Err(Error::Cancelled),
            };
            if let Err(error) = layer {
                // The others are told to end; what their threads have made so far they throw away.
                jobs.shutdown().await;
                return Err(error);
            }
        }
        Ok(layers.into_iter().map(|layer| layer.expect("each job has ended")).collect())
    }

    async fn commit(
        &self,
        plan: Plan,
        wanted: &[Wanted],
        records: &[LayerRecord],
    ) -> Result<Image, Error> {
        let _records = self.inner.records.lock().await;
        let store = &self.inner.store;
        let namespace = &plan.namespace;
        let id = plan.manifest.config.digest.clone();
        let known = store.get::<Image>(&key(namespace, &id))?;
        let mut image = known.unwrap_or_else(|| new_image(&plan, wanted, records));
        image.add_blobs(blobs_of(&plan));
        for signature in &plan.signatures {
            if !image.signatures.contains(signature) {
                image.signatures.push(signature.clone());
            }
        }
        let mut ops = Ops::new();
        ops.needs(Need::Growth);
        for record in records {
            ops.put(record.chain_id.to_string().as_bytes(), record)?;
        }
        let mut losers = HashMap::new();
        for reference in &plan.names {
            self.take_name(namespace, reference, &id, &mut losers)?;
            image.drop_name(reference);
            image.names.push(Name { reference: reference.clone(), digest: plan.target.clone() });
            ops.put(&key(namespace, reference), &NameRecord { image: id.clone() })?;
        }
        for loser in losers.values() {
            ops.put(&loser.key(), loser)?;
        }
        ops.put(&image.key(), &image)?;
        let mut event =
            Event::now(namespace, plan.topic, &id.to_string()).with("digest", &plan.target);
        if let Some(name) = plan.names.first() {
            event = event.with("reference", name);
        }
        self.inner.events.append(&mut ops, &event)?;
        store.commit(ops, Durability::Power).await?;
        tracing::info!(image = %id, names = ?plan.names, "{}", plan.topic);
        Ok(image)
    }

    /// Takes a name from the image that has it, which may be left dangling: it is among the `losers`
    /// then, once however many names it loses, to be put into the same commit.
    pub(super) fn take_name(
        &self,
        namespace: &Namespace,
        reference: &str,
        new_owner: &Digest,
        losers: &mut HashMap<Digest, Image>,
    ) -> Result<(), Error> {
        let store = &self.inner.store;
        let Some(name) = store.get::<NameRecord>(&key(namespace, reference))? else {
            return Ok(());
        };
        if name.image == *new_owner {
            return Ok(());
        }
        if !losers.contains_key(&name.image)
            && let Some(other) = store.get::<Image>(&key(namespace, &name.image))?
        {
            losers.insert(name.image.clone(), other);
        }
        if let Some(loser) = losers.get_mut(&name.image) {
            loser.drop_name(reference);
        }
        Ok(())
    }
}

/// What a fault point makes of a step.
pub(super) fn fault(at: std::io::Result<()>) -> Result<(), Error> {
    at.map_err(|source| {
        crate::drivers::content::Error::io("take in", "an image".as_ref(), source).into()
    })
}

fn new_image(plan: &Plan, wanted: &[Wanted], records: &[LayerRecord]) -> Image {
    let config = &plan.config;
    let platform = Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone(),
    };
    let created = config.created().as_deref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    Image {
        namespace: plan.namespace.clone(),
        id: plan.manifest.config.digest.clone(),
        names: Vec::new(),
        manifest_digest: plan.manifest_digest.clone(),
        platform: platform.normalised().to_string(),
        chain_id: wanted.last().map(|layer| layer.chain_id.clone()),
        blobs: Vec::new(),
        size_bytes: records.iter().map(|record| record.size_bytes).sum(),
        created_unix_ns: created.and_then(|t| i64::try_from(t.as_nanosecond()).ok()),
        imported_unix_ns: now_unix_ns(),
        signatures: Vec::new(),
    }
}

fn blobs_of(plan: &Plan) -> Vec<BlobRef> {
    let documents = plan
        .documents
        .iter()
        .map(|blob| BlobRef { digest: blob.digest.clone(), size_bytes: blob.size_bytes });
    let described = std::iter::once(&plan.manifest.config)
        .chain(&plan.manifest.layers)
        .map(|blob| BlobRef { digest: blob.digest.clone(), size_bytes: blob.size });
    documents.chain(described).collect()
}

/// Fits the folders that layers only imply, now that all layers are there, and flushes everything.
fn settle(
    inner: &Inner,
    wanted: &[Wanted],
    layers: Vec<Layer>,
) -> Result<(Vec<Layer>, Vec<LayerRecord>), Error> {
    let mut below: Vec<PathBuf> = Vec::new();
    let mut records: Vec<LayerRecord> = Vec::new();
    for (layer, wanted) in layers.iter().zip(wanted) {
        let record = match layer {
            Layer::Recorded(record) => record.clone(),
            Layer::New(new, unpacked) => {
                inner.snapshots.adopt_implicit(new.files(), &unpacked.implicit, &below)?;
                LayerRecord {
                    chain_id: wanted.chain_id.clone(),
                    number: new.number(),
                    parent: records.last().map(|record| record.chain_id.clone()),
                    diff_id: wanted.diff_id.clone(),
                    size_bytes: unpacked.size_bytes,
                }
            }
        };
        // Nearest first.
        below.insert(0, inner.snapshots.layer_files(record.number));
        records.push(record);
    }
    inner.snapshots.flush()?;
    inner.content.flush()?;
    Ok((layers, records))
}
