//! What can go wrong in the runtime, and of which kind it is.

use std::io;

use serde::{Deserialize, Serialize};

use crate::sys::no;

/// Kind of an error: what a caller acts on. The names are those of Wharf's shared list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The spec or the request makes no sense.
    Invalid,
    /// What was named is not there (entrypoint, mount source, process).
    NotFound,
    /// The id or the cgroup is taken.
    AlreadyExists,
    /// Not in this state: process gone, container paused.
    Precondition,
    /// Not enough privilege.
    Denied,
    /// A limit or a full disk.
    Exhausted,
    /// It took too long.
    Deadline,
    /// A state file is not what it should be.
    Corrupt,
    /// This kernel, host or version can't do it.
    Unsupported,
    /// A fault of Wharf or of the host.
    Internal,
}

impl ErrorKind {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::AlreadyExists => Self::AlreadyExists,
            io::ErrorKind::OutOfMemory
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::WouldBlock => Self::Exhausted,
            io::ErrorKind::TimedOut => Self::Deadline,
            io::ErrorKind::Unsupported => Self::Unsupported,
            io::ErrorKind::InvalidInput => Self::Invalid,
            _ => match error.raw_os_error() {
                Some(no::ENOSYS) => Self::Unsupported,
                Some(no::ESRCH) => Self::Precondition,
                Some(no::EISDIR | no::ENOTDIR | no::ENOEXEC) => Self::Invalid,
                _ => Self::Internal,
            },
        }
    }
}

/// A step that failed, in this process or in the forked child: it travels between them whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {text}")]
pub struct Failure {
    /// What a caller acts on.
    pub kind: ErrorKind,
    /// Which action failed on which object.
    pub step: String,
    /// The kernel's number, or 0.
    pub errno: i32,
    /// The reason, for people.
    pub text: String,
    /// The shell's code for it: 127 entrypoint not found, 126 found but not executable, else 1.
    pub exit_code: i32,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, step: impl Into<String>, text: impl Into<String>) -> Self {
        Self { kind, step: step.into(), errno: 0, text: text.into(), exit_code: 1 }
    }

    pub(crate) fn with_exit_code(self, exit_code: i32) -> Self {
        Self { exit_code, ..self }
    }
}

/// The kernel's reason in the words that Go's programs, and those that read them, have for it.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    match (error.raw_os_error(), letters.next()) {
        (Some(_), Some(first)) => first.to_lowercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

/// Says what was being done when a call failed.
pub(crate) trait Step<T> {
    fn step<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T> Step<T> for io::Result<T> {
    fn step<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            kind: ErrorKind::of(&error),
            step: step().into(),
            errno: error.raw_os_error().unwrap_or(0),
            text: reason(&error),
            exit_code: 1,
        })
    }
}

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec can't be meant so.
    #[error("config.json: {field}: {reason}")]
    Spec {
        /// The field's path in the JSON.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel or this version can't do it.
    #[error("not supported: {what}")]
    Unsupported {
        /// What was asked.
        what: String,
    },
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Failure),
    /// The container's init ended before it was ready, without a word.
    #[error("the container's init was killed while it was set up ({how})")]
    InitDied {
        /// Exit code or signal.
        how: String,
    },
    /// The process a state names is not there any more.
    #[error("process {pid} of the container is gone")]
    Gone {
        /// Its pid.
        pid: i32,
    },
}

impl Error {
    /// What a caller acts on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec { .. } => ErrorKind::Invalid,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Step(failure) => failure.kind,
            Self::InitDied { .. } => ErrorKind::Exhausted,
            Self::Gone { .. } => ErrorKind::Precondition,
        }
    }

    /// The shell's code for a failed start: 127 entrypoint not found, 126 not executable, else 1.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Step(failure) => failure.exit_code,
            Self::Spec { .. }
            | Self::Unsupported { .. }
            | Self::InitDied { .. }
            | Self::Gone { .. } => 1,
        }
    }
}
