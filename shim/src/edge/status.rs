//! Errors as the wire carries them: google.rpc.Status, with details for who acts on them.

use std::path::PathBuf;

use wharf_proto::google::rpc::Status;
use wharf_proto::kind::Kind;
use wharf_proto::shim::ExitRecord;
use wharf_proto::ttrpc::FrameError;

use crate::flow::Error;
use crate::logic::exit::Exit;
use crate::logic::ids::IdError;
use crate::sys::journal::chain;

/// Type URL of the detail that says how a process ended that could not be started.
const EXIT_RECORD: &str = "wharf.shim.v1.ExitRecord";

/// A request that the edge itself refuses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EdgeError {
    #[error("service {0} is not served here")]
    Service(String),
    #[error("method {0} is not served here")]
    Method(String),
    #[error("message is not valid")]
    Message(#[from] prost::DecodeError),
    #[error("stream {stream} is not above {last}, or even")]
    Stream { stream: u32, last: u32 },
    #[error("more than {0} calls wait on this connection")]
    TooManyCalls(usize),
    #[error("a container is not made from a checkpoint of several parts here")]
    FromParts,
    #[error("checkpoint's folder {0:?} is not an absolute path")]
    Image(PathBuf),
    #[error("streams are not served here")]
    Streaming,
    #[error("binary {0:?} is not an absolute path")]
    Binary(String),
    #[error("bundle {0:?} is not an absolute path")]
    Bundle(String),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Flow(#[from] Error),
}

impl From<IdError> for EdgeError {
    fn from(error: IdError) -> Self {
        Self::Flow(error.into())
    }
}

impl EdgeError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Service(_) | Self::Method(_) | Self::Streaming | Self::FromParts => {
                Kind::Unsupported
            }
            Self::Message(_)
            | Self::Image(_)
            | Self::Stream { .. }
            | Self::Bundle(_)
            | Self::Binary(_) => Kind::Invalid,
            Self::TooManyCalls(_) | Self::Frame(FrameError::TooLong { .. }) => Kind::Exhausted,
            Self::Frame(FrameError::UnknownType(_)) => Kind::Invalid,
            Self::Flow(error) => error.kind(),
        }
    }
}

/// "what was asked: what is wrong".
pub(crate) fn status(asked: &str, error: &EdgeError) -> Status {
    let exit = match error {
        EdgeError::Flow(error) => error.exit(),
        _ => None,
    };
    let details = exit
        .map(|exit| prost_types::Any {
            type_url: EXIT_RECORD.to_owned(),
            value: prost::Message::encode_to_vec(&exit_record(&exit)),
        })
        .into_iter()
        .collect();
    let text = chain(error);
    let message = if asked.is_empty() { text } else { format!("{asked}: {text}") };
    Status { code: error.kind().code(), message, details }
}

pub(crate) fn exit_record(exit: &Exit) -> ExitRecord {
    ExitRecord {
        pid: exit.pid,
        exit_code: exit.exit_code,
        signal: exit.signal,
        oom_killed: exit.oom_killed,
        exited_at_unix_ns: exit.exited_at_unix_ns,
        unknown: exit.unknown,
    }
}

pub(crate) fn timestamp(unix_ns: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: unix_ns.div_euclid(1_000_000_000),
        nanos: i32::try_from(unix_ns.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}
