//! The registry client: documents and blobs of one repository, with credentials of one caller.
//!
//! Passing troubles (no connection, 5xx, too many requests, a stream that breaks off) are met with a
//! bounded number of tries with growing pauses; a blob goes on where it broke off. Digests of
//! documents are checked here, those of blobs by whoever takes the bytes: they stream through. What
//! the bytes mean is not known here.

mod backoff;
mod error;

use std::{sync::Once, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use oci_client::{
    Client, Reference as OciReference, RegistryOperation,
    client::{BlobResponse, ClientConfig, ClientProtocol, SizedStream},
    manifest::OciDescriptor,
    secrets::RegistryAuth,
};
use tokio::sync::mpsc;

pub use error::Error;

use crate::drivers::{
    content::Digest,
    oci::{Descriptor, MAX_DOCUMENT_BYTES, Reference, media},
};
use backoff::Backoff;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without one byte for so long, the connection is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPTED: [&str; 4] =
    [media::OCI_INDEX, media::OCI_MANIFEST, media::DOCKER_INDEX, media::DOCKER_MANIFEST];
const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// Who is asking.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Talks to one repository for one caller; connections and tokens live as long.
pub struct Session {
    client: Client,
    auth: RegistryAuth,
    reference: OciReference,
    registry: String,
    name: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("reference", &self.name).finish_non_exhaustive()
    }
}

/// ring is the only provider in the binary, and rustls has to be told so once.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that another part of the process was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

impl Session {
    /// Gets ready to talk about `reference`; nothing is sent yet. Plain HTTP is spoken to this host's
    /// own loopback addresses only.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(reference: &Reference, credentials: Option<&Credentials>) -> Result<Self, Error> {
        install_crypto();
        let registry = reference.registry_host().to_owned();
        let protocol = if reference.is_loopback() {
            ClientProtocol::HttpsExcept(vec![registry.clone()])
        } else {
            ClientProtocol::Https
        };
        let client = Client::try_from(ClientConfig {
            protocol,
            platform_resolver: None,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        })
        .map_err(|e| Error::Setup { registry: registry.clone(), source: Box::new(e) })?;
        let auth = credentials.map_or(RegistryAuth::Anonymous, |c| {
            RegistryAuth::Basic(c.username.clone(), c.password.clone())
        });
        let repository = reference.repository().to_owned();
        let tag = reference.tag().unwrap_or("latest").to_owned();
        let oci = OciReference::with_tag(registry.clone(), repository, tag);
        Ok(Self { client, auth, reference: oci, registry, name: reference.name() })
    }

    /// The document that a tag or, if given, a digest names.
    ///
    /// # Errors
    /// When it is not there, not what it should be, or the registry is out of reach.
    pub async fn document(&self, digest: Option<&Digest>) -> Result<(Bytes, Digest), Error> {
        let reference = match digest {
            None => self.reference.clone(),
            Some(digest) => self.reference.clone_with_digest(digest.to_string()),
        };
        let what = match digest {
            None => format!("{}:{}", self.name, self.reference.tag().unwrap_or_default()),
            Some(digest) => format!("{}@{digest}", self.name),
        };
        let mut backoff = Backoff::default();
        loop {
            let tried = self.client.pull_manifest_raw(&reference, &self.auth, &ACCEPTED).await;
            match tried.map_err(|e| Error::classify(&self.registry, &what, e)) {
                Ok((bytes, _)) => return self.checked(bytes, digest, &what),
                Err(e) if e.is_passing() && backoff.pause().await => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn checked(
        &self,
        bytes: Bytes,
        digest: Option<&Digest>,
        what: &str,
    ) -> Result<(Bytes, Digest), Error> {
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                registry: self.registry.clone(),
                what: what.into(),
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        // The client has compared the digest that was asked for with these very bytes. Without one
        // the answer is what the tag means, and its name is ours to compute.
        let digest = digest.cloned().unwrap_or_else(|| Digest::of(&bytes));
        Ok((bytes, digest))
    }

    /// A whole small blob; its digest is for the caller to check.
    ///
    /// # Errors
    /// As [`Session::stream`].
    pub async fn blob(&self, blob: &Descriptor) -> Result<Vec<u8>, Error> {
        if blob.size > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                registry: self.registry.clone(),
                what: blob.digest.to_string(),
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        let mut bytes = Vec::new();
        self.transfer(blob, Sink::Buffer(&mut bytes)).await?;
        Ok(bytes)
    }

    /// Gives a blob's bytes to `sink` in order, never more than the descriptor says, until all have
    /// come or the receiver is gone. Dropping the future ends the transfer.
    ///
    /// # Errors
    /// When the blob is not there or the registry is out of reach after all tries.
    pub async fn stream(&self, blob: &Descriptor, sink: &mpsc::Sender<Bytes>) -> Result<(), Error> {
        self.transfer(blob, Sink::Channel(sink)).await
    }

    async fn transfer(&self, blob: &Descriptor, mut sink: Sink<'_>) -> Result<(), Error> {
        let mut received = 0;
        let mut backoff = Backoff::default();
        while received < blob.size {
            let before = received;
            match self.transfer_once(blob, &mut received, &mut sink).await {
                Ok(()) => return Ok(()),
                Err(e) => {
                    if received > before {
                        // It goes on, if slowly: only tries without a byte are counted.
                        backoff = Backoff::default();
                    }
                    if !e.is_passing() || !backoff.pause().await {
                        return Err(e);
                    }
                    tracing::debug!(
                        blob = %blob.digest,
                        received,
                        error = crate::fault::chain(&e),
                        "download goes on",
                    );
                }
            }
        }
        Ok(())
    }

    async fn transfer_once(
        &self,
        blob: &Descriptor,
        received: &mut u64,
        sink: &mut Sink<'_>,
    ) -> Result<(), Error> {
        let (mut stream, mut skip) = self.open(blob, *received).await?;
        let broken_off = |received, source| Error::BrokenOff {
            registry: self.registry.clone(),
            digest: blob.digest.clone(),
            received,
            expected: blob.size,
            source,
        };
        while *received < blob.size {
            let mut chunk = match stream.next().await {
                None => {
                    return Err(broken_off(*received, std::io::ErrorKind::UnexpectedEof.into()));
                }
                Some(Err(e)) => return Err(broken_off(*received, e)),
                Some(Ok(chunk)) => chunk,
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let _ = chunk.split_to(usize::try_from(skipped).unwrap_or(chunk.len()));
            chunk.truncate(usize::try_from(blob.size - *received).unwrap_or(usize::MAX));
            if chunk.is_empty() {
                continue;
            }
            *received += chunk.len() as u64;
            if !sink.take(chunk).await {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The blob's bytes from `offset` on, after as many bytes as are said beside it.
    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<(SizedStream, u64), Error> {
        let what = blob.digest.to_string();
        // No `urls`: bytes come from the registry that was asked, or not at all.
        let descriptor = OciDescriptor { digest: what.clone(), ..OciDescriptor::default() };
        self.client.store_auth_if_needed(&self.registry, &self.auth).await;
        // A range even for the whole: an answer in parts is not hashed a second time by the client.
        let response = self
            .client
            .pull_blob_stream_partial(&self.reference, &descriptor, offset, None)
            .await
            .map_err(|e| Error::classify(&self.registry, &what, e))?;
        Ok(match response {
            BlobResponse::Partial(stream) => (stream, 0),
            // The registry knows no ranges: what we have comes once more.
            BlobResponse::Full(stream) => (stream, offset),
        })
    }

    /// Logs in for reading, where the registry wants that: finds out about bad credentials at once.
    ///
    /// # Errors
    /// When the registry does not let us in or is out of reach.
    pub async fn authenticate(&self) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        loop {
            let tried =
                self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await;
            match tried.map_err(|e| Error::classify(&self.registry, &self.name, e)) {
                Ok(_) => return Ok(()),
                Err(e) if e.is_passing() && backoff.pause().await => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Where a blob's bytes go.
enum Sink<'a> {
    Buffer(&'a mut Vec<u8>),
    Channel(&'a mpsc::Sender<Bytes>),
}

impl Sink<'_> {
    /// Whether more is wanted.
    async fn take(&mut self, chunk: Bytes) -> bool {
        match self {
            Self::Buffer(bytes) => {
                bytes.extend_from_slice(&chunk);
                true
            }
            Self::Channel(sender) => sender.send(chunk).await.is_ok(),
        }
    }
}
