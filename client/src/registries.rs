//! Images on their way to a registry, and what registries tell.

use std::time::{Duration, Instant};

use tonic::Streaming;
use wharf_proto::v1::{
    Credentials, FoundRepository, ListTagsRequest, LoginRequest, Progress, PushDone,
    PushImageRequest, PushImageResponse, SearchRequest, push_image_response,
};

use crate::{
    backoff::Backoff,
    calls::{ask, mutate},
    connection::Client,
    error::Error,
};

/// A registry may be far, and ask a token service first.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a push tells.
#[derive(Debug)]
pub enum PushEvent {
    Progress(Progress),
    /// The last event.
    Done(PushDone),
}

/// Each fails as any call.
impl Client {
    /// Pushes an image. Asked again when the supervisor was restarted meanwhile: what has come is
    /// not sent again.
    ///
    /// # Errors
    /// As any call; a break while opening is not retried.
    pub async fn push(&self, request: PushImageRequest) -> Result<Push, Error> {
        let answers = self.registries().push(request.clone()).await;
        let stream = answers.map_err(|status| self.error("Push", status))?.into_inner();
        let mut backoff = self.backoff();
        backoff.opened(Instant::now());
        Ok(Push { client: self.clone(), request, stream: Some(stream), backoff })
    }

    /// Whether a registry lets the caller in; an identity token to be kept in place of the password,
    /// if it gave one.
    pub async fn login(
        &self,
        registry: &str,
        credentials: Credentials,
    ) -> Result<Option<String>, Error> {
        let credentials = Some(credentials);
        let request = LoginRequest { registry: registry.to_owned(), credentials };
        let answer = mutate!(self, "Login", PATIENCE, request, registries.login).await?;
        Ok(Some(answer.identity_token).filter(|token| !token.is_empty()))
    }

    /// All tags that a registry has of a repository.
    pub async fn tags(
        &self,
        repository: &str,
        credentials: Option<Credentials>,
    ) -> Result<Vec<String>, Error> {
        let mut request = ListTagsRequest {
            repository: repository.to_owned(),
            credentials,
            ..ListTagsRequest::default()
        };
        let mut tags = Vec::new();
        loop {
            let next = request.clone();
            let answer = ask!(self, "ListTags", PATIENCE, next, registries.list_tags).await?;
            tags.extend(answer.tags);
            let next = answer.next_page_token;
            // A page that leads to itself would have no end.
            if next.is_empty() || next == request.page_token {
                return Ok(tags);
            }
            request.page_token = next;
        }
    }

    /// Repositories that a registry finds; an empty one is Docker Hub.
    pub async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: u32,
        credentials: Option<Credentials>,
    ) -> Result<Vec<FoundRepository>, Error> {
        let (term, registry) = (term.to_owned(), registry.to_owned());
        let request = SearchRequest { term, registry, limit, credentials };
        let answer = ask!(self, "Search", PATIENCE, request, registries.search).await?;
        Ok(answer.repositories)
    }
}

/// A push under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Push {
    client: Client,
    request: PushImageRequest,
    stream: Option<Streaming<PushImageResponse>>,
    backoff: Backoff,
}

impl Push {
    /// The next event; None after [`PushEvent::Done`].
    ///
    /// # Errors
    /// The server's refusal, or the last failure when patience is at an end.
    pub async fn next(&mut self) -> Result<Option<PushEvent>, Error> {
        use push_image_response::Kind;
        loop {
            let answer = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.client.registries().push(self.request.clone()).await {
                    Ok(stream) => {
                        self.backoff.opened(Instant::now());
                        self.stream = Some(stream.into_inner());
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(None),
                Err(status) => {
                    self.stream = None;
                    let error = self.client.error("Push", status);
                    // UNAVAILABLE from the server itself is the registry's.
                    if error.refusal().is_some() {
                        return Err(error);
                    }
                    self.backoff.retry(error).await?;
                    continue;
                }
            };
            return Ok(Some(match answer.kind {
                Some(Kind::Progress(progress)) => PushEvent::Progress(progress),
                Some(Kind::Done(done)) => PushEvent::Done(done),
                None => continue,
            }));
        }
    }
}
