//! The connection: a channel that connects when it is first used and again when it broke, the
//! namespace of its calls, their deadlines.

use std::{
    fs::File,
    future::Future,
    io::{self, Read as _},
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::{
    Request, Response, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};
use wharf_proto::v1::{
    NAMESPACE_KEY, REQUEST_ID_KEY, containers_client::ContainersClient,
    events_client::EventsClient, files_client::FilesClient, images_client::ImagesClient,
    registries_client::RegistriesClient, system_client::SystemClient,
    volumes_client::VolumesClient,
};

use crate::{
    address::Address,
    backoff::Backoff,
    error::{ConnectFailure, Error},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Lists of many containers are larger than tonic's 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// Windows of HTTP/2: what may be under way unread. Its default of 64 KiB halves the rate of output.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A supervisor's client. Cheap to clone; all clones share one connection.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    channel: Channel,
    namespace: Namespace,
    patience: Duration,
}

/// What mutual TLS needs, each in PEM. Whoever reaches a supervisor is root on its host, so over TCP
/// both sides prove who they are.
#[derive(Clone)]
pub struct Tls {
    /// Of the authority that signed the supervisor's certificate.
    pub ca: Vec<u8>,
    /// Ours, signed by an authority that the supervisor knows.
    pub cert: Vec<u8>,
    /// Of our certificate.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys are not for logs.
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A client for the supervisor at `address` (`unix:PATH`).
///
/// Does not connect yet, and needs to be called inside a tokio runtime: a supervisor that is not
/// there shows as [`Error::Connect`] of the first call.
///
/// # Errors
/// [`Error::Address`] when the address can't be read, or is TCP: see [`connect_tls`].
pub fn connect(address: &str) -> Result<Client, Error> {
    match address.parse()? {
        Address::Tcp(_) => Err(Error::Address {
            given: address.to_owned(),
            reason: "TCP needs TLS with a certificate of ours",
        }),
        unix => connect_to(unix, None),
    }
}

/// As [`connect`], and `tcp:HOST:PORT` with mutual TLS. A unix socket has no use for it.
///
/// # Errors
/// As [`connect`]; [`Error::Tls`] when certificates or key can't be read.
pub fn connect_tls(address: &str, tls: Tls) -> Result<Client, Error> {
    connect_to(address.parse()?, Some(tls))
}

fn connect_to(address: Address, tls: Option<Tls>) -> Result<Client, Error> {
    let channel = match &address {
        Address::Unix(path) => {
            let path = path.clone();
            // Only names the peer in HTTP/2's :authority; where to go is the connector's business.
            let endpoint = with_limits(Endpoint::from_static("http://wharf"));
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { connected(UnixStream::connect(path).await) }
            }))
        }
        Address::Tcp(host) => {
            let endpoint = tcp_endpoint(host, tls)?;
            let host = host.clone();
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let host = host.clone();
                async move {
                    let stream = TcpStream::connect(host).await;
                    connected(stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream)))
                }
            }))
        }
    };
    Ok(Client { address, channel, namespace: Namespace(None), patience: Duration::from_secs(30) })
}

fn with_limits(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

fn tcp_endpoint(host: &str, tls: Option<Tls>) -> Result<Endpoint, Error> {
    let refuse = |source| Error::Tls { source };
    let endpoint = Endpoint::from_shared(format!("https://{host}")).map_err(refuse)?;
    // A peer that lost power sends no end; over a unix socket the kernel does.
    let endpoint = with_limits(endpoint)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let Some(tls) = tls else { return Ok(endpoint) };
    let config = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(tls.ca))
        .identity(Identity::from_pem(tls.cert, tls.key));
    endpoint.tls_config(config).map_err(refuse)
}

fn connected<S>(stream: io::Result<S>) -> Result<TokioIo<S>, ConnectFailure> {
    stream.map(TokioIo::new).map_err(ConnectFailure::from)
}

/// Puts the namespace into each call's metadata.
#[derive(Clone, Debug)]
pub struct Namespace(Option<AsciiMetadataValue>);

impl Interceptor for Namespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(name) = &self.0 {
            request.metadata_mut().insert(NAMESPACE_KEY, name.clone());
        }
        Ok(request)
    }
}

/// What the generated clients send through.
pub type Service = InterceptedService<Channel, Namespace>;

impl Client {
    /// The same connection in another namespace.
    ///
    /// # Errors
    /// [`Error::Namespace`] when it can't be a namespace's name.
    pub fn with_namespace(mut self, name: &str) -> Result<Self, Error> {
        let refuse = || Error::Namespace { given: name.to_owned() };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(refuse());
        }
        self.namespace = Namespace(Some(name.parse().map_err(|_| refuse())?));
        Ok(self)
    }

    /// How long a stream or a wait keeps trying to reach a supervisor that went away; 30 s unless
    /// set. Zero: the first break ends it.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Where this client's supervisor listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The generated client, for what this library has no call of its own for.
    #[must_use]
    pub fn containers(&self) -> ContainersClient<Service> {
        ContainersClient::new(self.service()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// As [`Self::containers`].
    #[must_use]
    pub fn images(&self) -> ImagesClient<Service> {
        ImagesClient::new(self.service()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// As [`Self::containers`].
    #[must_use]
    pub fn registries(&self) -> RegistriesClient<Service> {
        RegistriesClient::new(self.service()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// As [`Self::containers`].
    #[must_use]
    pub fn journal(&self) -> EventsClient<Service> {
        EventsClient::new(self.service())
    }

    /// As [`Self::containers`].
    #[must_use]
    pub fn system(&self) -> SystemClient<Service> {
        SystemClient::new(self.service()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// As [`Self::containers`].
    #[must_use]
    pub fn volumes(&self) -> VolumesClient<Service> {
        VolumesClient::new(self.service()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// As [`Self::containers`].
    #[must_use]
    pub fn files(&self) -> FilesClient<Service> {
        FilesClient::new(self.service()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.namespace.clone())
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.patience)
    }

    pub(crate) fn error(&self, call: &'static str, status: Status) -> Error {
        Error::from_status(call, &self.address, status)
    }

    /// A call that changes nothing, and is asked again when the connection breaks under it.
    pub(crate) async fn ask<T, F>(
        &self,
        call: &'static str,
        deadline: Duration,
        send: impl Fn() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = self.backoff();
        let mut reached = false;
        loop {
            let asked_at = std::time::Instant::now();
            let error = match self.unary(call, deadline, send()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // A supervisor that is not there at the first try is not one that restarts.
            reached |= !matches!(error, Error::Connect { .. });
            if !reached {
                return Err(error);
            }
            backoff.opened(asked_at);
            backoff.retry(error).await?;
        }
    }

    /// A call that changes something, under a request id of its own: when the connection breaks it is
    /// sent again, and done once all the same.
    pub(crate) fn mutate<'a, Q, T, F>(
        &'a self,
        call: &'static str,
        deadline: Duration,
        request: Q,
        send: impl Fn(Request<Q>) -> F + Send + 'a,
    ) -> Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>
    where
        Q: Clone + Send + 'a,
        T: Send + 'a,
        F: Future<Output = Result<Response<T>, Status>> + Send + 'a,
    {
        let id = request_id();
        let mut backoff = self.backoff();
        let mut reached = false;
        Box::pin(async move {
            loop {
                let mut request = Request::new(request.clone());
                request.metadata_mut().insert(REQUEST_ID_KEY, id.clone());
                let asked_at = Instant::now();
                let error = match self.unary(call, deadline, send(request)).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                // A supervisor that is not there at the first try is not one that restarts.
                reached |= !matches!(error, Error::Connect { .. });
                if !reached {
                    return Err(error);
                }
                backoff.opened(asked_at);
                backoff.retry(error).await?;
            }
        })
    }

    /// One call with one answer, within the deadline.
    pub(crate) async fn unary<T>(
        &self,
        call: &'static str,
        deadline: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(call, status)),
            Err(_) => Err(Error::Deadline { call, after: deadline }),
        }
    }
}

/// A name for a request that no other has.
pub(crate) fn request_id() -> AsciiMetadataValue {
    let mut random = [0_u8; 16];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
    let id = match read {
        Ok(()) => u128::from_be_bytes(random),
        // Nothing secret: it has to be new, and the time, the process and the count are.
        Err(_) => {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            now.as_nanos() << 64 | u128::from(std::process::id()) << 32 | u128::from(count)
        }
    };
    format!("{id:032x}").parse().expect("hexadecimal digits are ASCII")
}

#[cfg(test)]
mod tests {
    use wharf_proto::kind::Kind;

    use super::*;

    #[tokio::test]
    async fn nobody_listens() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("none.sock");
        let client = connect(&format!("unix:{}", path.display())).expect("an address");
        let error = client.version().await.expect_err("nobody is there");
        assert_eq!(error.kind(), Kind::Unavailable);
        let Error::Connect { source, .. } = error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn namespaces_are_checked() {
        let client = connect("/run/x").expect("an address");
        assert!(client.clone().with_namespace("k8s.io").is_ok());
        assert!(client.clone().with_namespace("").is_err());
        assert!(client.with_namespace("a b").is_err());
    }
}
