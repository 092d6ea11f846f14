//! OCI runtime for Linux: makes one container out of a spec, and is gone when the call returns.
#![deny(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxResources, Process, Spec};

mod error;
pub use error::{Error, ErrorKind};

/// What `create` needs to know.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    pub rootfs: Rootfs<'a>,
    pub stdio: Stdio,
}

#[derive(Debug)]
pub enum Rootfs<'a> {
    /// Already mounted.
    Path(&'a Path),
    /// Mounted in the container's mount namespace only.
    Mounts(&'a [RootfsMount]),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootfsMount {
    pub kind: String,
    pub source: String,
    pub target: String,
    pub options: Vec<String>,
}

#[derive(Debug)]
pub enum Stdio {
    Inherit,
    Fds {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// Columns, rows.
    Terminal {
        size: Option<(u16, u16)>,
    },
}

/// A container whose init waits before its execve.
#[derive(Debug)]
pub struct Created {
    pub task: Task,
    pub pty: Option<OwnedFd>,
    /// What was asked and could not be given in full (a limit above ours, …); for the log.
    pub warnings: Vec<String>,
}

#[derive(Debug)]
pub struct Task {
    pub pid: i32,
    pub start_ticks: u64,
    pub pidfd: OwnedFd,
}

#[derive(Debug)]
pub struct Exec {
    pub pid: i32,
    pub start_ticks: u64,
    pub pidfd: OwnedFd,
    pub pty: Option<OwnedFd>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct TaskState {
    pub pid: i32,
    pub start_ticks: u64,
}

fn soon<T>() -> Result<T, Error> {
    Err(Error::Unsupported { what: "not there yet".into() })
}

pub fn create(_req: CreateRequest<'_>) -> Result<Created, Error> {
    soon()
}

impl Created {
    pub fn start(&mut self) -> Result<(), Error> {
        soon()
    }
}

impl Task {
    pub fn exec(&self, _process: &Process, _stdio: Stdio) -> Result<Exec, Error> {
        soon()
    }
    pub fn signal(&self, _signal: i32) -> Result<(), Error> {
        soon()
    }
    pub fn signal_all(&self, _signal: i32) -> Result<(), Error> {
        soon()
    }
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        soon()
    }
    pub fn pause(&self) -> Result<(), Error> {
        soon()
    }
    pub fn resume(&self) -> Result<(), Error> {
        soon()
    }
    pub fn update(&self, _resources: &LinuxResources) -> Result<(), Error> {
        soon()
    }
    pub fn oom_kills(&self) -> Result<u64, Error> {
        soon()
    }
    pub fn destroy(&self) -> Result<(), Error> {
        soon()
    }
    pub fn state(&self) -> TaskState {
        TaskState { pid: self.pid, start_ticks: self.start_ticks }
    }
    pub fn load(_state: TaskState) -> Result<Task, Error> {
        soon()
    }
}
