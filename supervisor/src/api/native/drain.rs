//! A supervisor that hands over: what becomes of the calls it serves at that moment.
//!
//! | call | becomes |
//! | --- | --- |
//! | short, with one answer | finished here |
//! | Wait, Stop | refused with REFUSED_STREAM, which says that it was not done: gRPC asks again by itself, and asking again does no harm |
//! | logs, events, progress | ended with UNAVAILABLE between two messages; they go on at a cursor |
//! | exec, attach | end themselves (`streams`), so that what was read of the process is delivered first |
//! | import, export | waited for, up to a limit, before anything else happens |

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use http_body::Frame;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Bytes, StdError, http},
};
use tower::{Layer, Service};

use crate::services::upgrade::{Drain, Lasting};

/// What is said to whoever is told to ask again.
const MESSAGE: &str = "the supervisor is being upgraded: go on with the next one";

/// Unary calls that wait, and may be asked again.
const REPEATED: &[&str] = &["/wharf.v1.Containers/Wait", "/wharf.v1.Containers/Stop"];
/// Streams of answers that can be taken up elsewhere.
const CUT: &[&str] = &[
    "/wharf.v1.Containers/Logs",
    "/wharf.v1.Containers/Stats",
    "/wharf.v1.Events/Subscribe",
    "/wharf.v1.Images/Pull",
    "/wharf.v1.System/Upgrade",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// Calls whose middle nobody can go on from.
const LASTING: &[&str] = &["/wharf.v1.Images/Import", "/wharf.v1.Images/Export"];

/// The status of a stream that ends because of a hand-over.
#[must_use]
pub(super) fn handing_over() -> Status {
    Status::unavailable(MESSAGE)
}

/// Puts [`DrainService`] around a service.
#[derive(Clone, Debug)]
pub struct DrainLayer(pub Drain);

impl<S> Layer<S> for DrainLayer {
    type Service = DrainService<S>;

    fn layer(&self, inner: S) -> DrainService<S> {
        DrainService { inner, drain: self.0.clone() }
    }
}

/// A service whose calls end when a hand-over begins; see the module.
#[derive(Clone, Debug)]
pub struct DrainService<S> {
    inner: S,
    drain: Drain,
}

/// A call that was not done. In a type of its own, as tonic makes an answer out of every error that
/// it knows, and only an error resets a stream.
#[derive(Debug, thiserror::Error)]
#[error("{MESSAGE}")]
struct NotDone(#[source] h2::Error);

impl<S> Service<http::Request<Body>> for DrainService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Send,
    S::Future: Send + 'static,
    S::Error: Into<StdError> + 'static,
{
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, StdError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let repeated = REPEATED.contains(&path);
        let cut = CUT.contains(&path);
        let lasting = LASTING.contains(&path).then(|| self.drain.lasting());
        let drain = self.drain.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            if repeated {
                tokio::pin!(answer);
                return tokio::select! {
                    biased;
                    answer = &mut answer => answer.map_err(Into::into),
                    () = drain.begun() => {
                        Err(NotDone(h2::Reason::REFUSED_STREAM.into()).into())
                    }
                };
            }
            let answer = answer.await.map_err(Into::into)?;
            if !cut && lasting.is_none() {
                return Ok(answer);
            }
            let begun: Pin<Box<dyn Future<Output = ()> + Send>> =
                if cut { Box::pin(drain.begun()) } else { Box::pin(std::future::pending()) };
            Ok(answer.map(|inner| {
                Body::new(CutBody { inner, begun: Some(begun), over: false, _lasting: lasting })
            }))
        })
    }
}

/// A body that ends when a hand-over begins.
struct CutBody {
    inner: Body,
    /// None once it has.
    begun: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    over: bool,
    _lasting: Option<Lasting>,
}

impl fmt::Debug for CutBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CutBody").finish_non_exhaustive()
    }
}

impl http_body::Body for CutBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let begun = match &mut self.begun {
            Some(begun) => begun.as_mut().poll(cx).is_ready(),
            None => true,
        };
        if begun {
            self.over = true;
            let mut trailers = http::HeaderMap::new();
            handing_over().add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }
}
