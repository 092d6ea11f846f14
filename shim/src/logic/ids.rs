//! Ids, parsed once at the edge. They become parts of file names, so nothing in them may lead
//! out of a folder.

use serde::{Deserialize, Serialize};
use wharf_proto::kind::Kind;

/// Longest id; what containerd and Wharf hand out is shorter.
pub(crate) const MAX_ID_LEN: usize = 128;

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdError {
    #[error("id is empty")]
    Empty,
    #[error("id has {0} bytes, at most {MAX_ID_LEN} are allowed")]
    TooLong(usize),
    #[error(
        "id holds a character other than letters, digits, '.', '_' and '-', or begins with '.'"
    )]
    Character,
}

impl IdError {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Empty | Self::TooLong(_) | Self::Character => Kind::Invalid,
        }
    }
}

fn check(text: &str) -> Result<(), IdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match text.as_bytes() {
        [] => Err(IdError::Empty),
        bytes if bytes.len() > MAX_ID_LEN => Err(IdError::TooLong(bytes.len())),
        [b'.', ..] => Err(IdError::Character),
        bytes if bytes.iter().all(|&byte| allowed(byte)) => Ok(()),
        _ => Err(IdError::Character),
    }
}

/// Id of a container's task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskId(String);

impl TaskId {
    pub(crate) fn parse(text: &str) -> Result<Self, IdError> {
        check(text).map(|()| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Id of an exec, unique in its task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecId(String);

impl ExecId {
    pub(crate) fn parse(text: &str) -> Result<Self, IdError> {
        check(text).map(|()| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A process as a request names it: the task's init, or one of its execs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessRef {
    /// `None`: whichever task this shim has (Wharf's own service names none).
    pub(crate) task: Option<TaskId>,
    pub(crate) exec: Option<ExecId>,
}

impl ProcessRef {
    /// An empty exec id names the init.
    pub(crate) fn parse(task: &str, exec: &str) -> Result<Self, IdError> {
        Ok(Self { task: Some(TaskId::parse(task)?), exec: Self::exec_id(exec)? })
    }

    /// As [`ProcessRef::parse`] for requests that carry no task id.
    pub(crate) fn of_only_task(exec: &str) -> Result<Self, IdError> {
        Ok(Self { task: None, exec: Self::exec_id(exec)? })
    }

    fn exec_id(exec: &str) -> Result<Option<ExecId>, IdError> {
        if exec.is_empty() { Ok(None) } else { ExecId::parse(exec).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::{ExecId, IdError, MAX_ID_LEN, ProcessRef};

    #[test]
    fn ids_stay_in_their_folder() {
        assert!(ExecId::parse("a-1_b.c").is_ok());
        assert_eq!(ExecId::parse(""), Err(IdError::Empty));
        for bad in ["..", ".a", "a/b", "a b", "a\0", "é"] {
            assert_eq!(ExecId::parse(bad), Err(IdError::Character), "{bad}");
        }
        let long = "x".repeat(MAX_ID_LEN + 1);
        assert_eq!(ExecId::parse(&long), Err(IdError::TooLong(MAX_ID_LEN + 1)));
    }

    #[test]
    fn empty_exec_is_the_init() {
        assert_eq!(ProcessRef::of_only_task(""), Ok(ProcessRef { task: None, exec: None }));
    }
}
