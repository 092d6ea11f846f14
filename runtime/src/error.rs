//! What can go wrong in the runtime, and of which kind it is.

/// Kind of an error: what a caller acts on. The names are those of Wharf's shared list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    /// The spec or the request makes no sense.
    Invalid,
    /// What was named is not there (entrypoint, user's path, cgroup).
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
    /// This kernel, host or version can't do it.
    Unsupported,
    /// A fault of Wharf or of the host.
    Internal,
}

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or this version can't do it.
    #[error("not supported: {what}")]
    Unsupported {
        /// What was asked.
        what: String,
    },
}

impl Error {
    /// What a caller acts on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }

    /// The shell's code for a failed start: 127 entrypoint not found, 126 not executable, else 1.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        1
    }
}
