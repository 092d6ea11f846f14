//! Talks with registries: sessions, credentials, log-in, tags, search.

use std::sync::Arc;

use super::{Error, Images, blocking};
use crate::drivers::{
    oci::Reference,
    registry::{self, Action, Credentials, Found, LoggedIn, Names, Session},
};

/// Tags of one page, where the caller names no number.
const TAGS: usize = 1000;
/// Repositories that a search finds, where the caller names no number: Docker's own.
const FOUND: usize = 25;
const MAX_FOUND: usize = 1000;

impl Images {
    /// The caller's credentials, or the daemon's own where there are none.
    async fn credentials(
        &self,
        reference: &Reference,
        given: Option<Credentials>,
    ) -> Result<Option<Credentials>, Error> {
        if given.as_ref().is_some_and(|given| !given.is_empty()) {
            return Ok(given);
        }
        let Some(file) = &self.inner.registries.auth_file else { return Ok(None) };
        let found = registry::credentials_for(file, reference).await;
        Ok(found.map_err(registry::Error::Keychain)?)
    }

    /// Reads settings and certificates, so not on the runtime's own threads.
    pub(super) async fn session(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
        action: Action,
    ) -> Result<Session, Error> {
        let credentials = self.credentials(reference, credentials).await?;
        let (reference, inner) = (reference.clone(), Arc::clone(&self.inner));
        blocking(move || {
            Ok(Session::new(&reference, credentials.as_ref(), &inner.registries, action)?)
        })
        .await
    }

    /// Whether `registry` lets the caller in.
    ///
    /// # Errors
    /// When it does not, or is out of reach.
    pub async fn login(
        &self,
        registry: &str,
        credentials: &Credentials,
    ) -> Result<LoggedIn, Error> {
        Ok(registry::login(registry, credentials, &self.inner.registries).await?)
    }

    /// Tags that a registry has of a repository, after the one that `page_token` is.
    ///
    /// # Errors
    /// When there is no such repository, or the registry is out of reach.
    pub async fn tags(
        &self,
        repository: &str,
        credentials: Option<Credentials>,
        page_size: usize,
        page_token: Option<&str>,
    ) -> Result<Names, Error> {
        let reference: Reference = repository.parse()?;
        let session = self.session(&reference, credentials, Action::Pull).await?;
        let limit = if page_size == 0 { TAGS } else { page_size.min(TAGS) };
        Ok(session.tags(limit, page_token).await?)
    }

    /// Repositories that a registry finds for a term.
    ///
    /// # Errors
    /// When it offers no search, or is out of reach.
    pub async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: usize,
        credentials: Option<Credentials>,
    ) -> Result<Vec<Found>, Error> {
        let reference = format!("{registry}/x")
            .parse()
            .map_err(|_| registry::Error::NotARegistry(registry.to_owned()))?;
        let credentials = self.credentials(&reference, credentials).await?;
        let limit = if limit == 0 { FOUND } else { limit.min(MAX_FOUND) };
        let settings = &self.inner.registries;
        Ok(registry::search(registry, term, limit, credentials.as_ref(), settings).await?)
    }
}
