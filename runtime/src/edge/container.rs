//! A container as the commands see it: its record, and what the kernel says of its init.

use std::os::fd::AsFd;
use std::time::Duration;

use super::CommandError;
use super::store::{Record, Store};
use crate::{Error, Task};

/// The OCI states, and paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container; with its task while its init has not ended.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: Record,
    pub(crate) task: Option<Task>,
    pub(crate) status: Status,
}

impl Container {
    pub(crate) fn load(store: &Store, id: &str) -> Result<Self, CommandError> {
        let record = store.load(id)?;
        let task = match Task::load(record.task.clone()) {
            Ok(task) => Some(task),
            Err(Error::Gone { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        // A zombie that nobody has reaped has stopped all the same.
        let task = task.filter(|task| {
            !crate::sys::process::pidfd_ended(task.pidfd.as_fd(), Duration::ZERO).unwrap_or(true)
        });
        let status = match &task {
            None => Status::Stopped,
            Some(_) if store.is_waiting(id) => Status::Created,
            Some(task) if task.is_paused() => Status::Paused,
            Some(_) => Status::Running,
        };
        Ok(Self { record, task, status })
    }

    /// The task of a container that must not have stopped.
    pub(crate) fn running(&self) -> Result<&Task, CommandError> {
        // The words by which containerd and docker know this case.
        self.task
            .as_ref()
            .ok_or_else(|| CommandError::State { text: "container not running".to_owned() })
    }

    /// runc's state.
    pub(crate) fn state(&self) -> serde_json::Value {
        serde_json::json!({
            "ociVersion": self.record.oci_version,
            "id": self.record.id,
            "pid": self.task.as_ref().map_or(0, |task| task.pid),
            "status": self.status.name(),
            "bundle": self.record.bundle,
            "rootfs": self.record.rootfs,
            "created": self.record.created,
            "annotations": self.record.annotations,
            "owner": owner(self.record.owner),
        })
    }
}

/// A user's name, for people; empty for root, as runc has it.
fn owner(uid: u32) -> String {
    if uid == 0 { String::new() } else { uid.to_string() }
}
