//! Handing a process' seccomp listener to the agent that the spec names.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{ErrorKind, Failure, Step};
use crate::spec::{LinuxSeccomp, VERSION};
use crate::sys::channel::Channel;
use crate::sys::path;

/// Whom to tell, and what of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notify {
    agent: PathBuf,
    metadata: Option<String>,
    /// The container's state, but for status and pid.
    head: Value,
}

impl Notify {
    /// `None` when the filter asks nobody.
    pub(crate) fn new(seccomp: Option<&LinuxSeccomp>, asks: bool, head: &Value) -> Option<Self> {
        let seccomp = seccomp.filter(|_| asks)?;
        let agent = seccomp.listener_path().clone()?;
        let metadata = seccomp.listener_metadata().clone();
        Some(Self { agent, metadata, head: head.clone() })
    }

    /// Makes sure that there is somebody to tell, before anything depends on it.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let step = || {
            let agent = self.agent.display();
            format!("linux.seccomp.listenerPath: failed to connect with seccomp agent {agent}")
        };
        path::open_host(&self.agent).map(drop).step(step)
    }

    /// Gives the listener of process `pid`; the container's own is `init`.
    pub(crate) fn pass(
        &self,
        listener: &OwnedFd,
        pid: i32,
        init: i32,
        status: &str,
    ) -> Result<(), Failure> {
        let step =
            || format!("linux.seccomp.listenerPath: pass the listener to {}", self.agent.display());
        let mut state = self.head.clone();
        state["status"] = status.into();
        state["pid"] = init.into();
        let mut whole = json!({
            "ociVersion": VERSION,
            "fds": ["seccompFd"],
            "pid": pid,
            "state": state,
        });
        if let Some(metadata) = &self.metadata {
            whole["metadata"] = metadata.as_str().into();
        }
        let bytes = whole.to_string().into_bytes();
        if bytes.len() > crate::sys::channel::MAX_MESSAGE_BYTES {
            let text = format!("the state is {} bytes long", bytes.len());
            return Err(Failure::new(ErrorKind::Exhausted, step(), text));
        }
        let folder = self.agent.parent().unwrap_or(Path::new("/"));
        let name = self.agent.file_name().unwrap_or_default().to_string_lossy();
        let folder = path::open_host(folder).step(step)?;
        let agent = Channel::connect_stream(folder.as_fd(), &name).step(step)?;
        agent.send(&bytes, Some(listener.as_fd())).step(step)
    }
}
