//! HTTP to one host of a registry: its own settings, who is asking, redirects, bounds.
//!
//! A redirect is followed for reads only, never from TLS to none, and what is the host's (passwords,
//! tokens, the headers of its `hosts.toml`) stays with its origin: scheme, name and port.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
};

use super::{
    Credentials, Error,
    auth::{Auth, address},
    error::Cause,
    hosts::{Fallback, Host, Scheme},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without one byte for so long, the connection is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 5;
/// Of the text of an error.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// One request, which may have to be sent more than once.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    /// What a token has to allow: "repository:a/b:pull".
    pub(super) scope: String,
    /// What people are told that it was about.
    pub(super) what: String,
}

/// What a request carries.
pub(super) enum Body {
    Nothing,
    Bytes(Bytes),
    /// Sent once: a challenge after it is a failure of the moment.
    Stream(reqwest::Body),
}

impl Call {
    pub(super) fn get(url: Url, scope: &str, what: &str) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Body::Nothing,
            scope: scope.to_owned(),
            what: what.to_owned(),
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.insert(name, value.into());
        self
    }
}

/// A host to talk to.
pub(super) struct Http {
    client: reqwest::Client,
    pub(super) auth: Auth,
    pub(super) host: Host,
    /// Ends in a slash.
    base: Url,
    own_headers: HeaderMap,
}

impl Http {
    pub(super) fn new(
        host: Host,
        scheme: Scheme,
        credentials: Option<Credentials>,
    ) -> Result<Self, Error> {
        let setup = |source: Cause| Error::Setup { registry: host.address.clone(), source };
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tls_danger_accept_invalid_certs(host.skip_verify);
        let mut roots = Vec::new();
        for pem in &host.ca {
            let parsed = reqwest::Certificate::from_pem_bundle(pem);
            roots.extend(parsed.map_err(|e| setup(e.into()))?);
        }
        builder = builder.tls_certs_merge(roots);
        if let Some(pem) = &host.identity {
            let identity = reqwest::Identity::from_pem(pem).map_err(|e| setup(e.into()))?;
            builder = builder.identity(identity);
        }
        let client = builder.build().map_err(|e| setup(e.into()))?;
        let said = |text: &str| setup(Cause::Said(text.to_owned()));
        let base = Url::parse(&format!("{}/", host.base(scheme)))
            .map_err(|_| said("its address is no URL"))?;
        let mut own_headers = HeaderMap::new();
        for (name, value) in &host.headers {
            let name = HeaderName::try_from(name).map_err(|_| said("a header has no name"))?;
            let mut value =
                HeaderValue::try_from(value).map_err(|_| said("a header has no value"))?;
            value.set_sensitive(true);
            own_headers.append(name, value);
        }
        Ok(Self { client, auth: Auth::new(credentials), host, base, own_headers })
    }

    /// A URL below that of the API; `path` has only what needs no escaping.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }

    /// Where a `Location` of an answer to a call to `from` points.
    pub(super) fn location(&self, from: &Url, headers: &HeaderMap) -> Option<Url> {
        let url = from.join(headers.get(LOCATION)?.to_str().ok()?).ok()?;
        let is_safe = match url.scheme() {
            "https" => true,
            "http" => from.scheme() == "http",
            _ => false,
        };
        is_safe.then_some(url)
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    fn bad(&self, what: &str, said: &str) -> Error {
        Error::BadAnswer {
            registry: self.host.address.clone(),
            what: what.to_owned(),
            source: Cause::Said(said.to_owned()),
        }
    }

    /// Sends, logs in where that is asked for, and follows redirects. An answer of any other status
    /// is given back as it is.
    pub(super) async fn send(&self, mut call: Call) -> Result<Response, Error> {
        let (mut redirects, mut challenged) = (0, false);
        loop {
            let is_own = self.is_own(&call.url);
            let tried = self.auth.tried();
            let mut request = self.client.request(call.method.clone(), call.url.clone());
            request = request.headers(call.headers.clone());
            if is_own {
                request = request.headers(self.own_headers.clone());
                request = self.auth.apply(request, &call.scope);
            }
            let is_stream = matches!(call.body, Body::Stream(_));
            request = match std::mem::replace(&mut call.body, Body::Nothing) {
                Body::Nothing => request,
                Body::Bytes(bytes) => {
                    call.body = Body::Bytes(bytes.clone());
                    request.body(bytes)
                }
                Body::Stream(body) => request.body(body),
            };
            let sent = request.send().await;
            let response =
                sent.map_err(|e| Error::unavailable(&self.host.address, &call.what, e.into()))?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && is_own && !challenged {
                challenged = true;
                let headers = response.headers();
                let asked = self.auth.answer(&self.client, &self.base, headers, &call.scope, tried);
                let again = asked.await?;
                if again && is_stream {
                    let source = Cause::Said("it wants to know anew who is asking".into());
                    return Err(Error::unavailable(&self.host.address, &call.what, source));
                }
                if again {
                    continue;
                }
            }
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let is_read = matches!(call.method, Method::GET | Method::HEAD);
            if !is_read || redirects == MAX_REDIRECTS {
                return Err(
                    self.bad(&call.what, "it sends us elsewhere without end or for a write")
                );
            }
            redirects += 1;
            call.url = self
                .location(&call.url, response.headers())
                .ok_or_else(|| self.bad(&call.what, "it sends us where we do not go"))?;
            tracing::debug!(to = address(&call.url), what = call.what, "redirected");
        }
    }

    /// The error that an answer is; its text is read, within bounds.
    pub(super) async fn failure(&self, response: Response, what: &str) -> Error {
        let status = response.status();
        let after = retry_after(response.headers());
        let registry = &self.host.address;
        let body = bounded(response, MAX_ERROR_BYTES, registry, what).await.unwrap_or_default();
        Error::of_status(registry, what, status, &body, after)
    }

    /// Whether a failure may be one of TLS where plain HTTP is allowed.
    pub(super) fn may_fall_back(&self) -> bool {
        self.host.fallback == Fallback::Http && self.base.scheme() == "https"
    }
}

/// Seconds only: a date is as rare as it is easy to lie with.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A whole body, if it is not longer than `limit`.
pub(super) async fn bounded(
    mut response: Response,
    limit: u64,
    registry: &str,
    what: &str,
) -> Result<Vec<u8>, Error> {
    let too_large =
        || Error::TooLarge { registry: registry.to_owned(), what: what.to_owned(), limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        let chunk = response.chunk().await;
        let chunk = chunk.map_err(|e| Error::unavailable(registry, what, e.into()))?;
        let Some(chunk) = chunk else { return Ok(bytes) };
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// `application/x-www-form-urlencoded`.
pub(super) fn encode_form(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://x/").expect("a constant that is a URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}
