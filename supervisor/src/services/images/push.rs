//! From an image that is here to a registry.
//!
//! What a name points to is pushed as it came: an index with all its images, if all of them are
//! here, else the manifest that is. Blobs first, then manifests, the name last: who sees the name
//! finds all of it.

use std::{
    io::{self, Read as _},
    sync::Arc,
};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{Error, Image, Images, Reporter, Stage, blocking, progress::Meter};
use crate::{
    drivers::{
        content::{self, ContentStore, Digest},
        oci::{Descriptor, Document, MAX_DOCUMENT_BYTES, ManifestError, Reference},
        registry::{Action, Credentials, Session, Source, Upload},
    },
    ids::Namespace,
};

/// Blobs of one image on their way at a time.
const PARALLEL_UPLOADS: usize = 3;
/// Pieces between the disk and the connection.
const QUEUE_LEN: usize = 8;
const PIECE_BYTES: usize = 128 << 10;
/// Images whose repositories are looked at for a blob to mount.
const MAX_OTHERS: usize = 3;

/// What to push.
#[derive(Clone, Debug)]
pub struct PushRequest {
    /// The image's name, which says where it goes.
    pub reference: String,
    /// None: the daemon's own, if it has any.
    pub credentials: Option<Credentials>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What the name points to in the registry now.
    pub digest: Digest,
    /// Bytes of that document.
    pub size_bytes: u64,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
}

/// All that a name stands for, in the order in which a registry takes it.
struct Bundle {
    blobs: Vec<Descriptor>,
    /// The last one goes under the name.
    documents: Vec<Paper>,
}

struct Paper {
    digest: Digest,
    media_type: String,
    bytes: Bytes,
}

impl Images {
    /// Pushes an image. Dropping the future gives up; what has come is not sent again by the next.
    ///
    /// # Errors
    /// When there is no image of this name, its content is damaged, or the registry does not take it.
    pub async fn push(
        &self,
        namespace: &Namespace,
        request: &PushRequest,
        reporter: &Reporter,
    ) -> Result<Pushed, Error> {
        let reference: Reference = request.reference.parse()?;
        let _hold = self.hold().await;
        let image = self.by_reference(namespace, &reference)?;
        let image = image.ok_or_else(|| Error::NotFound(request.reference.clone()))?;
        let name = reference.to_string();
        let target = image.names.iter().find(|n| n.reference == name).map(|n| n.digest.clone());
        let target = target.or_else(|| reference.digest().cloned());
        let target = target.unwrap_or_else(|| image.manifest_digest.clone());
        let others = self.others(namespace, &reference, &image)?;
        let (content, fallback) = (self.inner.content.clone(), image.manifest_digest.clone());
        let bundle = blocking(move || bundle(&content, &target, &fallback)).await?;
        let credentials = request.credentials.clone();
        let session = Arc::new(self.session(&reference, credentials, Action::Push).await?);
        reporter.tell(&name, Stage::Resolving, 0, 0);
        let blobs = bundle.blobs;
        let sent_bytes = self.push_blobs(&session, blobs, &others, reporter).await?;
        let (last, first) = bundle.documents.split_last().expect("has at least the target");
        for paper in first {
            let digest = paper.digest.to_string();
            session.push_document(&digest, &paper.media_type, &paper.bytes).await?;
        }
        let tag = match reference.digest() {
            // A digest can't be made to mean something else.
            Some(_) => last.digest.to_string(),
            None => reference.tag().unwrap_or("latest").to_owned(),
        };
        session.push_document(&tag, &last.media_type, &last.bytes).await?;
        tracing::info!(image = %image.id, name, digest = %last.digest, sent_bytes, "image.push");
        Ok(Pushed { digest: last.digest.clone(), size_bytes: last.bytes.len() as u64, sent_bytes })
    }

    /// Names at the same registry of images that share a layer with this one.
    fn others(
        &self,
        namespace: &Namespace,
        reference: &Reference,
        image: &Image,
    ) -> Result<Vec<(Reference, Image)>, Error> {
        let mut others = Vec::new();
        for other in self.all(namespace)? {
            if !other.blobs.iter().any(|b| image.blobs.iter().any(|own| own.digest == b.digest)) {
                continue;
            }
            for name in &other.names {
                let Ok(named) = name.reference.parse::<Reference>() else { continue };
                let is_other = named.registry() == reference.registry()
                    && named.repository() != reference.repository();
                if is_other {
                    others.push((named, other.clone()));
                }
            }
        }
        Ok(others)
    }

    async fn push_blobs(
        &self,
        session: &Arc<Session>,
        blobs: Vec<Descriptor>,
        others: &[(Reference, Image)],
        reporter: &Reporter,
    ) -> Result<u64, Error> {
        let permits = Arc::new(Semaphore::new(PARALLEL_UPLOADS));
        let mut jobs = JoinSet::new();
        for blob in blobs {
            let (session, permits) = (Arc::clone(session), Arc::clone(&permits));
            let (content, reporter) = (self.inner.content.clone(), reporter.clone());
            let has = |image: &Image| image.blobs.iter().any(|b| b.digest == blob.digest);
            let others: Vec<Reference> = others
                .iter()
                .filter(|(_, image)| has(image))
                .map(|(reference, _)| reference.clone())
                .take(MAX_OTHERS)
                .collect();
            jobs.spawn(async move {
                let _permit = permits.acquire_owned().await.expect("never closed");
                push_blob(&session, &blob, &others, content, &reporter).await
            });
        }
        let mut sent = 0;
        while let Some(done) = jobs.join_next().await {
            match done {
                Ok(bytes) => sent += bytes?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return Err(Error::Cancelled),
            }
        }
        Ok(sent)
    }
}

async fn push_blob(
    session: &Session,
    blob: &Descriptor,
    others: &[Reference],
    content: ContentStore,
    reporter: &Reporter,
) -> Result<u64, Error> {
    let item = blob.digest.to_string();
    reporter.tell(&item, Stage::Waiting, 0, blob.size);
    let stored = Stored {
        content,
        digest: blob.digest.clone(),
        size: blob.size,
        reporter: reporter.clone(),
        damage: std::sync::Mutex::default(),
    };
    let pushed = session.push_blob(blob, others, &stored).await;
    let damage = stored.damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let (Err(_), Some(damage)) = (&pushed, damage) {
        // What the registry made of it is not the reason.
        return Err(damage.into());
    }
    let (stage, sent) = match pushed? {
        Upload::Exists => (Stage::Exists, 0),
        Upload::Mounted { from } => {
            tracing::debug!(blob = item, from, "mounted");
            (Stage::Mounted, 0)
        }
        Upload::Sent => (Stage::Done, blob.size),
    };
    reporter.tell(&item, stage, blob.size, blob.size);
    Ok(sent)
}

/// A blob of the content store, checked as it goes out.
struct Stored {
    content: ContentStore,
    digest: Digest,
    size: u64,
    reporter: Reporter,
    damage: std::sync::Mutex<Option<content::Error>>,
}

impl Source for Stored {
    fn open(&self, offset: u64) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, pieces) = mpsc::channel(QUEUE_LEN);
        let opened = self.content.open_blob(&self.digest);
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                let text = error.to_string();
                *self.damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                    Some(error);
                let _ = sender.try_send(Err(io::Error::other(text)));
                return pieces;
            }
        };
        let (digest, size) = (self.digest.to_string(), self.size);
        let reporter = self.reporter.clone();
        // Ends when the receiver is gone.
        tokio::task::spawn_blocking(move || {
            let mut meter = Meter::new(&reporter, digest, Stage::Pushing, size);
            let mut at = 0;
            loop {
                // What came before the offset is read, too: the digest is that of all.
                let mut piece = vec![0; PIECE_BYTES];
                let read = reader.read(&mut piece);
                let piece = match read {
                    Ok(0) => return,
                    Ok(n) => {
                        piece.truncate(n);
                        let skip = usize::try_from(offset.saturating_sub(at)).unwrap_or(n).min(n);
                        at += n as u64;
                        meter.advance(n as u64);
                        Ok(Bytes::from(piece).slice(skip..))
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => Err(e),
                };
                let ended = piece.is_err();
                if sender.blocking_send(piece).is_err() || ended {
                    return;
                }
            }
        });
        pieces
    }
}

/// Reads what there is to push for `target`: all of an index if all of it is here, else `fallback`.
fn bundle(content: &ContentStore, target: &Digest, fallback: &Digest) -> Result<Bundle, Error> {
    let mut bundle = Bundle { blobs: Vec::new(), documents: Vec::new() };
    match bundle.add(content, target, 0) {
        Ok(()) => Ok(bundle),
        Err(Error::Content(content::Error::NotFound(missing))) if target != fallback => {
            tracing::info!(index = %target, %missing, "not all of it is here: one image is pushed");
            bundle = Bundle { blobs: Vec::new(), documents: Vec::new() };
            bundle.add(content, fallback, 0)?;
            Ok(bundle)
        }
        Err(error) => Err(error),
    }
}

/// Indexes within indexes.
const MAX_DEPTH: usize = 4;

impl Bundle {
    fn add(&mut self, content: &ContentStore, digest: &Digest, depth: usize) -> Result<(), Error> {
        let bytes = content.read(digest, MAX_DOCUMENT_BYTES)?;
        let document = Document::parse(&bytes, digest)?;
        let media_type = document.media_type().to_owned();
        match document {
            Document::Manifest(manifest) => {
                for blob in std::iter::once(manifest.config).chain(manifest.layers) {
                    if content.stat(&blob.digest)?.is_none() {
                        return Err(content::Error::NotFound(blob.digest).into());
                    }
                    if !self.blobs.iter().any(|known| known.digest == blob.digest) {
                        self.blobs.push(blob);
                    }
                }
            }
            Document::Index(index) => {
                if depth == MAX_DEPTH {
                    let kind = "indexes within indexes".into();
                    return Err(ManifestError::Kind { digest: digest.clone(), kind }.into());
                }
                for entry in &index.manifests {
                    self.add(content, &entry.digest, depth + 1)?;
                }
            }
        }
        let paper = Paper { digest: digest.clone(), media_type, bytes: bytes.into() };
        self.documents.push(paper);
        Ok(())
    }
}
