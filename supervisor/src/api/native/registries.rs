//! wharf.v1.Registries.

use tonic::{Request, Response, Status};
use wharf_proto::v1::{self, push_image_response, registries_server};

use super::{
    images::{Answer, Answers, Streamed, answering, credentials, fault},
    translate::namespace,
};
use crate::{
    drivers::registry::Credentials,
    services::images::{Images, PushRequest},
};

/// Where a search goes that names no registry.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The service.
#[derive(Clone, Debug)]
pub struct RegistriesApi {
    /// What it translates for.
    pub images: Images,
}

fn given(message: Option<v1::Credentials>) -> Option<Credentials> {
    message.map(credentials).filter(|credentials| !credentials.is_empty())
}

#[tonic::async_trait]
impl registries_server::Registries for RegistriesApi {
    type PushStream = Answers<v1::PushImageResponse>;

    async fn push(&self, request: Request<v1::PushImageRequest>) -> Answer<Self::PushStream> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let request =
            PushRequest { reference: request.reference, credentials: given(request.credentials) };
        let images = self.images.clone();
        let answers = answering(move |reporter| async move {
            let pushed = images.push(&namespace, &request, &reporter).await?;
            Ok(push_image_response::Kind::Done(v1::PushDone {
                digest: pushed.digest.to_string(),
                size_bytes: pushed.size_bytes,
                sent_bytes: pushed.sent_bytes,
            }))
        });
        Ok(Response::new(answers))
    }

    async fn login(&self, request: Request<v1::LoginRequest>) -> Answer<v1::LoginResponse> {
        let request = request.into_inner();
        let credentials = given(request.credentials)
            .ok_or_else(|| Status::invalid_argument("no credentials to log in with"))?;
        let logged_in = self.images.login(&request.registry, &credentials).await.map_err(fault)?;
        let identity_token = logged_in.identity_token.unwrap_or_default();
        Ok(Response::new(v1::LoginResponse { identity_token }))
    }

    async fn list_tags(
        &self,
        request: Request<v1::ListTagsRequest>,
    ) -> Answer<v1::ListTagsResponse> {
        let request = request.into_inner();
        let page_size = usize::try_from(request.page_size).unwrap_or(0);
        let last = Some(&*request.page_token).filter(|token| !token.is_empty());
        let credentials = given(request.credentials);
        let page = self.images.tags(&request.repository, credentials, page_size, last).await;
        let page = page.map_err(fault)?;
        Ok(Response::new(v1::ListTagsResponse {
            tags: page.names,
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn search(&self, request: Request<v1::SearchRequest>) -> Answer<v1::SearchResponse> {
        let request = request.into_inner();
        let registry =
            if request.registry.is_empty() { DEFAULT_REGISTRY } else { &request.registry };
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let credentials = given(request.credentials);
        let found = self.images.search(registry, &request.term, limit, credentials).await;
        let repositories = found
            .map_err(fault)?
            .into_iter()
            .map(|found| v1::FoundRepository {
                name: found.name,
                description: found.description,
                star_count: found.star_count,
                is_official: found.is_official,
            })
            .collect();
        Ok(Response::new(v1::SearchResponse { repositories }))
    }
}

impl Streamed for v1::PushImageResponse {
    type Kind = push_image_response::Kind;

    fn progress(progress: v1::Progress) -> Self::Kind {
        push_image_response::Kind::Progress(progress)
    }

    fn wrap(kind: Self::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}
