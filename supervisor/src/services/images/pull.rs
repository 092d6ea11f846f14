//! From a reference to an image, over the network.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Error, Image, Images, Reporter, Stage,
    assemble::{Plan, parse_config},
    blocking,
    layer::{Source, fetch, put},
};
use crate::{
    drivers::{
        content::{Blob, Digest},
        oci::{Descriptor, Document, Index, ManifestError, Platform, Reference},
        registry::{Action, Credentials, Session},
    },
    ids::Namespace,
};

/// Layers of one image on their way at a time.
const PARALLEL_DOWNLOADS: usize = 3;
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

/// Images of one index.
const MAX_OTHERS: usize = 256;

/// What to pull.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// As people write it.
    pub reference: String,
    /// None: this host's.
    pub platform: Option<String>,
    /// None: nobody's.
    pub credentials: Option<Credentials>,
    /// Of an index.
    pub extent: Extent,
}

/// How much of an index is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// The image for one platform.
    #[default]
    One,
    /// All of it; the image for one platform is unpacked.
    All,
}

impl PullRequest {
    /// Of this reference, for this host, as nobody.
    #[must_use]
    pub fn new(reference: &str) -> Self {
        let (platform, credentials) = (None, None);
        Self { reference: reference.to_owned(), platform, credentials, extent: Extent::One }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// It was here already, unchanged.
    pub up_to_date: bool,
}

impl Images {
    /// Pulls an image. Dropping the future gives up and leaves garbage at worst; calling again is
    /// safe at any time.
    ///
    /// # Errors
    /// When the registry, the image or the disk is no good.
    pub async fn pull(
        &self,
        namespace: &Namespace,
        request: &PullRequest,
        reporter: &Reporter,
    ) -> Result<Pulled, Error> {
        let reference: Reference = request.reference.parse()?;
        let platform = match &request.platform {
            Some(platform) => platform.parse()?,
            None => Platform::host(),
        };
        let session = self.session(&reference, request.credentials.clone(), Action::Pull).await?;
        let _hold = self.hold().await;
        let name = reference.to_string();
        reporter.tell(&name, Stage::Resolving, 0, 0);
        let resolved = resolve(&session, reference.digest(), &platform).await?;
        if request.extent == Extent::One
            && let Some(image) = self.up_to_date(namespace, &reference, &resolved).await?
            && self.check_use(&image, &name).is_ok()
        {
            reporter.tell(&name, Stage::Exists, 0, 0);
            return Ok(Pulled { image, up_to_date: true });
        }
        let (_, manifest_digest) = resolved.manifest()?;
        let signatures =
            self.check_pull(&session, &reference, &resolved.target, &manifest_digest).await?;
        let index = resolved.index()?;
        let mut plan = self.plan(namespace, name, &session, resolved).await?;
        plan.signatures = signatures;
        if request.platform.is_some() {
            check_platform(&plan, &platform)?;
        }
        let session = Arc::new(session);
        if request.extent == Extent::All
            && let Some(index) = index
        {
            plan.documents.extend(self.bring_others(&session, &index, reporter).await?);
        }
        let source = Source::Registry(session);
        let image = self.assemble(plan, source, PARALLEL_DOWNLOADS, reporter).await?;
        Ok(Pulled { image, up_to_date: false })
    }

    /// The other images of an index, as content: whoever saves or pushes it has it whole.
    async fn bring_others(
        &self,
        session: &Arc<Session>,
        index: &Index,
        reporter: &Reporter,
    ) -> Result<Vec<Blob>, Error> {
        let mut blobs: Vec<Blob> = Vec::new();
        let mut wanted: Vec<Descriptor> = Vec::new();
        let mut todo: Vec<(Digest, usize)> =
            index.manifests.iter().map(|entry| (entry.digest.clone(), 1)).collect();
        while let Some((digest, depth)) = todo.pop() {
            if blobs.iter().any(|blob| blob.digest == digest) {
                continue;
            }
            if blobs.len() == MAX_OTHERS {
                let kind = "more images than any index has".into();
                return Err(ManifestError::Kind { digest, kind }.into());
            }
            let (bytes, digest) = session.document(Some(&digest)).await?;
            match Document::parse(&bytes, &digest)? {
                Document::Manifest(manifest) => {
                    manifest.check_foreign()?;
                    wanted.push(manifest.config);
                    wanted.extend(manifest.layers);
                }
                Document::Index(inner) if depth < MAX_DEPTH => {
                    todo.extend(inner.manifests.iter().map(|e| (e.digest.clone(), depth + 1)));
                }
                Document::Index(_) => {
                    let kind = "indexes within indexes".into();
                    return Err(ManifestError::Kind { digest, kind }.into());
                }
            }
            blobs.push(Blob { digest: digest.clone(), size_bytes: bytes.len() as u64 });
            let content = self.inner.content.clone();
            blocking(move || put(&content, &digest, &bytes)).await?;
        }
        let permits = Arc::new(Semaphore::new(PARALLEL_DOWNLOADS));
        let mut jobs = JoinSet::new();
        for blob in wanted {
            if blobs.iter().any(|known| known.digest == blob.digest) {
                continue;
            }
            blobs.push(Blob { digest: blob.digest.clone(), size_bytes: blob.size });
            let (inner, session) = (Arc::clone(&self.inner), Arc::clone(session));
            let (permits, reporter) = (Arc::clone(&permits), reporter.clone());
            jobs.spawn(async move {
                let _permit = permits.acquire_owned().await.expect("never closed");
                fetch(inner, blob, session, reporter).await
            });
        }
        while let Some(done) = jobs.join_next().await {
            match done {
                Ok(fetched) => fetched?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return Err(Error::Cancelled),
            }
        }
        Ok(blobs)
    }

    async fn plan(
        &self,
        namespace: &Namespace,
        name: String,
        session: &Session,
        resolved: Resolved,
    ) -> Result<Plan, Error> {
        let (manifest, manifest_digest) = resolved.manifest()?;
        // Before the first layer is asked for.
        manifest.check_layers()?;
        let config_bytes = session.blob(&manifest.config).await?;
        let config_digest = manifest.config.digest.clone();
        let mut documents = resolved.documents;
        documents.push((config_digest.clone(), config_bytes));
        let content = self.inner.content.clone();
        let documents = blocking(move || {
            for (digest, bytes) in &documents {
                put(&content, digest, bytes)?;
            }
            Ok(documents)
        })
        .await?;
        let (_, config_bytes) = documents.last().expect("was pushed above");
        let config = parse_config(config_bytes, &config_digest)?;
        let documents = documents
            .iter()
            .map(|(digest, bytes)| Blob { digest: digest.clone(), size_bytes: bytes.len() as u64 })
            .collect();
        Ok(Plan {
            namespace: namespace.clone(),
            names: vec![name],
            target: resolved.target,
            documents,
            manifest,
            manifest_digest,
            config,
            signatures: Vec::new(),
            topic: "image.pull",
        })
    }

    /// The image, if the name points to it already and all of it is here.
    async fn up_to_date(
        &self,
        namespace: &Namespace,
        reference: &Reference,
        resolved: &Resolved,
    ) -> Result<Option<Image>, Error> {
        let (manifest, _) = resolved.manifest()?;
        let name = reference.to_string();
        let Some(image) = self.by_reference(namespace, reference)? else { return Ok(None) };
        let points_there =
            image.names.iter().any(|n| n.reference == name && n.digest == resolved.target);
        if !points_there || image.id != manifest.config.digest {
            return Ok(None);
        }
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            for blob in &image.blobs {
                if inner.content.stat(&blob.digest)?.is_none() {
                    return Ok(None);
                }
            }
            if let Some(chain_id) = &image.chain_id
                && inner.snapshots.layer(chain_id)?.is_none()
            {
                return Ok(None);
            }
            Ok(Some(image))
        })
        .await
    }
}

/// What a reference means for a platform.
#[derive(Debug)]
struct Resolved {
    target: Digest,
    /// From the target to the manifest.
    documents: Vec<(Digest, Vec<u8>)>,
}

impl Resolved {
    /// The index that the manifest was chosen from, if it was.
    fn index(&self) -> Result<Option<Index>, Error> {
        let (digest, bytes) = self.documents.first().expect("has at least the target");
        Ok(match Document::parse(bytes, digest)? {
            Document::Manifest(_) => None,
            Document::Index(index) => Some(index),
        })
    }

    fn manifest(&self) -> Result<(crate::drivers::oci::Manifest, Digest), Error> {
        let (digest, bytes) = self.documents.last().expect("has at least the target");
        match Document::parse(bytes, digest)? {
            Document::Manifest(manifest) => Ok((*manifest, digest.clone())),
            Document::Index(_) => unreachable!("resolving ends with a manifest"),
        }
    }
}

/// A platform that was asked for is what the image has to be for, index or not.
fn check_platform(plan: &Plan, asked: &Platform) -> Result<(), Error> {
    let config = &plan.config;
    let found = Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone(),
    };
    if asked.rank(&found).is_some() {
        return Ok(());
    }
    Err(ManifestError::NoPlatform {
        digest: plan.manifest_digest.clone(),
        platform: asked.to_string(),
        offered: vec![found.normalised()],
    }
    .into())
}

async fn resolve(
    session: &Session,
    digest: Option<&Digest>,
    platform: &Platform,
) -> Result<Resolved, Error> {
    let (mut bytes, target) = session.document(digest).await?;
    let mut at = target.clone();
    let mut documents = Vec::new();
    for _ in 0..MAX_DEPTH {
        documents.push((at.clone(), bytes.to_vec()));
        match Document::parse(&bytes, &at)? {
            Document::Manifest(_) => return Ok(Resolved { target, documents }),
            Document::Index(index) => {
                let next = index.choose(platform, &at)?.digest.clone();
                (bytes, at) = session.document(Some(&next)).await?;
            }
        }
    }
    Err(ManifestError::Kind { digest: target, kind: "indexes within indexes".into() }.into())
}
