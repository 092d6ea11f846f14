//! A container as the commands see it: its record, and what the kernel says of its init.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

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
    pub(crate) fn state(&self) -> State<'_> {
        State {
            oci_version: &self.record.oci_version,
            id: &self.record.id,
            pid: self.task.as_ref().map_or(0, |task| task.pid),
            status: self.status.name(),
            bundle: &self.record.bundle,
            rootfs: &self.record.rootfs,
            created: &self.record.created,
            annotations: &self.record.annotations,
            owner: String::new(),
        }
    }

    /// The same for a list, where runc says whose it is.
    pub(crate) fn state_with_owner(&self) -> State<'_> {
        State { owner: user_name(self.record.owner), ..self.state() }
    }
}

/// What `state` prints, in this order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'static str,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
}

/// A user's name on this host, or the number.
pub(crate) fn user_name(uid: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| format!("#{uid}"))
}
