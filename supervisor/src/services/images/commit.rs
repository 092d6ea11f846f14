//! An image from another one and one more layer: what a container has changed.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};

use super::{
    Error, Image, Images, Reporter,
    assemble::{Plan, parse_config},
    blocking,
    layer::{Source, put},
};
use crate::{
    drivers::{
        content::{Algorithm, Blob, ContentStore, Digest, Hasher, Ingest},
        oci::{Descriptor, Document, MAX_DOCUMENT_BYTES, Manifest, Reference, media},
        pack::{Hashing, Packer},
    },
    faultpoint,
    ids::Namespace,
};

/// As a layer goes to a registry sooner or later. Faster and larger than gzip's own choice.
const LEVEL: u32 = 3;

/// An image to be made.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Id of the image beneath.
    pub base: String,
    /// As people write it; none: it is known by its id only.
    pub name: Option<String>,
    /// The config's object `config`, whole.
    pub config: Map<String, Value>,
    /// What made the layer, for the history.
    pub created_by: String,
    /// A word about it, for the history.
    pub message: String,
    /// Who made it.
    pub author: String,
    /// Nanoseconds since the epoch.
    pub created_unix_ns: i64,
}

/// Where a layer's tar goes: through its diff id and gzip into the content store.
pub type LayerSink = Packer<Hashing<GzEncoder<IngestSink>>>;

/// A blob on its way in, as a writer.
#[derive(Debug)]
pub struct IngestSink(Ingest);

impl Write for IngestSink {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.write(buf).map_err(std::io::Error::other)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A layer in the content store.
struct Packed {
    blob: Blob,
    diff_id: Digest,
    is_empty: bool,
}

impl Images {
    /// The `config` object of an image's config, as it came.
    ///
    /// # Errors
    /// When the image is not here, or its config is damaged.
    pub async fn config_object(
        &self,
        namespace: &Namespace,
        id: &str,
    ) -> Result<Map<String, Value>, Error> {
        let image = self.get(namespace, id)?;
        let (text, _) = self.config(&image).await?;
        let whole: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|e| Error::Config { digest: image.id.clone(), problem: e.to_string() })?;
        match whole.get("config") {
            Some(Value::Object(config)) => Ok(config.clone()),
            _ => Ok(Map::new()),
        }
    }

    /// Makes an image. `write` tells the layer's changes; `check` is asked after that whether they can
    /// be believed. Dropping the future leaves garbage at worst.
    ///
    /// # Errors
    /// When the image beneath is not here, or the layer can't be read or written.
    pub async fn commit_layer<E: From<Error> + Send + 'static>(
        &self,
        namespace: &Namespace,
        commit: Commit,
        write: impl FnOnce(&mut LayerSink) -> Result<(), E> + Send + 'static,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<Image, E> {
        let name: Option<Reference> =
            commit.name.as_deref().map(str::parse).transpose().map_err(Error::from)?;
        if let Some(reference) = &name
            && reference.digest().is_some()
        {
            let text = reference.to_string();
            return Err(Error::from(crate::drivers::oci::ReferenceError::Tag(text)).into());
        }
        let _hold = self.hold().await;
        let base = self.get(namespace, &commit.base)?;
        let content = self.inner.content.clone();
        let packing = tokio::task::spawn_blocking(move || pack(&content, write));
        let packed = match packing.await {
            Ok(packed) => packed?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(Error::Cancelled.into()),
        };
        faultpoint::reach("commit.layer.packed").await;
        check()?;
        let content = self.inner.content.clone();
        let namespace = namespace.clone();
        let plan = blocking(move || plan(&content, namespace, &base, name, commit, packed)).await?;
        Ok(self.assemble(plan, Source::Content, 1, &Reporter::default()).await?)
    }
}

fn pack<E: From<Error>>(
    content: &ContentStore,
    write: impl FnOnce(&mut LayerSink) -> Result<(), E>,
) -> Result<Packed, E> {
    let ingest = content.ingest(None, None).map_err(Error::from)?;
    let gzip = GzEncoder::new(IngestSink(ingest), Compression::new(LEVEL));
    let mut packer = Packer::new(Hashing { inner: gzip, hasher: Hasher::new(Algorithm::Sha256) });
    write(&mut packer)?;
    let failed = |source| Error::Pack { source };
    let (hashing, is_empty) = packer.finish().map_err(failed)?;
    let diff_id = hashing.hasher.finish();
    let IngestSink(ingest) = hashing.inner.finish().map_err(failed)?;
    let blob = ingest.commit().map_err(Error::from)?;
    Ok(Packed { blob, diff_id, is_empty })
}

fn plan(
    content: &ContentStore,
    namespace: Namespace,
    base: &Image,
    name: Option<Reference>,
    commit: Commit,
    packed: Packed,
) -> Result<Plan, Error> {
    let bytes = content.read(&base.manifest_digest, MAX_DOCUMENT_BYTES)?;
    let Document::Manifest(below) = Document::parse(&bytes, &base.manifest_digest)? else {
        return Err(Error::Config {
            digest: base.manifest_digest.clone(),
            problem: "its manifest is an index".into(),
        });
    };
    let config = config(content, base, &commit, &packed)?;
    let config_bytes = serde_json::to_vec(&Value::Object(config)).expect("JSON is JSON");
    let config_digest = Digest::of(&config_bytes);
    put(content, &config_digest, &config_bytes)?;
    let parsed = parse_config(&config_bytes, &config_digest)?;
    let mut layers: Vec<Descriptor> = below.layers.iter().map(as_oci).collect();
    if !packed.is_empty {
        layers.push(descriptor(media::OCI_LAYER_GZIP, &packed.blob));
    }
    let config_blob = Blob { digest: config_digest, size_bytes: config_bytes.len() as u64 };
    let manifest = Manifest::synthesise(descriptor(media::OCI_CONFIG, &config_blob), layers);
    let bytes = manifest.to_bytes();
    let manifest_digest = Digest::of(&bytes);
    put(content, &manifest_digest, &bytes)?;
    faultpoint::reach_blocking("commit.documents.written");
    let document = Blob { digest: manifest_digest.clone(), size_bytes: bytes.len() as u64 };
    Ok(Plan {
        namespace,
        signatures: Vec::new(),
        names: name.iter().map(ToString::to_string).collect(),
        target: manifest_digest.clone(),
        documents: vec![document],
        manifest,
        manifest_digest,
        config: parsed,
        topic: "image.commit",
    })
}

/// The base's config with one more layer and another `config`.
fn config(
    content: &ContentStore,
    base: &Image,
    commit: &Commit,
    packed: &Packed,
) -> Result<Map<String, Value>, Error> {
    let damaged = |problem: String| Error::Config { digest: base.id.clone(), problem };
    let bytes = content.read(&base.id, MAX_DOCUMENT_BYTES)?;
    let mut config: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    let created = jiff::Timestamp::from_nanosecond(commit.created_unix_ns.into())
        .map_or_else(|_| String::from("1970-01-01T00:00:00Z"), |at| at.to_string());
    config.insert("created".into(), json!(created));
    config.insert("config".into(), Value::Object(commit.config.clone()));
    if commit.author.is_empty() {
        config.remove("author");
    } else {
        config.insert("author".into(), json!(commit.author));
    }
    // Docker's notes on how the base came about.
    for stale in ["container", "container_config", "docker_version", "id", "parent", "comment"] {
        config.remove(stale);
    }
    let mut entry = Map::new();
    entry.insert("created".into(), json!(created));
    for (key, text) in [
        ("created_by", &commit.created_by),
        ("author", &commit.author),
        ("comment", &commit.message),
    ] {
        if !text.is_empty() {
            entry.insert(key.into(), json!(text));
        }
    }
    if packed.is_empty {
        entry.insert("empty_layer".into(), json!(true));
    } else {
        let rootfs = config.entry("rootfs").or_insert_with(|| json!({"type": "layers"}));
        let rootfs = rootfs.as_object_mut().ok_or_else(|| damaged("rootfs is no object".into()))?;
        let ids = rootfs.entry("diff_ids").or_insert_with(|| json!([]));
        let ids = ids.as_array_mut().ok_or_else(|| damaged("diff_ids is no list".into()))?;
        ids.push(json!(packed.diff_id.to_string()));
    }
    match config.entry("history").or_insert_with(|| json!([])) {
        Value::Array(history) => history.push(Value::Object(entry)),
        other => *other = json!([entry]),
    }
    Ok(config)
}

fn descriptor(media_type: &str, blob: &Blob) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: blob.digest.clone(),
        size: blob.size_bytes,
        urls: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        platform: None,
    }
}

/// The same blob under OCI's name of its type: one manifest does not mix the two families.
fn as_oci(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.as_str() {
        media::DOCKER_LAYER => media::OCI_LAYER,
        media::DOCKER_LAYER_GZIP => media::OCI_LAYER_GZIP,
        media::DOCKER_LAYER_ZSTD => media::OCI_LAYER_ZSTD,
        other => other,
    };
    Descriptor { media_type: media_type.into(), ..layer.clone() }
}
