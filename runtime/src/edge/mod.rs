//! The command line, as runc has it. Translates words to calls of the library and results to text
//! and exit codes; decides nothing about containers.

mod args;
mod checkpoint;
mod commands;
mod console;
mod container;
mod create;
mod events;
mod exec;
mod flags;
mod log;
mod report;
mod restore;
mod run;
mod signals;
mod stats;
mod store;
mod update;

pub use commands::command_line;
pub(crate) use store::tell_command;

use crate::error::{Error, ErrorKind, Failure};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The words make no sense.
    #[error("{0}")]
    Usage(String),
    /// The library's.
    #[error(transparent)]
    Runtime(#[from] Error),
    /// No state under that id. The words are those that callers of runc know.
    #[error("container does not exist: {id:?}")]
    NoContainer { id: String },
    /// Its state forbids it.
    #[error("{text}")]
    State { text: String },
    /// A file that was named or that is ours.
    #[error("{action} {path}: {}", crate::error::reason(source))]
    File { action: &'static str, path: String, source: std::io::Error },
    /// A file that is not what it should be.
    #[error("{path}: {text}")]
    Content { path: String, text: String },
    /// An exec that did not get to its program.
    #[error("exec failed: {0}")]
    Exec(Error),
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self::Runtime(failure.into())
    }
}

impl CommandError {
    /// Whether the user's program is what failed, not the runtime.
    pub(crate) fn of_program(&self) -> bool {
        match self {
            Self::Runtime(error) => error.exit_code() != 1,
            Self::Exec(error) => error.exit_code() != 1,
            _ => false,
        }
    }

    /// The process' exit code.
    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::Exec(_) => 255,
            Self::Usage(_)
            | Self::Runtime(_)
            | Self::NoContainer { .. }
            | Self::State { .. }
            | Self::File { .. }
            | Self::Content { .. } => 1,
        }
    }

    /// For people: what kind of thing to mend.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage(_) | Self::Content { .. } => ErrorKind::Invalid,
            Self::Runtime(error) | Self::Exec(error) => error.kind(),
            Self::NoContainer { .. } => ErrorKind::NotFound,
            Self::State { .. } => ErrorKind::Precondition,
            Self::File { .. } => ErrorKind::Internal,
        }
    }
}
