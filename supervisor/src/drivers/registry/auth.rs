//! How one host is told who is asking: tokens and passwords, for its own origin only.
//!
//! A password goes to the host that asks for it, or to the token service that the host names, and
//! to that over TLS unless the registry itself is spoken to without. Nobody follows redirects here.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{
    Method, RequestBuilder, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{
    Credentials, Error,
    challenge::{self, Challenge},
    error::Cause,
    http::{bounded, encode_form},
};

/// A token service's answer.
const MAX_TOKEN_BYTES: u64 = 256 << 10;
/// What a token service that names no time means (its specification).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token that ends so soon is taken for ended.
const MARGIN: Duration = Duration::from_secs(5);
const CLIENT_ID: &str = "wharf";

/// Credentials for one host, and the tokens that they have brought.
#[derive(Default)]
pub(super) struct Auth {
    credentials: Option<Credentials>,
    /// The host has asked for the password itself.
    is_basic: AtomicBool,
    /// By scope.
    tokens: Mutex<HashMap<String, Token>>,
    /// What a log-in has brought for the next time.
    refresh: Mutex<Option<String>>,
}

/// What a request carried that was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    Nothing,
    Password,
}

struct Token {
    value: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

impl Auth {
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, ..Self::default() }
    }

    /// The identity token of a log-in, if the token service gave one.
    pub(super) fn identity_token(&self) -> Option<String> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a request that is sent now carries.
    pub(super) fn tried(&self) -> Tried {
        if self.is_basic.load(Ordering::Acquire) { Tried::Password } else { Tried::Nothing }
    }

    /// What is known to be wanted for `scope`, put into a request to the host itself.
    pub(super) fn apply(&self, request: RequestBuilder, scope: &str) -> RequestBuilder {
        if let Some(value) = self.token(scope) {
            return request.header(AUTHORIZATION, value);
        }
        match &self.credentials {
            Some(c) if !c.registry_token.is_empty() => request.bearer_auth(&c.registry_token),
            Some(c) if self.is_basic.load(Ordering::Acquire) => {
                request.basic_auth(&c.username, Some(&c.password))
            }
            _ => request,
        }
    }

    fn token(&self, scope: &str) -> Option<HeaderValue> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(scope).filter(|t| t.until > Instant::now() + MARGIN).map(|t| t.value.clone())
    }

    /// Answers the challenge of a 401, so that the request may be sent once more. False: there is
    /// nothing that has not been tried.
    pub(super) async fn answer(
        &self,
        client: &reqwest::Client,
        host: &Url,
        headers: &HeaderMap,
        scope: &str,
        tried: Tried,
    ) -> Result<bool, Error> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> =
            values.filter_map(|v| v.to_str().ok()).flat_map(challenge::parse).collect();
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, .. } => Some((realm, service.as_deref())),
            Challenge::Basic => None,
        });
        if let Some((realm, service)) = bearer {
            let realm = self.realm(realm, host)?;
            self.fetch(client, host, realm, service, scope).await?;
            return Ok(true);
        }
        let has_password = self.credentials.as_ref().is_some_and(|c| !c.username.is_empty());
        if !challenges.contains(&Challenge::Basic) || !has_password || tried == Tried::Password {
            return Ok(false);
        }
        self.is_basic.store(true, Ordering::Release);
        Ok(true)
    }

    fn realm(&self, realm: &str, host: &Url) -> Result<Url, Error> {
        let bad = |said: &str| Error::BadAnswer {
            registry: address(host),
            what: "a token".into(),
            source: Cause::Said(said.to_owned()),
        };
        // A path alone is one at the host itself.
        let url = host.join(realm).map_err(|_| bad("the realm of its challenge is no URL"))?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if host.scheme() == "http" => Ok(url),
            _ => Err(bad("it wants its tokens fetched without TLS")),
        }
    }

    async fn fetch(
        &self,
        client: &reqwest::Client,
        host: &Url,
        realm: Url,
        service: Option<&str>,
        scope: &str,
    ) -> Result<(), Error> {
        let registry = address(host);
        let identity = self.credentials.as_ref().filter(|c| !c.identity_token.is_empty());
        let mut query: Vec<(&str, &str)> = Vec::new();
        query.extend(service.map(|service| ("service", service)));
        // A space between scopes is one parameter each.
        query.extend(scope.split(' ').filter(|s| !s.is_empty()).map(|scope| ("scope", scope)));
        let request = match (identity, &self.credentials) {
            (Some(c), _) => {
                let joined = [
                    ("grant_type", "refresh_token"),
                    ("service", service.unwrap_or_default()),
                    ("client_id", CLIENT_ID),
                    ("scope", scope),
                    ("refresh_token", &c.identity_token),
                ];
                client
                    .request(Method::POST, realm)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(encode_form(&joined))
            }
            (None, Some(c)) if !c.username.is_empty() => {
                query.push(("account", &c.username));
                query.push(("client_id", CLIENT_ID));
                query.push(("offline_token", "true"));
                client.get(with_query(realm, &query)).basic_auth(&c.username, Some(&c.password))
            }
            _ => client.get(with_query(realm, &query)),
        };
        let what = "a token";
        let sent = request.send().await;
        let response = sent.map_err(|e| Error::unavailable(&registry, what, Cause::from(e)))?;
        let status = response.status();
        let body = bounded(response, MAX_TOKEN_BYTES, &registry, what).await?;
        if !status.is_success() {
            return Err(match status.as_u16() {
                400 | 401 | 403 | 404 => {
                    Error::Unauthenticated { registry, source: Cause::of_answer(status, &body) }
                }
                _ => Error::of_status(&registry, what, status, &body, None),
            });
        }
        let bad = |said: &str| Error::BadAnswer {
            registry: registry.clone(),
            what: what.into(),
            source: Cause::Said(said.to_owned()),
        };
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| bad("its token service answers with what is no token"))?;
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() {
            return Err(bad("its token service gives an empty token"));
        }
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| bad("its token is not one that can be sent"))?;
        value.set_sensitive(true);
        let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        let until = Instant::now() + life.clamp(DEFAULT_LIFE, Duration::from_secs(3600));
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(scope.to_owned(), Token { value, until });
        drop(tokens);
        if let Some(refresh) = answer.refresh_token.filter(|token| !token.is_empty()) {
            *self.refresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(refresh);
        }
        Ok(())
    }
}

fn with_query(mut url: Url, pairs: &[(&str, &str)]) -> Url {
    url.query_pairs_mut().extend_pairs(pairs);
    url
}

/// HOST or HOST:PORT of a URL.
pub(super) fn address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
