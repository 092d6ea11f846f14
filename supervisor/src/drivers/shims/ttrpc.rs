//! A ttrpc client: one connection, many calls at once.
//!
//! One task owns the socket. A call sends its frame there and waits for the answer with its stream's
//! number; when the connection ends, every open call is answered with [`RpcError::Closed`]. Dropping
//! the future of a call forgets its answer; the peer finishes it all the same.

use std::{collections::HashMap, path::Path, time::Duration};

use prost::Message;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixStream, unix::OwnedReadHalf},
    sync::{mpsc, oneshot},
};
use wharf_proto::{
    google::rpc::Status,
    kind::Kind,
    ttrpc::{FrameError, FrameType, HEADER_LEN, Header, Request, Response, frame},
};

/// Calls waiting to be sent on one connection.
const QUEUE_LEN: usize = 64;

/// Why a call has no answer, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The socket does not accept.
    #[error("connect to the shim at {path}")]
    Connect {
        /// Of the socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection ended first.
    #[error("the shim closed the connection during {method}")]
    Closed {
        /// What was called.
        method: &'static str,
    },
    /// It took too long.
    #[error("the shim did not answer {method} within {} ms", limit.as_millis())]
    Deadline {
        /// What was called.
        method: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The request is larger than a frame.
    #[error("request of {method}")]
    Frame {
        /// What was called.
        method: &'static str,
        /// Why.
        source: FrameError,
    },
    /// The answer is not a message of its type.
    #[error("answer to {method}")]
    Decode {
        /// What was called.
        method: &'static str,
        /// Why.
        source: prost::DecodeError,
    },
    /// The shim said no.
    #[error("{}", status.message)]
    Refused {
        /// What was called.
        method: &'static str,
        /// What it said.
        status: Status,
    },
}

impl RpcError {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. } | Self::Closed { .. } => Kind::Unavailable,
            Self::Deadline { .. } => Kind::Deadline,
            Self::Frame { .. } => Kind::Invalid,
            Self::Decode { .. } => Kind::Internal,
            Self::Refused { status, .. } => Kind::from_code(status.code),
        }
    }
}

struct Call {
    request: Request,
    method: &'static str,
    answer: oneshot::Sender<Result<Vec<u8>, RpcError>>,
}

/// A connection; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Boxed: a channel has room for many, and nearly always holds none.
    calls: mpsc::Sender<Box<Call>>,
}

impl Client {
    /// Connects to a unix socket.
    ///
    /// # Errors
    /// [`RpcError::Connect`].
    pub(super) async fn connect(path: &Path) -> Result<Self, RpcError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|source| RpcError::Connect { path: path.display().to_string(), source })?;
        let (calls, queue) = mpsc::channel(QUEUE_LEN);
        // Ends when the last client is dropped or the peer closes.
        tokio::spawn(run(stream, queue));
        Ok(Self { calls })
    }

    /// Calls a method. `limit` of `None` waits for as long as the connection lives.
    ///
    /// # Errors
    /// [`RpcError`].
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &self,
        service: &'static str,
        method: &'static str,
        request: &Q,
        limit: Option<Duration>,
    ) -> Result<A, RpcError> {
        let timeout_nano = limit.map_or(0, |l| i64::try_from(l.as_nanos()).unwrap_or(i64::MAX));
        let request = Request {
            service: service.into(),
            method: method.into(),
            payload: request.encode_to_vec(),
            timeout_nano,
            metadata: Vec::new(),
        };
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            self.calls
                .send(Box::new(Call { request, method, answer }))
                .await
                .map_err(|_| RpcError::Closed { method })?;
            answered.await.map_err(|_| RpcError::Closed { method })?
        };
        let payload = match limit {
            None => exchange.await?,
            Some(limit) => tokio::time::timeout(limit, exchange)
                .await
                .map_err(|_| RpcError::Deadline { method, limit })??,
        };
        A::decode(payload.as_slice()).map_err(|source| RpcError::Decode { method, source })
    }
}

type Pending = HashMap<u32, (&'static str, oneshot::Sender<Result<Vec<u8>, RpcError>>)>;

async fn run(stream: UnixStream, mut queue: mpsc::Receiver<Box<Call>>) {
    let (read, mut write) = stream.into_split();
    let (frames, mut answers) = mpsc::channel(QUEUE_LEN);
    let reader = tokio::spawn(read_frames(BufReader::with_capacity(1024, read), frames));
    let mut pending = Pending::new();
    let mut next_stream: u32 = 1;
    loop {
        tokio::select! {
            call = queue.recv() => {
                let Some(call) = call else { break };
                let Call { request, method, answer } = *call;
                let stream = next_stream;
                next_stream = next_stream.wrapping_add(2);
                pending.retain(|_, (_, waiting)| !waiting.is_closed());
                match frame(FrameType::Request, stream, &request) {
                    Err(source) => {
                        let _ = answer.send(Err(RpcError::Frame { method, source }));
                    }
                    Ok(bytes) => {
                        pending.insert(stream, (method, answer));
                        if write.write_all(&bytes).await.is_err() {
                            break;
                        }
                    }
                }
            }
            answer = answers.recv() => {
                let Some((header, data)) = answer else { break };
                deliver(&mut pending, header, &data);
            }
        }
    }
    reader.abort();
    for (_, (method, answer)) in pending {
        let _ = answer.send(Err(RpcError::Closed { method }));
    }
}

fn deliver(pending: &mut Pending, header: Header, data: &[u8]) {
    // An answer to a call that nobody waits for any more is no error.
    let Some((method, answer)) = pending.remove(&header.stream) else { return };
    let result = match Response::decode(data) {
        Err(source) => Err(RpcError::Decode { method, source }),
        Ok(Response { status: Some(status), .. }) if status.code != 0 => {
            Err(RpcError::Refused { method, status })
        }
        Ok(response) => Ok(response.payload),
    };
    let _ = answer.send(result);
}

/// Reads whole frames until the connection ends. A task of its own, since a read that is half done
/// must not be dropped by a `select!`.
async fn read_frames(mut read: BufReader<OwnedReadHalf>, frames: mpsc::Sender<(Header, Vec<u8>)>) {
    let mut head = [0; HEADER_LEN];
    while read.read_exact(&mut head).await.is_ok() {
        let header = match Header::decode(head) {
            Ok(header) => header,
            Err(error) => {
                tracing::warn!(%error, "the shim sent no frame, its connection is closed");
                return;
            }
        };
        let mut data = vec![0; header.len];
        if read.read_exact(&mut data).await.is_err() || frames.send((header, data)).await.is_err() {
            return;
        }
    }
}
