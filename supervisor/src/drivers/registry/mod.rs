//! The registry client: documents and blobs of one repository, with credentials of one caller, from
//! its mirrors or itself, and to itself.
//!
//! Passing troubles (no connection, 5xx, too many requests, a stream that breaks off) are met with a
//! bounded number of tries with growing pauses; a blob goes on where it broke off, in both
//! directions. Digests of documents are checked here, those of blobs by whoever takes the bytes:
//! they stream through. What the bytes mean is not known here.
//!
//! Errors of registries are oci-client's types. Its transport is not used: it has no place for a
//! host's own headers, paths and certificates, reads documents of any length whole, and gives a
//! password to any token service that a registry names. [`http`] and [`auth`] do that on reqwest.

mod auth;
mod backoff;
mod challenge;
mod error;
mod hosts;
mod http;
mod keychain;
mod listing;
mod pieces;
mod push;
mod settings;

use std::sync::{
    Once,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE},
};

pub use challenge::{Challenge, parse as parse_challenge};
pub use error::{Cause, Error};
pub use hosts::{HostsError, check as check_hosts};
pub use keychain::{KeychainError, credentials as credentials_for};
pub use listing::{Found, LoggedIn, Names, login, search};
pub use pieces::{PieceReceiver, PieceSender, pieces};
pub use push::{Source, Upload};
pub use settings::Settings;

use crate::drivers::{
    content::{Algorithm, Digest, Hasher},
    oci::{Descriptor, MAX_DOCUMENT_BYTES, Reference, media},
};
use backoff::Backoff;
use hosts::{Fallback, Host, Role, Scheme};
use http::{Call, Http, bounded};

/// Who is asking. Empty fields are not known.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password or personal token.
    pub password: String,
    /// What a log-in gave in place of a password: it is changed for tokens at the token service.
    pub identity_token: String,
    /// A token that is sent to the registry as it is.
    pub registry_token: String,
}

impl Credentials {
    /// A user and a password.
    #[must_use]
    pub fn password(username: &str, password: &str) -> Self {
        Self { username: username.into(), password: password.into(), ..Self::default() }
    }

    /// Whether they say nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What a session is for: tokens are asked for no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
}

/// Talks to one repository for one caller; connections and tokens live as long.
pub struct Session {
    /// In the order in which they are asked; the registry itself is the last.
    remotes: Vec<Remote>,
    /// Who answered last: it has the rest, too.
    preferred: AtomicUsize,
    reference: Reference,
    scope: String,
}

/// One host that may have the repository.
struct Remote {
    http: Http,
    /// A mirror is told whose content is meant, as containerd's are.
    namespace: Option<String>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("reference", &self.reference).finish_non_exhaustive()
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

/// The hosts of a registry as they are to be asked.
fn remotes(
    reference: &Reference,
    credentials: Option<&Credentials>,
    settings: &Settings,
) -> Result<Vec<Remote>, Error> {
    install_crypto();
    let mut remotes = Vec::new();
    for host in hosts::of(settings, reference)? {
        let (credentials, namespace) = match host.role {
            Role::Origin => (credentials.cloned(), None),
            // Told no password of the registry's.
            Role::Mirror => (None, Some(reference.registry().to_owned())),
        };
        let mut schemes = vec![host.scheme];
        if host.fallback == Fallback::Http {
            schemes.push(Scheme::Http);
        }
        for scheme in schemes {
            let http = Http::new(host.clone(), scheme, credentials.clone())?;
            remotes.push(Remote { http, namespace: namespace.clone() });
        }
    }
    Ok(remotes)
}

impl Remote {
    fn host(&self) -> &Host {
        &self.http.host
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.http.url(path);
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Whether the same host is asked once more after this error.
    async fn again(&self, error: &Error, backoff: &mut Backoff) -> bool {
        // The next one is asked sooner than a mirror a second time.
        let is_last = self.host().role == Role::Origin
            && !(self.http.may_fall_back() && error.is_no_answer());
        is_last && backoff.pause(error).await
    }

    async fn document(&self, call: &Documented<'_>, scope: &str) -> Result<Bytes, Error> {
        let mut backoff = Backoff::default();
        loop {
            match self.document_once(call, scope).await {
                Ok(bytes) => return Ok(bytes),
                Err(e) if self.again(&e, &mut backoff).await => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn document_once(&self, asked: &Documented<'_>, scope: &str) -> Result<Bytes, Error> {
        let path = format!("{}/manifests/{}", asked.repository, asked.name);
        let mut call = Call::get(self.url(&path), scope, &asked.what);
        for media_type in ACCEPTED {
            call.headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let response = self.http.send(call).await?;
        if response.status() != StatusCode::OK {
            return Err(self.http.failure(response, &asked.what).await);
        }
        let address = &self.host().address;
        let bytes = bounded(response, MAX_DOCUMENT_BYTES, address, &asked.what).await?;
        if let Some(expected) = asked.digest {
            let found = digest_of(&bytes, expected.algorithm());
            if found != *expected {
                return Err(Error::BadAnswer {
                    registry: address.clone(),
                    what: asked.what.clone(),
                    source: Cause::Said(format!("the bytes that came have the digest {found}")),
                });
            }
        }
        Ok(bytes.into())
    }

    /// A blob from `offset` on, or the whole where the host knows no ranges.
    async fn open(
        &self,
        path: &str,
        blob: &Descriptor,
        offset: u64,
        scope: &str,
    ) -> Result<(Response, u64), Error> {
        let what = blob.digest.to_string();
        let mut call = Call::get(self.url(path), scope, &what);
        if offset > 0 {
            let range = format!("bytes={offset}-");
            let range = HeaderValue::try_from(range).expect("digits are a header's value");
            call = call.header(RANGE, range);
        }
        let response = self.http.send(call).await?;
        match response.status() {
            StatusCode::OK => Ok((response, offset)),
            StatusCode::PARTIAL_CONTENT if starts_at(response.headers()) == Some(offset) => {
                Ok((response, 0))
            }
            StatusCode::PARTIAL_CONTENT => Err(Error::BadAnswer {
                registry: self.host().address.clone(),
                what,
                source: Cause::Said("it answers with another range than it was asked for".into()),
            }),
            _ => Err(self.http.failure(response, &what).await),
        }
    }
}

fn starts_at(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

fn digest_of(bytes: &[u8], algorithm: Algorithm) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

const ACCEPTED: [&str; 4] =
    [media::OCI_INDEX, media::OCI_MANIFEST, media::DOCKER_INDEX, media::DOCKER_MANIFEST];

/// A document that is asked for.
struct Documented<'a> {
    repository: &'a str,
    /// A tag or a digest.
    name: String,
    digest: Option<&'a Digest>,
    what: String,
}

/// One host after the other, until one has an answer.
struct Asking<'a> {
    session: &'a Session,
    order: std::vec::IntoIter<usize>,
    current: usize,
    failed: Option<Error>,
    ended: bool,
}

impl<'a> Asking<'a> {
    fn next(&mut self) -> Option<&'a Remote> {
        if self.ended {
            return None;
        }
        self.current = self.order.next()?;
        self.session.remotes.get(self.current)
    }

    fn answered<T>(&self, answer: T) -> T {
        self.session.preferred.store(self.current, Ordering::Relaxed);
        answer
    }

    /// Keeps the error that is to be told: the registry's own, if it was asked.
    fn failed(&mut self, error: Error) {
        let remote = &self.session.remotes[self.current];
        if remote.host().role == Role::Origin {
            self.ended = remote.http.may_fall_back() && !error.is_no_answer();
            self.failed = Some(error);
            return;
        }
        let (mirror, text) = (&remote.host().address, crate::fault::chain(&error));
        tracing::warn!(mirror, error = text, "asking the next");
        self.failed.get_or_insert(error);
    }

    fn error(self, what: &str) -> Error {
        self.failed.unwrap_or(Error::NoHost { what: what.to_owned() })
    }
}

impl Session {
    /// Gets ready to talk about `reference`, through the hosts that the settings name; nothing is
    /// sent yet. Plain HTTP is spoken where they say so, and to this host's own loopback addresses.
    ///
    /// # Errors
    /// When the settings are no good or TLS can't be set up.
    pub fn new(
        reference: &Reference,
        credentials: Option<&Credentials>,
        settings: &Settings,
        action: Action,
    ) -> Result<Self, Error> {
        let actions = match action {
            Action::Pull => "pull",
            Action::Push => "pull,push",
        };
        Ok(Self {
            remotes: remotes(reference, credentials, settings)?,
            preferred: AtomicUsize::new(0),
            scope: format!("repository:{}:{actions}", reference.repository()),
            reference: reference.clone(),
        })
    }

    /// Those that are to be asked, the one that answered last first.
    fn asking(&self, may: impl Fn(&Host) -> bool) -> Asking<'_> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let others = (0..self.remotes.len()).filter(|index| *index != preferred);
        let order: Vec<usize> = std::iter::once(preferred)
            .chain(others)
            .filter(|index| may(self.remotes[*index].host()))
            .collect();
        Asking { session: self, order: order.into_iter(), current: 0, failed: None, ended: false }
    }

    fn origin(&self) -> &Host {
        self.remotes.last().expect("the registry itself is always there").host()
    }

    /// The document that a tag or, if given, a digest names.
    ///
    /// # Errors
    /// When it is not there, not what it should be, or the registry is out of reach.
    pub async fn document(&self, digest: Option<&Digest>) -> Result<(Bytes, Digest), Error> {
        let tag = self.reference.tag().unwrap_or("latest");
        self.named_document(tag, digest).await
    }

    /// [`Session::document`] of another tag.
    ///
    /// # Errors
    /// As there.
    pub async fn named_document(
        &self,
        tag: &str,
        digest: Option<&Digest>,
    ) -> Result<(Bytes, Digest), Error> {
        let name = self.reference.name();
        let asked = Documented {
            repository: self.reference.repository(),
            name: digest.map_or_else(|| tag.to_owned(), ToString::to_string),
            digest,
            what: match digest {
                None => format!("{name}:{tag}"),
                Some(digest) => format!("{name}@{digest}"),
            },
        };
        let may = |host: &Host| match digest {
            None => host.capabilities.resolve,
            Some(_) => host.capabilities.pull,
        };
        let mut asking = self.asking(may);
        let bytes = loop {
            let Some(remote) = asking.next() else { return Err(asking.error(&asked.what)) };
            match remote.document(&asked, &self.scope).await {
                Ok(bytes) => break asking.answered(bytes),
                Err(error) => asking.failed(error),
            }
        };
        // Without a digest the answer is what the tag means, and its name is ours to compute.
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
        self.transfer(blob, 0, Sink::Buffer(&mut bytes)).await?;
        Ok(bytes)
    }

    /// Gives a blob's bytes from `offset` on to `sink` in order, never more than the descriptor says,
    /// until all have come or the receiver is gone. Dropping the future ends the transfer.
    ///
    /// # Errors
    /// When the blob is not there or the registry is out of reach after all tries.
    pub async fn stream(
        &self,
        blob: &Descriptor,
        offset: u64,
        sink: &PieceSender,
    ) -> Result<(), Error> {
        self.transfer(blob, offset, Sink::Channel(sink)).await
    }

    async fn transfer(
        &self,
        blob: &Descriptor,
        offset: u64,
        mut sink: Sink<'_>,
    ) -> Result<(), Error> {
        let mut received = offset;
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
                    if !backoff.pause(&e).await {
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
        let path = format!("{}/blobs/{}", self.reference.repository(), blob.digest);
        let mut asking = self.asking(|host| host.capabilities.pull);
        let (mut response, mut skip) = loop {
            let Some(remote) = asking.next() else {
                return Err(asking.error(&blob.digest.to_string()));
            };
            match remote.open(&path, blob, *received, &self.scope).await {
                Ok(opened) => break asking.answered(opened),
                Err(error) => asking.failed(error),
            }
        };
        let broken_off = |received, source| Error::BrokenOff {
            registry: self.origin().address.clone(),
            digest: blob.digest.clone(),
            received,
            expected: blob.size,
            source,
        };
        while *received < blob.size {
            let mut chunk = match response.chunk().await {
                Ok(None) => {
                    let source = Cause::Said("it ended".into());
                    return Err(broken_off(*received, source));
                }
                Err(e) => return Err(broken_off(*received, e.into())),
                Ok(Some(chunk)) => chunk,
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
}

/// Where a blob's bytes go.
enum Sink<'a> {
    Buffer(&'a mut Vec<u8>),
    Channel(&'a PieceSender),
}

impl Sink<'_> {
    /// Whether more is wanted.
    async fn take(&mut self, chunk: Bytes) -> bool {
        match self {
            Self::Buffer(bytes) => {
                bytes.extend_from_slice(&chunk);
                true
            }
            Self::Channel(sender) => sender.send(chunk).await,
        }
    }
}
