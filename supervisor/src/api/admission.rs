//! Who is let in: calls are bounded in number and in time, so that overload shows as an error of
//! the calls that are too many and never as growth.
//!
//! | bound | beyond it |
//! | --- | --- |
//! | calls with one answer at once, of all connections | RESOURCE_EXHAUSTED |
//! | streams at once, and calls that wait for a container | RESOURCE_EXHAUSTED |
//! | the caller's deadline (grpc-timeout), the server's own for calls with one answer | DEADLINE_EXCEEDED |
//! | streams of one connection | HTTP/2 makes the client wait |
//!
//! A call whose deadline has passed is dropped here; what its container's task has begun for it is
//! finished all the same.

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{
    Status,
    body::Body,
    codegen::{Bytes, http},
};
use tower::{Layer, Service};
use wharf_proto::{kind::Kind, v1};

use super::native::status::from_fault;
use crate::fault::Fault;

/// Calls with one answer that wait for a container, or read all there is, for as long as the caller
/// wants.
const WAITING: &[&str] = &["Wait", "Stop", "Restart", "Doctor"];

/// How much is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Calls with one answer at once.
    pub calls: usize,
    /// Streams, and calls that wait, at once.
    pub streams: usize,
    /// For a call with one answer.
    pub deadline: Duration,
}

/// Puts [`Admitted`] around a service; clones share the bounds.
#[derive(Clone, Debug)]
pub struct Admission(Arc<Gate>);

#[derive(Debug)]
struct Gate {
    bounds: Bounds,
    calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// Paths of calls that are not over with one answer soon.
    lasting: HashSet<String>,
}

/// Why a call is not let in, or not waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("{most} {what} are in work, which is all that this server takes at once: try again")]
    TooMany { what: &'static str, most: usize },
    #[error("no answer within the {} ms that {whose}", limit.as_millis())]
    Late { limit: Duration, whose: &'static str },
}

impl Fault for Refused {
    fn kind(&self) -> Kind {
        match self {
            Self::TooMany { .. } => Kind::Exhausted,
            Self::Late { .. } => Kind::Deadline,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "OVERLOADED",
            Self::Late { .. } => "DEADLINE",
        }
    }
}

impl Admission {
    /// With these bounds.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Gate {
            bounds,
            calls: Arc::new(Semaphore::new(bounds.calls)),
            streams: Arc::new(Semaphore::new(bounds.streams)),
            lasting: lasting(),
        }))
    }
}

/// From the API's own description.
fn lasting() -> HashSet<String> {
    let files = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET)
        .expect("the build made the description");
    let mut paths = HashSet::new();
    for file in files.file {
        for service in &file.service {
            for method in &service.method {
                let streams = method.client_streaming() || method.server_streaming();
                if streams || WAITING.contains(&method.name()) {
                    paths.insert(format!(
                        "/{}.{}/{}",
                        file.package(),
                        service.name(),
                        method.name()
                    ));
                }
            }
        }
    }
    paths
}

impl Gate {
    fn admit(&self, path: &str) -> Result<(OwnedSemaphorePermit, Option<Duration>), Refused> {
        let (semaphore, what, most, limit) = if self.lasting.contains(path) {
            (&self.streams, "streams", self.bounds.streams, None)
        } else {
            (&self.calls, "calls", self.bounds.calls, Some(self.bounds.deadline))
        };
        let permit = Arc::clone(semaphore).try_acquire_owned();
        Ok((permit.map_err(|_| Refused::TooMany { what, most })?, limit))
    }
}

/// The caller's deadline (gRPC over HTTP/2, "Timeout").
fn asked<B>(request: &http::Request<B>) -> Option<Duration> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

impl<S> Layer<S> for Admission {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { inner, gate: Arc::clone(&self.0) }
    }
}

/// A service that is asked only for calls that are let in.
#[derive(Clone, Debug)]
pub struct Admitted<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S, R> Service<http::Request<Body>> for Admitted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<tonic::codegen::StdError>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (permit, own) = match self.gate.admit(request.uri().path()) {
            Ok(admitted) => admitted,
            Err(refused) => return Box::pin(async move { Ok(answer(&refused)) }),
        };
        let asked = asked(&request);
        // The one that was polled ready is the one that is called.
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let called = ready.call(request);
            let (limit, whose) = match (asked, own) {
                (Some(asked), Some(own)) if own < asked => (Some(own), "the server gives a call"),
                (None, Some(own)) => (Some(own), "the server gives a call"),
                (asked, _) => (asked, "the caller gave"),
            };
            let response = match limit {
                None => called.await?,
                Some(limit) => match tokio::time::timeout(limit, called).await {
                    Ok(response) => response?,
                    Err(_) => return Ok(answer(&Refused::Late { limit, whose })),
                },
            };
            Ok(response.map(|body| Body::new(Held { body: Body::new(body), _permit: permit })))
        })
    }
}

fn answer(refused: &Refused) -> http::Response<Body> {
    let status: Status = from_fault(refused);
    status.into_http()
}

/// An answer that counts as in work until the last of it is sent.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use tonic::{Code, Status, body::Body, codegen::http};
    use tower::{Layer as _, Service as _};

    use super::{Admission, Bounds, asked, lasting};

    fn bounds() -> Bounds {
        Bounds { calls: 1, streams: 1, deadline: Duration::from_secs(5) }
    }

    fn request(path: &str, timeout: &str) -> http::Request<Body> {
        http::Request::builder()
            .uri(path)
            .header("grpc-timeout", timeout)
            .body(Body::empty())
            .expect("a request")
    }

    fn code(response: &http::Response<Body>) -> Option<Code> {
        Status::from_header_map(response.headers()).map(|status| status.code())
    }

    #[test]
    fn timeouts_as_grpc_writes_them() {
        let of = |text: &str| asked(&request("/", text));
        assert_eq!(of("5S"), Some(Duration::from_secs(5)));
        assert_eq!(of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "5x", "-5S", "123456789S", "5é"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_lasts_is_known_by_the_description() {
        let lasting = lasting();
        for path in ["Containers/Exec", "Containers/Wait", "Containers/Stats", "Images/Pull"] {
            assert!(lasting.contains(&format!("/wharf.v1.{path}")), "{path}");
        }
        assert!(!lasting.contains("/wharf.v1.Containers/List"));
    }

    #[tokio::test]
    async fn too_many_and_too_late() {
        let never = tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, Infallible>>()
        });
        let bounds = Bounds { deadline: Duration::from_millis(100), ..bounds() };
        let mut service = Admission::new(bounds).layer(never);
        let first = service.call(request("/wharf.v1.Containers/List", "1H"));
        let second = service.call(request("/wharf.v1.Containers/List", "1S")).await;
        assert_eq!(code(&second.expect("infallible")), Some(Code::ResourceExhausted));
        // Streams have a bound of their own.
        let stream = service.call(request("/wharf.v1.Containers/Exec", "50m"));
        assert_eq!(code(&first.await.expect("infallible")), Some(Code::DeadlineExceeded));
        assert_eq!(code(&stream.await.expect("infallible")), Some(Code::DeadlineExceeded));
        // There is room again, and the caller's own deadline may be the shorter one.
        let third = service.call(request("/wharf.v1.Containers/List", "50m")).await;
        assert_eq!(code(&third.expect("infallible")), Some(Code::DeadlineExceeded));
    }

    #[tokio::test]
    async fn an_answer_counts_until_it_is_read() {
        /// An answer that has more to say.
        struct Unread;
        impl super::HttpBody for Unread {
            type Data = super::Bytes;
            type Error = Status;
            fn poll_frame(
                self: super::Pin<&mut Self>,
                _: &mut super::Context<'_>,
            ) -> super::Poll<Option<Result<super::Frame<super::Bytes>, Status>>> {
                super::Poll::Pending
            }
        }
        let quick = tower::service_fn(|_: http::Request<Body>| async {
            Ok::<_, Infallible>(http::Response::new(Body::new(Unread)))
        });
        let mut service = Admission::new(bounds()).layer(quick);
        let path = "/wharf.v1.Containers/Logs";
        let first = service.call(request(path, "1S")).await.expect("infallible");
        let second = service.call(request(path, "1S")).await.expect("infallible");
        assert_eq!(code(&second), Some(Code::ResourceExhausted));
        drop(first);
        let third = service.call(request(path, "1S")).await.expect("infallible");
        assert_eq!(code(&third), None);
    }
}
