//! The registry client: documents and blobs of one repository, with credentials of one caller, from
//! its mirrors or itself.
//!
//! Passing troubles (no connection, 5xx, too many requests, a stream that breaks off) are met with a
//! bounded number of tries with growing pauses; a blob goes on where it broke off. Digests of
//! documents are checked here, those of blobs by whoever takes the bytes: they stream through. What
//! the bytes mean is not known here.

mod backoff;
mod error;
mod hosts;

use std::{
    path::Path,
    sync::{
        Once,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use oci_client::{
    Client, Reference as OciReference,
    client::{
        BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol, SizedStream,
    },
    manifest::OciDescriptor,
    secrets::RegistryAuth,
};
use tokio::sync::mpsc;

pub use error::Error;
pub use hosts::HostsError;

use crate::drivers::{
    content::Digest,
    oci::{Descriptor, MAX_DOCUMENT_BYTES, Reference, media},
};
use backoff::Backoff;
use hosts::{Host, Role, Scheme};

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
    /// In the order in which they are asked; the registry itself is the last.
    remotes: Vec<Remote>,
    /// Who answered last: it has the rest, too.
    preferred: AtomicUsize,
    name: String,
    tag: String,
}

/// One host that may have the repository.
struct Remote {
    client: Client,
    auth: RegistryAuth,
    reference: OciReference,
    host: Host,
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

impl Remote {
    fn new(
        reference: &Reference,
        host: Host,
        credentials: Option<&Credentials>,
    ) -> Result<Self, Error> {
        let protocol = match host.scheme {
            Scheme::Http => ClientProtocol::HttpsExcept(vec![host.address.clone()]),
            Scheme::Https => ClientProtocol::Https,
        };
        let certificate =
            |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: data.clone() };
        let client = Client::try_from(ClientConfig {
            protocol,
            platform_resolver: None,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: USER_AGENT,
            extra_root_certificates: host.ca.iter().map(certificate).collect(),
            accept_invalid_certificates: host.skip_verify,
            ..ClientConfig::default()
        })
        .map_err(|e| Error::Setup { registry: host.address.clone(), source: Box::new(e) })?;
        let repository = reference.repository().to_owned();
        let tag = reference.tag().unwrap_or("latest").to_owned();
        let (oci, credentials) = match host.role {
            Role::Origin => {
                (OciReference::with_tag(host.address.clone(), repository, tag), credentials)
            }
            Role::Mirror => {
                // Told whose content is meant, and no password of the registry's.
                let registry = reference.registry().to_owned();
                let mut oci = OciReference::with_tag(registry, repository, tag);
                oci.set_mirror_registry(host.address.clone());
                (oci, None)
            }
        };
        let auth = credentials.map_or(RegistryAuth::Anonymous, |c| {
            RegistryAuth::Basic(c.username.clone(), c.password.clone())
        });
        Ok(Self { client, auth, reference: oci, host })
    }

    async fn document(&self, digest: Option<&Digest>, what: &str) -> Result<Bytes, Error> {
        let reference = match digest {
            None => self.reference.clone(),
            Some(digest) => self.reference.clone_with_digest(digest.to_string()),
        };
        let mut backoff = Backoff::default();
        loop {
            let tried = self.client.pull_manifest_raw(&reference, &self.auth, &ACCEPTED).await;
            match tried.map_err(|e| Error::classify(&self.host.address, what, e)) {
                Ok((bytes, _)) => return Ok(bytes),
                // The next one is asked sooner than a mirror a second time.
                Err(e)
                    if self.host.role == Role::Origin
                        && e.is_passing()
                        && backoff.pause().await => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn open(&self, blob: &Descriptor, offset: u64) -> Result<BlobResponse, Error> {
        let what = blob.digest.to_string();
        // No `urls`: bytes come from the registry that was asked, or not at all.
        let descriptor = OciDescriptor { digest: what.clone(), ..OciDescriptor::default() };
        self.client.store_auth_if_needed(self.reference.resolve_registry(), &self.auth).await;
        // A range even for the whole: an answer in parts is not hashed a second time by the client.
        self.client
            .pull_blob_stream_partial(&self.reference, &descriptor, offset, None)
            .await
            .map_err(|e| Error::classify(&self.host.address, &what, e))
    }
}

impl Session {
    /// Gets ready to talk about `reference`, through the hosts that its `hosts.toml` in `folder`
    /// names; nothing is sent yet. Plain HTTP is spoken where that file says so, and to this host's
    /// own loopback addresses.
    ///
    /// # Errors
    /// When the file is no good or TLS can't be set up.
    pub fn new(
        reference: &Reference,
        credentials: Option<&Credentials>,
        folder: &Path,
    ) -> Result<Self, Error> {
        install_crypto();
        let remotes = hosts::of(folder, reference)?
            .into_iter()
            .map(|host| Remote::new(reference, host, credentials))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            remotes,
            preferred: AtomicUsize::new(0),
            name: reference.name(),
            tag: reference.tag().unwrap_or("latest").to_owned(),
        })
    }

    /// Who is to be asked, the one that answered last first.
    fn order(&self, may: impl Fn(&Host) -> bool) -> Vec<usize> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let others = (0..self.remotes.len()).filter(|index| *index != preferred);
        std::iter::once(preferred)
            .chain(others)
            .filter(|index| may(&self.remotes[*index].host))
            .collect()
    }

    fn origin(&self) -> &Host {
        &self.remotes.last().expect("the registry itself is always there").host
    }

    /// The document that a tag or, if given, a digest names.
    ///
    /// # Errors
    /// When it is not there, not what it should be, or the registry is out of reach.
    pub async fn document(&self, digest: Option<&Digest>) -> Result<(Bytes, Digest), Error> {
        let what = match digest {
            None => format!("{}:{}", self.name, self.tag),
            Some(digest) => format!("{}@{digest}", self.name),
        };
        let may = |host: &Host| match digest {
            None => host.capabilities.resolve,
            Some(_) => host.capabilities.pull,
        };
        let mut failed = None;
        for index in self.order(may) {
            match self.remotes[index].document(digest, &what).await {
                Ok(bytes) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return self.checked(bytes, digest, &what);
                }
                Err(error) => self.note(index, error, &mut failed),
            }
        }
        Err(failed.unwrap_or(Error::NoHost { what }))
    }

    /// Keeps the error that is to be told: the registry's own, if it was asked.
    fn note(&self, index: usize, error: Error, failed: &mut Option<Error>) {
        let host = &self.remotes[index].host;
        if host.role == Role::Origin {
            *failed = Some(error);
            return;
        }
        let text = crate::fault::chain(&error);
        tracing::warn!(mirror = host.address, error = text, "asking the next");
        failed.get_or_insert(error);
    }

    fn checked(
        &self,
        bytes: Bytes,
        digest: Option<&Digest>,
        what: &str,
    ) -> Result<(Bytes, Digest), Error> {
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(Error::TooLarge {
                registry: self.origin().address.clone(),
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
                registry: self.origin().address.clone(),
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
            registry: self.origin().address.clone(),
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
        let mut failed = None;
        for index in self.order(|host| host.capabilities.pull) {
            match self.remotes[index].open(blob, offset).await {
                Ok(BlobResponse::Partial(stream)) => return Ok((stream, 0)),
                // No ranges there: what we have comes once more.
                Ok(BlobResponse::Full(stream)) => return Ok((stream, offset)),
                Err(error) => self.note(index, error, &mut failed),
            }
        }
        Err(failed.unwrap_or(Error::NoHost { what: blob.digest.to_string() }))
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
