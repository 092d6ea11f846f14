//! Into a registry: blobs and manifests of one repository.
//!
//! A blob that is there is left alone, one that another repository of the same registry has is
//! mounted from there, and all others are sent: a small one whole, a large one as one stream that
//! goes on where it broke off, as far as the registry says that it came.

use std::{fmt, io};

use bytes::Bytes;
use reqwest::{
    Method, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Error, Remote, Role, Session,
    backoff::Backoff,
    error::Cause,
    http::{Body, Call},
};
use crate::drivers::oci::{Descriptor, Reference};

/// A blob up to this size is sent with one request.
const WHOLE_BYTES: u64 = 1 << 20;
/// Repositories that are asked for a blob before it is sent.
const MAX_MOUNTS: usize = 3;

/// How a blob came to be in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upload {
    /// It was there.
    Exists,
    /// Another repository has it.
    Mounted {
        /// Which.
        from: String,
    },
    /// It was sent.
    Sent,
}

/// Where a blob's bytes come from: asked once a try, with the offset to begin at.
pub trait Source: Sync {
    /// The bytes from `offset` on. An error in them ends the try, and is not the registry's.
    fn open(&self, offset: u64) -> mpsc::Receiver<io::Result<Bytes>>;
}

impl fmt::Debug for dyn Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// What a request for an upload has become.
enum Answered {
    Mounted(String),
    At(Url),
}

/// An upload that has begun.
#[derive(Default)]
struct Begun {
    at: Option<Url>,
    /// Bytes that the registry says it has.
    reached: u64,
    /// The last try found more of them than the one before.
    went_on: bool,
}

impl Session {
    fn takes_pushes(host: &super::Host) -> bool {
        host.role == Role::Origin && host.capabilities.push
    }

    /// Sees to it that the repository has a blob. `others` are repositories of the same registry that
    /// may have it.
    ///
    /// # Errors
    /// When the registry does not take it, or is out of reach after all tries.
    pub async fn push_blob(
        &self,
        blob: &Descriptor,
        others: &[Reference],
        source: &dyn Source,
    ) -> Result<Upload, Error> {
        let mut asking = self.asking(Self::takes_pushes);
        loop {
            let Some(remote) = asking.next() else {
                return Err(asking.error(&blob.digest.to_string()));
            };
            let upload = Uploading { session: self, remote, blob, others, source };
            match upload.run().await {
                Ok(done) => return Ok(asking.answered(done)),
                Err(error) => asking.failed(error),
            }
        }
    }

    /// Puts a document under a tag or its digest.
    ///
    /// # Errors
    /// When the registry does not take it, or is out of reach after all tries.
    pub async fn push_document(
        &self,
        name: &str,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let repository = self.reference.repository();
        let what = format!("{}:{name}", self.reference.name());
        let mut asking = self.asking(Self::takes_pushes);
        let path = format!("{repository}/manifests/{name}");
        loop {
            let Some(remote) = asking.next() else { return Err(asking.error(&what)) };
            let mut backoff = Backoff::default();
            let put = loop {
                match self.put_document(remote, &path, media_type, bytes, &what).await {
                    Err(e) if remote.again(&e, &mut backoff).await => {}
                    put => break put,
                }
            };
            match put {
                Ok(()) => return Ok(()),
                Err(error) => asking.failed(error),
            }
        }
    }

    async fn put_document(
        &self,
        remote: &Remote,
        path: &str,
        media_type: &str,
        bytes: &Bytes,
        what: &str,
    ) -> Result<(), Error> {
        let mut call = Call::get(remote.url(path), &self.scope, what);
        call.method = Method::PUT;
        call.body = Body::Bytes(bytes.clone());
        let media_type = HeaderValue::try_from(media_type).map_err(|_| Error::BadAnswer {
            registry: remote.host().address.clone(),
            what: what.to_owned(),
            source: Cause::Said("its media type is not one that can be sent".into()),
        })?;
        let response = remote.http.send(call.header(CONTENT_TYPE, media_type)).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(remote.http.failure(response, what).await)
    }
}

struct Uploading<'a> {
    session: &'a Session,
    remote: &'a Remote,
    blob: &'a Descriptor,
    others: &'a [Reference],
    source: &'a dyn Source,
}

impl Uploading<'_> {
    fn call(&self, method: Method, url: Url) -> Call {
        let mut call = Call::get(url, &self.session.scope, &self.blob.digest.to_string());
        call.method = method;
        call
    }

    fn url(&self, path: &str) -> Url {
        self.remote.url(&format!("{}/blobs/{path}", self.session.reference.repository()))
    }

    fn bad(&self, said: &str) -> Error {
        Error::BadAnswer {
            registry: self.remote.host().address.clone(),
            what: self.blob.digest.to_string(),
            source: Cause::Said(said.to_owned()),
        }
    }

    async fn run(&self) -> Result<Upload, Error> {
        let (mut backoff, mut begun) = (Backoff::default(), Begun::default());
        loop {
            let error = match self.once(&mut begun).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if begun.went_on {
                // It goes on, if slowly: only tries that brought nothing are counted.
                backoff = Backoff::default();
            }
            if !self.remote.again(&error, &mut backoff).await {
                return Err(error);
            }
            let error = crate::fault::chain(&error);
            tracing::debug!(blob = %self.blob.digest, error, "upload goes on");
        }
    }

    /// One try; `begun` is what an earlier one was, and what the next one may go on with.
    async fn once(&self, begun: &mut Begun) -> Result<Upload, Error> {
        let mut offset = 0;
        let mut url = None;
        begun.went_on = false;
        if let Some(at) = begun.at.take() {
            match self.progress(at).await {
                Ok((found, so_far)) => {
                    begun.went_on = so_far > begun.reached;
                    begun.reached = so_far.max(begun.reached);
                    (url, offset) = (Some(found), so_far);
                }
                // It has been forgotten: from the beginning.
                Err(Error::NotFound { .. } | Error::BadAnswer { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let mut url = match url {
            Some(url) => url,
            None if self.is_there().await? => return Ok(Upload::Exists),
            None => match self.begin().await? {
                Answered::Mounted(from) => return Ok(Upload::Mounted { from }),
                Answered::At(url) => url,
            },
        };
        if self.blob.size > WHOLE_BYTES && offset < self.blob.size {
            begun.at = Some(url.clone());
            url = self.send_stream(url, offset).await?;
            offset = self.blob.size;
        }
        begun.at = Some(url.clone());
        url.query_pairs_mut().append_pair("digest", &self.blob.digest.to_string());
        let mut call = self.call(Method::PUT, url);
        if offset < self.blob.size {
            call.body = self.body(offset);
        }
        let call =
            call.header(CONTENT_LENGTH, self.blob.size - offset).header(CONTENT_TYPE, OCTETS);
        let response = self.remote.http.send(call).await?;
        if response.status().is_success() {
            return Ok(Upload::Sent);
        }
        let error = self.remote.http.failure(response, &self.blob.digest.to_string()).await;
        Err(error)
    }

    fn body(&self, offset: u64) -> Body {
        Body::Stream(reqwest::Body::wrap_stream(ReceiverStream::new(self.source.open(offset))))
    }

    async fn is_there(&self) -> Result<bool, Error> {
        let call = self.call(Method::HEAD, self.url(&self.blob.digest.to_string()));
        let response = self.remote.http.send(call).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.remote.http.failure(response, &self.blob.digest.to_string()).await),
        }
    }

    /// Begins, with a mount from one of the others where that goes.
    async fn begin(&self) -> Result<Answered, Error> {
        let mut begun = None;
        for other in self.others.iter().take(MAX_MOUNTS) {
            match self.post(Some(other.repository())).await {
                Ok(Answered::Mounted(from)) => return Ok(Answered::Mounted(from)),
                // The last one is used; earlier ones are forgotten by the registry in time.
                Ok(Answered::At(url)) => begun = Some(url),
                Err(e @ (Error::Unauthenticated { .. } | Error::Denied { .. })) => {
                    // Of that repository, perhaps, not of ours.
                    tracing::debug!(from = %other, error = crate::fault::chain(&e), "no mount");
                }
                Err(e) => return Err(e),
            }
        }
        match begun {
            Some(url) => Ok(Answered::At(url)),
            None => self.post(None).await,
        }
    }

    async fn post(&self, from: Option<&str>) -> Result<Answered, Error> {
        let mut url = self.url("uploads/");
        let mut scope = self.session.scope.clone();
        if let Some(from) = from {
            let digest = self.blob.digest.to_string();
            url.query_pairs_mut().append_pair("mount", &digest).append_pair("from", from);
            scope += &format!(" repository:{from}:pull");
        }
        let asked = url.clone();
        let mut call = self.call(Method::POST, url).header(CONTENT_LENGTH, 0);
        call.scope = scope;
        let response = self.remote.http.send(call).await?;
        match (response.status(), from) {
            (StatusCode::CREATED, Some(from)) => Ok(Answered::Mounted(from.to_owned())),
            (status, _) if status.is_success() => {
                let location = self.remote.http.location(&asked, response.headers());
                location
                    .map(Answered::At)
                    .ok_or_else(|| self.bad("it does not say where the upload goes"))
            }
            _ => Err(self.remote.http.failure(response, &self.blob.digest.to_string()).await),
        }
    }

    /// How far an upload has come, and where it goes on.
    async fn progress(&self, url: Url) -> Result<(Url, u64), Error> {
        let response = self.remote.http.send(self.call(Method::GET, url.clone())).await?;
        if !response.status().is_success() {
            return Err(self.remote.http.failure(response, &self.blob.digest.to_string()).await);
        }
        let headers = response.headers();
        let last = headers
            .get(RANGE)
            .and_then(|range| range.to_str().ok())
            .and_then(|range| range.trim_start_matches("bytes=").split_once('-'))
            .and_then(|(_, last)| last.parse::<u64>().ok());
        let next = self.remote.http.location(&url, headers).unwrap_or(url);
        // "0-0" is how many say that nothing has come.
        let so_far = last.filter(|last| *last > 0).map_or(0, |last| last.saturating_add(1));
        if so_far > self.blob.size {
            return Err(self.bad("it says that more has come than there is"));
        }
        Ok((next, so_far))
    }

    async fn send_stream(&self, url: Url, offset: u64) -> Result<Url, Error> {
        let size = self.blob.size;
        let mut call = self.call(Method::PATCH, url.clone());
        call.body = self.body(offset);
        let range = HeaderValue::try_from(format!("{offset}-{}", size - 1));
        let call = call
            .header(CONTENT_LENGTH, size - offset)
            .header(CONTENT_TYPE, OCTETS)
            .header(CONTENT_RANGE, range.expect("digits are a header's value"));
        let response = self.remote.http.send(call).await?;
        if !response.status().is_success() {
            return Err(self.remote.http.failure(response, &self.blob.digest.to_string()).await);
        }
        Ok(self.remote.http.location(&url, response.headers()).unwrap_or(url))
    }
}

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
