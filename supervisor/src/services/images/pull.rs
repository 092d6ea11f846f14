//! From a reference to an image, over the network.

use std::sync::Arc;

use super::{
    Error, Image, Images, Reporter, Stage,
    assemble::{Plan, parse_config},
    blocking,
    layer::{Source, put},
};
use crate::{
    drivers::{
        content::{Blob, Digest},
        oci::{Document, Platform, Reference},
        registry::{Action, Credentials, Session},
    },
    ids::Namespace,
};

/// Layers of one image on their way at a time.
const PARALLEL_DOWNLOADS: usize = 3;
/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

/// What to pull.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// As people write it.
    pub reference: String,
    /// None: this host's.
    pub platform: Option<String>,
    /// None: nobody's.
    pub credentials: Option<Credentials>,
}

impl PullRequest {
    /// Of this reference, for this host, as nobody.
    #[must_use]
    pub fn new(reference: &str) -> Self {
        let (platform, credentials) = (None, None);
        Self { reference: reference.to_owned(), platform, credentials }
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
        if let Some(image) = self.up_to_date(namespace, &reference, &resolved).await? {
            reporter.tell(&name, Stage::Exists, 0, 0);
            return Ok(Pulled { image, up_to_date: true });
        }
        let plan = self.plan(namespace, name, &session, resolved).await?;
        let source = Source::Registry(Arc::new(session));
        let image = self.assemble(plan, source, PARALLEL_DOWNLOADS, reporter).await?;
        Ok(Pulled { image, up_to_date: false })
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
    fn manifest(&self) -> Result<(crate::drivers::oci::Manifest, Digest), Error> {
        let (digest, bytes) = self.documents.last().expect("has at least the target");
        match Document::parse(bytes, digest)? {
            Document::Manifest(manifest) => Ok((*manifest, digest.clone())),
            Document::Index(_) => unreachable!("resolving ends with a manifest"),
        }
    }
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
    Err(crate::drivers::oci::ManifestError::Kind {
        digest: target,
        kind: "indexes within indexes".into(),
    }
    .into())
}
