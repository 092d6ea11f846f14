//! What a registry tells of itself: tags, repositories, a search; and whether it knows a caller.

use reqwest::{StatusCode, Url, header::LINK};
use serde::Deserialize;

use super::{
    Credentials, Error, Remote, Role, Session, Settings,
    error::Cause,
    http::{Call, bounded},
    remotes,
};
use crate::drivers::oci::Reference;

/// Of one page.
const MAX_PAGE_BYTES: u64 = 4 << 20;
/// Names that are looked at in a registry's catalogue.
const MAX_NAMES: usize = 10_000;
const PAGE_LEN: usize = 1000;
/// Docker Hub's search is at its old name.
const HUB_SEARCH: &str = "https://index.docker.io/v1/search";

/// Names in their order, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Tags or repositories.
    pub names: Vec<String>,
    /// Given to the next call; none after the last.
    pub next: Option<String>,
}

/// A repository that a search has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Found {
    /// Without the registry.
    pub name: String,
    /// What it says of itself.
    #[serde(default)]
    pub description: String,
    /// People who like it.
    #[serde(default)]
    pub star_count: u32,
    /// One of Docker's own.
    #[serde(default)]
    pub is_official: bool,
}

/// What a log-in has brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggedIn {
    /// To be kept in place of the password, if there is one.
    pub identity_token: Option<String>,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Catalogue {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<Found>,
}

impl Session {
    /// Tags of the repository, up to `limit`, after `last`.
    ///
    /// # Errors
    /// When there is no such repository or the registry is out of reach.
    pub async fn tags(&self, limit: usize, last: Option<&str>) -> Result<Names, Error> {
        let name = self.reference.name();
        let path = format!("{}/tags/list", self.reference.repository());
        let mut asking = self.asking(|host| host.capabilities.resolve);
        loop {
            let Some(remote) = asking.next() else { return Err(asking.error(&name)) };
            match page(remote, &path, &self.scope, &name, limit, last).await {
                Ok((body, next)) => {
                    let tags: Tags = parse(remote, &name, &body)?;
                    let names = tags.tags.unwrap_or_default();
                    return Ok(asking.answered(Names { names, next }));
                }
                Err(error) => asking.failed(error),
            }
        }
    }
}

/// One page of a list, and the `last` of the next one.
async fn page(
    remote: &Remote,
    path: &str,
    scope: &str,
    what: &str,
    limit: usize,
    last: Option<&str>,
) -> Result<(Vec<u8>, Option<String>), Error> {
    let mut url = remote.url(path);
    if limit > 0 {
        url.query_pairs_mut().append_pair("n", &limit.to_string());
    }
    if let Some(last) = last {
        url.query_pairs_mut().append_pair("last", last);
    }
    let response = remote.http.send(Call::get(url.clone(), scope, what)).await?;
    if response.status() != StatusCode::OK {
        return Err(remote.http.failure(response, what).await);
    }
    let link = response.headers().get(LINK).and_then(|link| link.to_str().ok());
    let next = link.and_then(|link| next_of(link, &url));
    Ok((bounded(response, MAX_PAGE_BYTES, &remote.host().address, what).await?, next))
}

/// `last` of a `Link: </v2/…?last=x&n=5>; rel="next"`. Only that: an address is never believed.
fn next_of(link: &str, base: &Url) -> Option<String> {
    let (target, rest) = link.trim_start().strip_prefix('<')?.split_once('>')?;
    if !rest.contains("next") {
        return None;
    }
    let url = base.join(target).ok()?;
    url.query_pairs().find(|(key, _)| key == "last").map(|(_, value)| value.into_owned())
}

fn parse<'a, T: Deserialize<'a>>(remote: &Remote, what: &str, body: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::BadAnswer {
        registry: remote.host().address.clone(),
        what: what.to_owned(),
        source: Cause::Said(e.to_string()),
    })
}

/// Any repository there: what is asked is about the registry.
fn anything_at(registry: &str) -> Option<Reference> {
    format!("{registry}/x").parse().ok()
}

fn bad_registry(registry: &str) -> Error {
    Error::NotARegistry(registry.chars().take(300).collect())
}

/// Whether `registry` lets the caller in.
///
/// # Errors
/// When it does not, or is out of reach.
pub async fn login(
    registry: &str,
    credentials: &Credentials,
    settings: &Settings,
) -> Result<LoggedIn, Error> {
    let reference = anything_at(registry).ok_or_else(|| bad_registry(registry))?;
    let remotes = remotes(&reference, Some(credentials), settings)?;
    let mut failed = None;
    for remote in remotes.iter().filter(|remote| remote.host().role == Role::Origin) {
        let call = Call::get(remote.url(""), "", registry);
        let error = match remote.http.send(call).await {
            Ok(response) if response.status().is_success() => {
                return Ok(LoggedIn { identity_token: remote.http.auth.identity_token() });
            }
            Ok(response) => remote.http.failure(response, registry).await,
            Err(error) => error,
        };
        let goes_on = remote.http.may_fall_back() && error.is_no_answer();
        failed = Some(error);
        if !goes_on {
            break;
        }
    }
    Err(failed.unwrap_or_else(|| bad_registry(registry)))
}

/// Repositories whose names or descriptions have `term` in them: Docker Hub's search, or the
/// catalogue of a registry that has one.
///
/// # Errors
/// When the registry offers neither, or is out of reach.
pub async fn search(
    registry: &str,
    term: &str,
    limit: usize,
    credentials: Option<&Credentials>,
    settings: &Settings,
) -> Result<Vec<Found>, Error> {
    let reference = anything_at(registry).ok_or_else(|| bad_registry(registry))?;
    let remotes = remotes(&reference, credentials, settings)?;
    if reference.is_docker_hub() {
        // The mirrors have no search; the client of the last host is the one to ask with.
        let remote = remotes.last().expect("the registry itself is always there");
        let mut url = Url::parse(HUB_SEARCH).expect("a constant that is a URL");
        let n = limit.clamp(1, 100).to_string();
        url.query_pairs_mut().append_pair("q", term).append_pair("n", &n);
        return hub_search(remote, url, limit).await;
    }
    let mut failed = None;
    for remote in remotes.iter().filter(|remote| remote.host().role == Role::Origin) {
        match catalogue(remote, registry, term, limit).await {
            Ok(found) => return Ok(found),
            Err(error) => {
                let goes_on = remote.http.may_fall_back() && error.is_no_answer();
                failed = Some(error);
                if !goes_on {
                    break;
                }
            }
        }
    }
    Err(failed.unwrap_or_else(|| bad_registry(registry)))
}

async fn hub_search(remote: &Remote, url: Url, limit: usize) -> Result<Vec<Found>, Error> {
    let what = "a search";
    let response = remote.http.send(Call::get(url, "", what)).await?;
    if response.status() != StatusCode::OK {
        return Err(remote.http.failure(response, what).await);
    }
    let body = bounded(response, MAX_PAGE_BYTES, &remote.host().address, what).await?;
    let mut results = parse::<Results>(remote, what, &body)?.results;
    results.truncate(limit);
    Ok(results)
}

async fn catalogue(
    remote: &Remote,
    registry: &str,
    term: &str,
    limit: usize,
) -> Result<Vec<Found>, Error> {
    let (mut found, mut last, mut seen) = (Vec::new(), None, 0);
    loop {
        let asked =
            page(remote, "_catalog", "registry:catalog:*", registry, PAGE_LEN, last.as_deref())
                .await;
        let (body, next) = match asked {
            Ok(page) => page,
            Err(Error::NotFound { source, .. }) => {
                return Err(Error::NoSearch { registry: registry.to_owned(), source });
            }
            Err(error) => return Err(error),
        };
        let names = parse::<Catalogue>(remote, registry, &body)?.repositories.unwrap_or_default();
        seen += names.len();
        let matching = names.into_iter().filter(|name| name.contains(term));
        found.extend(matching.map(|name| Found { name, ..Found::default() }));
        // A page that leads to itself would have no end.
        if found.len() >= limit || seen >= MAX_NAMES || next.is_none() || next == last {
            found.truncate(limit);
            return Ok(found);
        }
        last = next;
    }
}

#[cfg(test)]
mod tests {
    use super::next_of;

    #[test]
    fn the_next_page_is_a_name_and_no_address() {
        let base = "https://reg.lan/v2/_catalog?n=2".parse().expect("a URL");
        for (link, next) in [
            (r#"</v2/_catalog?last=b%2Fc&n=2>; rel="next""#, Some("b/c")),
            (r#"<https://evil.lan/v2/_catalog?last=z>; rel="next""#, Some("z")),
            (r#"</v2/_catalog?n=2>; rel="next""#, None),
            (r#"</v2/_catalog?last=a>; rel="prev""#, None),
            ("nonsense", None),
        ] {
            assert_eq!(next_of(link, &base).as_deref(), next, "{link}");
        }
    }
}
