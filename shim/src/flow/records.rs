//! What a shim leaves in its bundle for those who come after it.
//!
//! | file | written | read by |
//! | --- | --- | --- |
//! | `state.json` | before `Create` answers, again at `Start` | `wharf-shim delete`, an adopting shim, the supervisor |
//! | `exit.json` | before the init's zombie is reaped | the supervisor, when this shim died |
//! | `exec-<id>.json` | before an exec's zombie is reaped | the same |
//! | `address` | before `start` answers | containerd, when it reconnects |
//!
//! All are whole or absent. `Task.Delete` removes the first three.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::foreign::Foreign;
use super::keep::{self, Found, Kept};
use crate::logic::exit::Exit;
use crate::logic::ids::ExecId;
use crate::sys::handover::collect;
use crate::sys::pipes::PipeId;
use crate::sys::{files, pipes, process};

/// Version of [`StateRecord`].
const STATE_VERSION: u32 = 1;

/// Who is in this bundle.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub(crate) version: u32,
    pub(crate) namespace: String,
    pub(crate) id: String,
    pub(crate) socket: PathBuf,
    pub(crate) shim_pid: u32,
    pub(crate) shim_start_ticks: u64,
    /// execve was asked for.
    pub(crate) is_started: bool,
    /// Pid, start time, cgroup.
    pub(crate) runtime: wharf_runtime::TaskState,
    /// By whose program the container was made.
    #[serde(default)]
    pub(crate) foreign: Option<Foreign>,
    /// For a shim that adopts with no keeper's help; absent before version 0.2.
    #[serde(default)]
    pub(crate) stdio: Option<StdioRecord>,
}

/// What is kept, with each descriptor's number and the pipe behind it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StdioRecord {
    kept: serde_json::Value,
    pipes: Vec<(i32, PipeId)>,
}

impl StdioRecord {
    pub(crate) fn of(kept: &Kept<BorrowedFd<'_>>) -> Self {
        let (kept, numbers) = collect(|| serde_json::to_value(kept));
        let kept = kept.unwrap_or_default();
        let pipes =
            numbers.into_iter().filter_map(|number| Some((number, pipes::id(number)?))).collect();
        Self { kept, pipes }
    }
}

impl StateRecord {
    pub(crate) const VERSION: u32 = STATE_VERSION;

    pub(crate) fn save(&self, bundle: &Path) -> Result<(), Error> {
        save(&bundle.join("state.json"), self, "state record")
    }

    /// `None`: no task was ever made here.
    pub(crate) fn load(bundle: &Path) -> Result<Option<Self>, Error> {
        load(&bundle.join("state.json"), "state record")
    }

    /// What a shim can go on with: the pipes are those that the init has open still.
    pub(crate) fn found(self) -> Result<Found, Error> {
        let Some(stdio) = self.stdio else { return Err(Error::NothingKept) };
        let pid = self.runtime.pid;
        let is_it = process::open_pidfd(pid, self.runtime.start_ticks).is_some();
        let given = stdio
            .pipes
            .into_iter()
            .filter(|_| is_it)
            .filter_map(|(number, id)| Some((number, pipes::open_of_process(pid, id)?)))
            .collect();
        let kept = keep::read(stdio.kept, given)?;
        Ok(Found { runtime: self.runtime, kept })
    }
}

fn save<T: Serialize>(path: &Path, record: &T, what: &'static str) -> Result<(), Error> {
    let bytes = serde_json::to_vec(record).map_err(|source| Error::Json { what, source })?;
    Ok(files::write_atomic(path, &bytes)?)
}

fn load<T: for<'a> Deserialize<'a>>(path: &Path, what: &'static str) -> Result<Option<T>, Error> {
    match files::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Json { what, source })
        }
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn exit_path(bundle: &Path, exec: Option<&ExecId>) -> PathBuf {
    match exec {
        None => bundle.join("exit.json"),
        Some(exec) => bundle.join(format!("exec-{}.json", exec.as_str())),
    }
}

pub(crate) fn save_exit(bundle: &Path, exec: Option<&ExecId>, exit: &Exit) -> Result<(), Error> {
    save(&exit_path(bundle, exec), exit, "exit record")
}

pub(crate) fn load_exit(bundle: &Path) -> Result<Option<Exit>, Error> {
    load(&exit_path(bundle, None), "exit record")
}

pub(crate) fn remove_exit(bundle: &Path, exec: Option<&ExecId>) -> Result<(), Error> {
    Ok(files::remove(&exit_path(bundle, exec))?)
}

/// Records of execs whose shim is gone.
pub(crate) fn remove_execs(bundle: &Path) -> Result<(), Error> {
    Ok(files::remove_like(bundle, "exec-", ".json")?)
}

/// Where the shim of this bundle listens.
pub(crate) fn save_address(bundle: &Path, address: &str) -> Result<(), Error> {
    Ok(files::write_atomic(&bundle.join("address"), address.as_bytes())?)
}

pub(crate) fn load_address(bundle: &Path) -> Option<PathBuf> {
    let address = String::from_utf8(files::read(&bundle.join("address")).ok()?).ok()?;
    address.strip_prefix("unix://").map(PathBuf::from)
}

pub(crate) fn remove_address(bundle: &Path) -> Result<(), Error> {
    Ok(files::remove(&bundle.join("address"))?)
}

/// All that tells of the task.
pub(crate) fn remove_task(bundle: &Path) -> Result<(), Error> {
    remove_exit(bundle, None)?;
    Ok(files::remove(&bundle.join("state.json"))?)
}
