//! What can go wrong with a container.

use std::{io, path::PathBuf};

use wharf_proto::kind::Kind;

use super::{process::NoCommand, user::UserError};
use crate::{
    drivers::{files, shims::ShimError, snapshots},
    fault::{Detail, Fault, io_kind},
    ids::{ContainerId, ContainerName, IdError},
    services::{images, volumes},
    store,
};

/// An error of a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container is called that.
    #[error("no container is called {0:?}: `wharf ps -a` lists them")]
    NotFound(String),
    /// More than one id begins like that.
    #[error("{0:?} is the beginning of more than one container id: give more of it")]
    Ambiguous(String),
    /// The name is taken.
    #[error("the name {name} is taken by container {}: remove or rename that one, or choose another name", by.short())]
    NameTaken {
        /// Which.
        name: ContainerName,
        /// By whom.
        by: ContainerId,
    },
    /// A field of the request makes no sense.
    #[error("{field}: {problem}")]
    Field {
        /// Its path.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Not in this state.
    #[error("can't {verb} container {name}: it is {state}{hint}")]
    State {
        /// What was asked.
        verb: &'static str,
        /// Of which.
        name: ContainerName,
        /// The state in the way.
        state: &'static str,
        /// What to do, if there is something.
        hint: &'static str,
    },
    /// Somebody changed it in between.
    #[error("container {name} has revision {found}, not {asked}: read it again")]
    Revision {
        /// Which.
        name: ContainerName,
        /// As asked.
        asked: u64,
        /// As it is.
        found: u64,
    },
    /// The user of a process.
    #[error("spec.user")]
    User(#[source] UserError),
    /// Nothing to run.
    #[error("spec.args")]
    Command(#[from] NoCommand),
    /// The image.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// Its volumes.
    #[error(transparent)]
    Volume(#[from] volumes::Error),
    /// Its root file system.
    #[error("root file system of container {name}")]
    Snapshot {
        /// Of which.
        name: ContainerName,
        /// Why.
        source: snapshots::Error,
    },
    /// Its files.
    #[error("files of container {name}")]
    Files {
        /// Of which.
        name: ContainerName,
        /// Why.
        source: files::Error,
    },
    /// Its process can't be executed.
    #[error("start container {name}")]
    Start {
        /// Which.
        name: ContainerName,
        /// Why.
        source: ShimError,
    },
    /// A process in it can't be executed.
    #[error("execute in container {name}")]
    Exec {
        /// In which.
        name: ContainerName,
        /// Why.
        source: ShimError,
    },
    /// Its shim.
    #[error("container {name}")]
    Shim {
        /// Which.
        name: ContainerName,
        /// Why.
        source: ShimError,
    },
    /// Its log or another file of it.
    #[error("{step} {}", path.display())]
    File {
        /// What was done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A cursor that is not from us, or too old.
    #[error(
        "cursor {0:?} is not one of this container's log, or what it pointed to was rotated away"
    )]
    Cursor(String),
    /// It keeps no log.
    #[error("container {0} keeps no log: its log driver is \"none\"")]
    NoLog(ContainerName),
    /// An exec that is not there.
    #[error(
        "container {container} has no exec {exec_id:?}: it has ended, or was lost with a shim that \
         was killed"
    )]
    NoExec {
        /// In which.
        container: ContainerName,
        /// As asked.
        exec_id: String,
    },
    /// Too much is waiting for this container.
    #[error("container {0} has too many calls waiting: try again")]
    Busy(ContainerName),
    /// All containers are being ended.
    #[error(
        "{0} is not started: this supervisor has ended all containers, the next one starts them"
    )]
    Ending(ContainerName),
    /// Its shim can't be reached, and no other has taken its place yet.
    #[error("container {0} runs, and its shim can't be reached now: try again")]
    Unreached(ContainerName),
    /// The way to its shim broke.
    #[error("the shim of container {container} went away during exec {exec_id}")]
    ExecLost {
        /// In which.
        container: ContainerName,
        /// Which.
        exec_id: String,
    },
    /// It was removed during the call.
    #[error("container {0} was removed")]
    Removed(ContainerName),
    /// It does not stop.
    #[error("container {0} did not stop, not even by SIGKILL, within the time given")]
    Unkillable(ContainerName),
    /// The metadata.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Random numbers.
    #[error("make an id")]
    Random(#[source] io::Error),
}

impl Error {
    /// A field that makes no sense.
    pub fn field(field: impl Into<String>, problem: impl ToString) -> Self {
        Self::Field { field: field.into(), problem: problem.to_string() }
    }
}

impl Error {
    /// A name that is none.
    #[must_use]
    pub fn from_id(error: IdError) -> Self {
        Self::from(error)
    }
}

impl From<IdError> for Error {
    fn from(error: IdError) -> Self {
        let field = match &error {
            IdError::Container(_) => "container",
            IdError::Name(_) => "spec.name",
            IdError::Volume(_) => "spec.mounts",
            IdError::Namespace(_) => "wharf-namespace",
        };
        Self::field(field, error)
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound(_) | Self::NoExec { .. } | Self::Removed(_) => Kind::NotFound,
            Self::Ambiguous(_) | Self::Field { .. } | Self::User(_) | Self::Command(_) => {
                Kind::Invalid
            }
            Self::NameTaken { .. } => Kind::AlreadyExists,
            Self::State { .. } | Self::NoLog(_) => Kind::Precondition,
            Self::Revision { .. } => Kind::Conflict,
            Self::Image(e) => e.kind(),
            Self::Volume(e) => e.kind(),
            Self::Snapshot { source, .. } => source.kind(),
            Self::Files { source, .. } => source.kind(),
            Self::Start { source, .. } | Self::Exec { source, .. } | Self::Shim { source, .. } => {
                source.kind()
            }
            Self::File { source, .. } => io_kind(source),
            Self::Cursor(_) => Kind::OutOfRange,
            Self::Busy(_) => Kind::Exhausted,
            Self::Ending(_) => Kind::Precondition,
            Self::Unreached(_) => Kind::Unavailable,
            // If its shim was killed, the next call says that there is no such exec.
            Self::ExecLost { .. } => Kind::Unavailable,
            Self::Unkillable(_) => Kind::Deadline,
            Self::Store(e) => e.kind(),
            Self::Random(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) | Self::Removed(_) => "CONTAINER_NOT_FOUND",
            Self::NoExec { .. } => "EXEC_NOT_FOUND",
            Self::Ambiguous(_) => "AMBIGUOUS_ID",
            Self::Field { .. } => "INVALID_FIELD",
            Self::User(_) => "UNKNOWN_USER",
            Self::Command(_) => "NO_COMMAND",
            Self::NameTaken { .. } => "NAME_TAKEN",
            Self::State { .. } => "WRONG_STATE",
            Self::Revision { .. } => "STALE_REVISION",
            Self::Image(e) => e.reason(),
            Self::Volume(e) => e.reason(),
            Self::Snapshot { source, .. } => source.reason(),
            Self::Files { source, .. } => source.reason(),
            Self::Start { source, .. } | Self::Exec { source, .. } | Self::Shim { source, .. } => {
                source.reason()
            }
            Self::File { .. } => "FILE",
            Self::Cursor(_) => "CURSOR_OUT_OF_RANGE",
            Self::NoLog(_) => "NO_LOG",
            Self::Busy(_) => "BUSY",
            Self::Ending(_) => "SHUTTING_DOWN",
            Self::Unreached(_) => "SHIM_UNREACHED",
            Self::ExecLost { .. } => "EXEC_LOST",
            Self::Unkillable(_) => "STOP_TIMEOUT",
            Self::Store(e) => e.reason(),
            Self::Random(_) => "INTERNAL",
        }
    }

    fn detail(&self) -> Detail {
        let container =
            |name: &dyn ToString| Detail::Resource { kind: "container", name: name.to_string() };
        match self {
            Self::NotFound(name) => container(name),
            Self::Removed(name)
            | Self::Busy(name)
            | Self::Ending(name)
            | Self::Unreached(name)
            | Self::NoLog(name)
            | Self::Unkillable(name) => container(name),
            Self::NameTaken { name, .. } => container(name),
            Self::NoExec { exec_id, .. } | Self::ExecLost { exec_id, .. } => {
                Detail::Resource { kind: "exec", name: exec_id.clone() }
            }
            Self::Ambiguous(_) => Detail::Field("container".into()),
            Self::Field { field, .. } => Detail::Field(field.clone()),
            Self::User(_) => Detail::Field("spec.user".into()),
            Self::Command(_) => Detail::Field("spec.args".into()),
            Self::Cursor(_) => Detail::Field("cursor".into()),
            Self::State { state, .. } => Detail::State((*state).into()),
            Self::Revision { .. } => Detail::Field("if_revision".into()),
            // Its own field is the reference, wherever that came from.
            Self::Image(e) => match e.detail() {
                Detail::Field(_) => Detail::Field("spec.image".into()),
                other => other,
            },
            Self::Volume(e) => e.detail(),
            Self::Snapshot { source, .. } => source.detail(),
            Self::Files { source, .. } => source.detail(),
            Self::Start { source, .. } | Self::Exec { source, .. } | Self::Shim { source, .. } => {
                source.detail()
            }
            Self::Store(e) => e.detail(),
            Self::File { path, .. } => {
                Detail::Resource { kind: "file", name: path.display().to_string() }
            }
            Self::Random(_) => Detail::None,
        }
    }
}
