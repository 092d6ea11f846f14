//! Images: pulled, imported, found, removed.
//!
//! An image is a record of a namespace; its content and layers are shared by all that need them. In
//! this order: blobs and layers are written, flushed, and only then named by one commit together
//! with the event that tells of it. So a crash leaves garbage at worst, which the next start sweeps.
//! A layer stays as long as an image or a container needs it.

mod again;
mod assemble;
mod collect;
mod commit;
mod error;
mod export;
mod find;
mod history;
mod import;
pub mod instructions;
mod layer;
mod locks;
mod pressure;
mod progress;
mod prune;
mod pull;
mod push;
mod record;
mod registries;
mod remove;
mod trust;

use std::{
    collections::HashSet,
    sync::{Arc, OnceLock, Weak},
};

use oci_spec::image::ImageConfiguration;
use tokio::sync::{Mutex, Semaphore};

pub use again::KnownAs;
pub use collect::Collected;
pub use commit::{Commit, LayerSink};
pub use error::Error;
pub use find::Page;
pub use history::Step;
pub use locks::Hold;
pub use pressure::{Pressure, Relieve};
pub use progress::{Progress, Reporter, Stage};
pub use prune::{ImageUsage, ImagesUsage, Pruned, Unneeded};
pub use pull::{Extent, PullRequest, Pulled};
pub use push::{PushRequest, Pushed};
pub use record::{BlobRef, Image, Name};
pub use remove::{Force, Removed};

use crate::{
    drivers::{
        content::{ContentStore, Digest},
        oci::MAX_DOCUMENT_BYTES,
        registry,
        snapshots::Snapshotter,
        unpack::Limits,
    },
    ids::Namespace,
    services::events::Events,
    store::Store,
};

/// Who needs images and layers: the containers.
pub trait Users: Send + Sync {
    /// A container of the namespace that was made from the image, if there is one: one that runs
    /// before one that does not.
    fn user_of(&self, namespace: &Namespace, image: &Digest) -> Option<ImageUser>;
    /// Chain ids that containers run on.
    fn chains_in_use(&self) -> HashSet<Digest>;
}

/// A container that was made from an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// Its name.
    pub name: String,
    /// It runs.
    pub is_running: bool,
}

/// What a container is made from.
#[derive(Debug)]
pub struct ResolvedImage {
    /// As it was asked for, in full.
    pub reference: String,
    /// Digest of the config.
    pub id: Digest,
    /// What the name points to.
    pub digest: Digest,
    /// Digest of the manifest.
    pub manifest_digest: Digest,
    /// The layers; none for an image without.
    pub chain_id: Option<Digest>,
    /// The config.
    pub config: ImageConfiguration,
    /// The same as it came, with what OCI does not name.
    pub config_json: String,
    /// The layers are not collected while it lives.
    pub hold: Hold,
}

/// Records of images and their names that can't be read.
///
/// # Errors
/// When the store can't be read.
pub fn unreadable(store: &Store) -> Result<Vec<crate::store::Unreadable>, crate::store::Error> {
    let mut found = store.unreadable::<Image>()?;
    found.extend(store.unreadable::<record::NameRecord>()?);
    Ok(found)
}

/// The images; clones share them.
#[derive(Clone, Debug)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    events: Events,
    content: ContentStore,
    snapshots: Arc<dyn Snapshotter>,
    limits: Limits,
    registries: registry::Settings,
    users: OnceLock<Arc<dyn Users>>,
    gate: locks::Gate,
    release: locks::Release,
    making: locks::Making,
    layers: locks::Keyed,
    blobs: locks::Keyed,
    /// Layers on their way at once, of all images: each has buffers of some megabytes.
    turns: Arc<Semaphore>,
    /// Held from reading records to the commit that changes them.
    records: Mutex<()>,
}

/// A layer keeps two cores busy, and is as good as waiting for the disk with more than a few beside it.
fn turns() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(3, 4)
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("content", &self.content).finish_non_exhaustive()
    }
}

impl Images {
    /// The images that `store` names.
    #[must_use]
    pub fn new(
        store: Store,
        events: Events,
        content: ContentStore,
        snapshots: Arc<dyn Snapshotter>,
    ) -> Self {
        Self::with_registries(store, events, content, snapshots, registry::Settings::default())
    }

    /// [`Images::new`] with settings of the registries.
    #[must_use]
    pub fn with_registries(
        store: Store,
        events: Events,
        content: ContentStore,
        snapshots: Arc<dyn Snapshotter>,
        registries: registry::Settings,
    ) -> Self {
        let inner = Arc::new_cyclic(|weak: &Weak<Inner>| {
            let weak = weak.clone();
            Inner {
                store,
                events,
                content,
                snapshots,
                limits: Limits::default(),
                registries,
                users: OnceLock::new(),
                gate: locks::Gate::default(),
                release: locks::Release::new(move || {
                    if let Some(inner) = weak.upgrade() {
                        Images { inner }.collect_put_off();
                    }
                }),
                making: locks::Making::default(),
                layers: locks::Keyed::default(),
                blobs: locks::Keyed::default(),
                turns: Arc::new(Semaphore::new(turns())),
                records: Mutex::default(),
            }
        });
        Self { inner }
    }

    /// Says who uses images, once and before the first is removed: until then nothing is in use.
    pub fn set_users(&self, users: Arc<dyn Users>) {
        let first = self.inner.users.set(users);
        debug_assert!(first.is_ok(), "set once");
    }

    /// While something is set aside that might need anything, nothing is garbage.
    pub fn forbid_collection(&self, forbid: bool) {
        self.inner.gate.forbid(forbid);
    }

    /// How containers get their root file systems.
    #[must_use]
    pub fn snapshotter(&self) -> &'static str {
        self.inner.snapshots.name()
    }

    /// Keeps content and layers from being collected.
    async fn hold(&self) -> Hold {
        self.inner.gate.hold(self.inner.release.clone()).await
    }

    /// The image that a container is to be made from: by name, id or unique prefix of an id.
    ///
    /// # Errors
    /// When there is none, or its config is damaged.
    pub async fn resolve(
        &self,
        namespace: &Namespace,
        reference: &str,
    ) -> Result<ResolvedImage, Error> {
        let mut hold = self.hold().await;
        let image = {
            // Whoever takes images away holds this while it looks who uses them.
            let _records = self.inner.records.lock().await;
            let image = self.get(namespace, reference)?;
            self.check_use(&image, reference)?;
            hold.image = Some(self.inner.making.begin(&image.id));
            image
        };
        let (text, config) = self.config(&image).await?;
        if text.contains("\"OnBuild\":[\"") {
            tracing::debug!(image = %image.id, "its ONBUILD is for builds, and left alone");
        }
        Ok(ResolvedImage {
            reference: find::full_name(reference),
            digest: image.digest().clone(),
            id: image.id,
            manifest_digest: image.manifest_digest,
            chain_id: image.chain_id,
            config,
            config_json: text,
            hold,
        })
    }

    /// An image's config, as it came and parsed.
    ///
    /// # Errors
    /// When it is not here or damaged.
    pub async fn config(&self, image: &Image) -> Result<(String, ImageConfiguration), Error> {
        let (content, id) = (self.inner.content.clone(), image.id.clone());
        let bytes = blocking(move || Ok(content.read(&id, MAX_DOCUMENT_BYTES)?)).await?;
        let config = assemble::parse_config(&bytes, &image.id)?;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), config))
    }
}

/// Runs file-system work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(Error::Cancelled),
    }
}
