//! What can go wrong with a request, and of which kind it is.

use std::path::PathBuf;

use wharf_proto::kind::Kind;
use wharf_runtime::ErrorKind;

use crate::logic::exit::Exit;
use crate::logic::ids::IdError;
use crate::logic::output::OutsideError;
use crate::logic::process::Refusal;
use crate::sys::SysError;

/// A request that was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no task {0} in this shim")]
    NoTask(String),
    #[error("no exec {0}")]
    NoExec(String),
    #[error("task {0} exists in this shim, which serves one")]
    TaskExists(String),
    #[error("exec {0} exists")]
    ExecExists(String),
    #[error("deleted while it was waited for")]
    Deleted,
    #[error("a container that is {0} is not handed over")]
    NotHandedOver(&'static str),
    #[error("the record of the task is of a version that keeps nothing for another shim")]
    NothingKept,
    #[error(transparent)]
    Kept(#[from] super::KeptError),
    #[error("OCI runtime {} is not there", .0.display())]
    NoRuntime(PathBuf),
    #[error("{} {verb}: {text}", binary.display())]
    Foreign { binary: PathBuf, verb: &'static str, text: String },
    /// As [`Error::Start`], by another runtime.
    #[error("start process")]
    NotStarted { exit: Exit, source: Box<Error> },
    #[error("stdin is closed")]
    StdinClosed,
    #[error("{queued} bytes of stdin wait to be read by the process, at most {limit} may")]
    StdinFull { queued: usize, limit: usize },
    #[error("output is not held in the shim")]
    NotHeld,
    #[error("process has no terminal")]
    NoTerminal,
    #[error("more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("stdio {0:?} is none of: empty, a path, fifo://, file://, binary:// for stdout")]
    Stdio(String),
    #[error("signal {0} does not exist")]
    Signal(u32),
    #[error("window of {columns} by {rows} is too large")]
    Window { columns: u32, rows: u32 },
    #[error("read {path}")]
    Spec { path: PathBuf, source: wharf_runtime::Error },
    #[error("{what} is not valid JSON")]
    Json { what: &'static str, source: serde_json::Error },
    #[error("{step}")]
    Runtime { step: &'static str, source: wharf_runtime::Error },
    /// The entrypoint could not be started: there is an exit record all the same.
    #[error("start process")]
    Start { exit: Exit, source: wharf_runtime::Error },
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Outside(#[from] OutsideError),
    #[error(transparent)]
    Sys(#[from] SysError),
}

impl Error {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::NoTask(_) | Self::NoExec(_) | Self::Deleted => Kind::NotFound,
            Self::TaskExists(_) | Self::ExecExists(_) => Kind::AlreadyExists,
            Self::StdinClosed | Self::NotHeld | Self::NoTerminal | Self::NotHandedOver(_) => {
                Kind::Precondition
            }
            Self::NoRuntime(_) | Self::NotStarted { .. } => Kind::Precondition,
            Self::Foreign { .. } => Kind::Internal,
            Self::NothingKept | Self::Kept(_) => Kind::Corrupt,
            Self::StdinFull { .. } | Self::TooMany { .. } => Kind::Exhausted,
            Self::Stdio(_)
            | Self::Signal(_)
            | Self::Window { .. }
            | Self::Spec { .. }
            | Self::Json { .. } => Kind::Invalid,
            Self::Runtime { source, .. } => runtime_kind(source.kind()),
            Self::Start { source, .. } => runtime_kind(source.kind()),
            Self::Refused(refusal) => refusal.kind(),
            Self::Id(error) => error.kind(),
            Self::Outside(error) => error.kind(),
            Self::Sys(error) => error.kind(),
        }
    }

    /// How the process ended that could not be started.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self {
            Self::Start { exit, .. } | Self::NotStarted { exit, .. } => Some(*exit),
            _ => None,
        }
    }
}

fn runtime_kind(kind: ErrorKind) -> Kind {
    match kind {
        ErrorKind::Invalid => Kind::Invalid,
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists => Kind::AlreadyExists,
        ErrorKind::Precondition => Kind::Precondition,
        ErrorKind::Denied => Kind::Denied,
        ErrorKind::Exhausted => Kind::Exhausted,
        ErrorKind::Deadline => Kind::Deadline,
        ErrorKind::Corrupt => Kind::Corrupt,
        ErrorKind::Unsupported => Kind::Unsupported,
        ErrorKind::Internal => Kind::Internal,
    }
}
