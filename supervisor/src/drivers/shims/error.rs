//! What can go wrong between the supervisor and a shim.

use std::{io, path::PathBuf, time::Duration};

use prost::Message as _;
use wharf_proto::{kind::Kind, shim::ExitRecord};

use super::ttrpc::RpcError;
use crate::fault::{Fault, io_kind};

/// An error of a shim or of the way to it.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The bundle can't be written.
    #[error("{step} {}", path.display())]
    Bundle {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program can't be started.
    #[error("start the shim {}", program.display())]
    Spawn {
        /// Which.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It ended with no address.
    #[error("the shim did not start ({status}): {stderr}")]
    NoAddress {
        /// How it ended.
        status: String,
        /// What it said last.
        stderr: String,
    },
    /// It does not answer.
    #[error("the shim did not answer within {} ms", limit.as_millis())]
    Silent {
        /// How long it had.
        limit: Duration,
    },
    /// The container's program can't be executed.
    #[error("{message}")]
    NotExecuted {
        /// What the runtime said.
        message: String,
        /// 127: not found, 126: not executable.
        exit_code: u32,
    },
    /// The shim's process can't be watched.
    #[error("watch the shim's process")]
    Watch(#[source] io::Error),
    /// A named pipe of a foreign shim.
    #[error("named pipe {}", path.display())]
    Pipe {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A foreign shim does not do that.
    #[error("the container's runtime can't {0}")]
    NotForeign(&'static str),
    /// Figures in a form that is not known.
    #[error("the shim tells figures as {0:?}, which is not known")]
    Figures(String),
    /// A call has no answer, or a bad one.
    #[error(transparent)]
    Rpc(RpcError),
}

impl From<RpcError> for ShimError {
    fn from(error: RpcError) -> Self {
        if let RpcError::Refused { status, .. } = &error {
            // The shim attaches how the process "ended" when it could not be executed at all.
            let record = status
                .details
                .iter()
                .find(|any| any.type_url.ends_with("wharf.shim.v1.ExitRecord"))
                .and_then(|any| ExitRecord::decode(any.value.as_slice()).ok());
            if let Some(record) = record {
                return Self::NotExecuted {
                    message: status.message.clone(),
                    exit_code: record.exit_code,
                };
            }
        }
        Self::Rpc(error)
    }
}

impl ShimError {
    /// Whether the way to the shim is gone, whatever became of the call.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Rpc(RpcError::Closed { .. } | RpcError::Connect { .. }))
    }
}

impl Fault for ShimError {
    fn kind(&self) -> Kind {
        match self {
            Self::Bundle { source, .. } | Self::Spawn { source, .. } => io_kind(source),
            Self::NoAddress { .. } => Kind::Internal,
            Self::Figures(_) | Self::NotForeign(_) => Kind::Unsupported,
            Self::Pipe { source, .. } => io_kind(source),
            Self::Watch(source) => io_kind(source),
            Self::Silent { .. } => Kind::Deadline,
            Self::NotExecuted { .. } => Kind::Precondition,
            Self::Rpc(error) => error.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Bundle { .. } => "BUNDLE",
            Self::Spawn { .. } | Self::NoAddress { .. } => "SHIM_NOT_STARTED",
            Self::Silent { .. } => "SHIM_SILENT",
            Self::NotExecuted { exit_code: 126, .. } => "ENTRYPOINT_NOT_EXECUTABLE",
            Self::NotExecuted { .. } => "ENTRYPOINT_NOT_FOUND",
            Self::Rpc(_)
            | Self::Figures(_)
            | Self::Watch(_)
            | Self::Pipe { .. }
            | Self::NotForeign(_) => "SHIM",
        }
    }
}
