//! Calls with a request id are done once: the layer around a service.
//!
//! A call with one answer goes on when its caller hangs up; who sends it again waits for the same
//! answer, or gets it as it was. A stream is begun each time; what it makes is named by the request
//! id, so that it is made once (see `services::containers::exec`).

use std::{
    collections::HashSet,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use prost::Message as _;
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, Request, Response, response},
    server::NamedService,
};
use tower::{Service, ServiceExt as _};
use wharf_proto::v1::{self, NAMESPACE_KEY, REQUEST_ID_KEY};

use super::status::from_fault;
use crate::services::requests::{self, Error, Flight, Flights, Requests, Ticket};

/// Bytes of a request before its message: a flag and a length.
const FRAME_HEAD: usize = 5;

/// Makes services that do a request once; clones share what was answered.
#[derive(Clone, Debug)]
pub struct Once {
    requests: Requests,
    flights: Flights<Answer>,
    streams: Arc<HashSet<String>>,
    max_bytes: usize,
}

/// An answer, whole.
#[derive(Clone, Debug)]
struct Answer {
    head: response::Parts,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Answer {
    async fn whole(response: Response<Body>) -> Result<Self, Status> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Self { head, body: body.to_bytes(), trailers })
    }

    /// Whether it would be the same if the request came again: UNAVAILABLE asks to try again.
    fn is_final(&self) -> bool {
        let status = |headers: &HeaderMap| headers.get("grpc-status").cloned();
        let status = status(&self.head.headers).or(self.trailers.as_ref().and_then(status));
        status.is_none_or(|status| status.as_bytes() != b"14")
    }

    fn response(self) -> Response<Body> {
        let trailers = self.trailers.map(Ok);
        let body = Full::new(self.body).with_trailers(std::future::ready(trailers));
        Response::from_parts(self.head, Body::new(body))
    }
}

impl Once {
    /// What was stamped is in `requests`; larger requests than `max_bytes` are refused.
    #[must_use]
    pub fn new(requests: Requests, max_bytes: usize) -> Self {
        let described = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET);
        let files = described.expect("the API describes itself").file;
        let mut streams = HashSet::new();
        for file in files {
            for service in &file.service {
                for method in &service.method {
                    if method.server_streaming() || method.client_streaming() {
                        let (package, service) = (file.package(), service.name());
                        streams.insert(format!("/{package}.{service}/{}", method.name()));
                    }
                }
            }
        }
        Self { requests, flights: Flights::default(), streams: Arc::new(streams), max_bytes }
    }

    /// The service, with its requests done once.
    #[must_use]
    pub fn wrap<S>(&self, inner: S) -> OnceService<S> {
        OnceService { once: self.clone(), inner }
    }

    fn ticket(&self, head: &HeaderMap, id: &str, print: &str) -> Result<Ticket, Status> {
        let namespace = match head.get(NAMESPACE_KEY) {
            None => v1::DEFAULT_NAMESPACE,
            Some(value) => value.to_str().unwrap_or("?"),
        };
        let namespace = namespace
            .parse()
            .map_err(|e| from_fault(&crate::services::containers::Error::from_id(e)))?;
        self.requests.ticket(&namespace, id, print).map_err(|e| from_fault(&e))
    }

    async fn call<S>(self, inner: S, request: Request<Body>, id: String) -> Response<Body>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let path = request.uri().path().to_owned();
        if self.streams.contains(&path) {
            // What it is about comes with its messages: the call is all there is to compare.
            let ticket = self.ticket(request.headers(), &id, &requests::fingerprint(&path, b""));
            return match ticket {
                Ok(ticket) => ticket.scope(serve(inner, request)).await,
                Err(status) => status.into_http(),
            };
        }
        match self.unary(inner, request, id, &path).await {
            Ok(response) => response,
            Err(status) => status.into_http(),
        }
    }

    async fn unary<S>(
        self,
        inner: S,
        request: Request<Body>,
        id: String,
        path: &str,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, self.max_bytes + FRAME_HEAD).collect().await;
        let body = body
            .map_err(|error| Status::invalid_argument(format!("request not read: {error}")))?
            .to_bytes();
        let print = requests::fingerprint(path, body.get(FRAME_HEAD..).unwrap_or_default());
        let namespace = head.headers.get(NAMESPACE_KEY).map(|n| n.as_bytes().to_vec());
        let key = format!("{}/{id}", String::from_utf8_lossy(&namespace.unwrap_or_default()));
        loop {
            match self.flights.begin(&key, &print) {
                Flight::Other => return Err(from_fault(&Error::Reused(id))),
                Flight::Twin(mut answer) => {
                    // The twin gave up without an answer: it is this one's turn.
                    let Ok(answer) = answer.wait_for(Option::is_some).await else { continue };
                    let answer = answer.clone().expect("waited for");
                    return Ok(answer.response());
                }
                Flight::First(landing) => {
                    let ticket = self.ticket(&head.headers, &id, &print)?;
                    let request = Request::from_parts(head, Body::new(Full::new(body)));
                    // Goes on if the caller hangs up: a retry wants its answer.
                    let work = tokio::spawn(ticket.scope(async move {
                        let answer = Answer::whole(serve(inner, request).await).await?;
                        if answer.is_final() {
                            landing.land(answer.clone());
                        }
                        Ok::<_, Status>(answer)
                    }));
                    let answer =
                        work.await.map_err(|_| Status::internal("the call did not end"))??;
                    return Ok(answer.response());
                }
            }
        }
    }
}

async fn serve<S>(inner: S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    match inner.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// A service whose requests are done once.
#[derive(Clone, Debug)]
pub struct OnceService<S> {
    once: Once,
    inner: S,
}

impl<S: NamedService> NamedService for OnceService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for OnceService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let id = request.headers().get(REQUEST_ID_KEY);
        let Some(id) = id.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned()) else {
            return Box::pin(self.inner.call(request));
        };
        let (once, inner) = (self.once.clone(), self.inner.clone());
        Box::pin(async move { Ok(once.call(inner, request, id).await) })
    }
}
