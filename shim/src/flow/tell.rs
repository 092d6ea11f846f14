//! What only asks: `State`, `Pids`, `Connect`, `Wait`, `Info`.

use std::path::PathBuf;

use super::Error;
use super::shim::{Outcome, Shim, Ticket};
use super::stdio::Uris;
use crate::logic::exit::Exit;
use crate::logic::ids::{ProcessRef, TaskId};
use crate::logic::process::{Event, State};
use crate::sys::cgroup::Cgroup;

/// Calls that wait for one process' end.
const MAX_WAITERS: usize = 1024;

/// Answer of `State`.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) bundle: PathBuf,
    pub(crate) pid: i32,
    pub(crate) state: State,
    pub(crate) uris: Uris,
    pub(crate) terminal: bool,
    pub(crate) exit: Option<Exit>,
}

/// Answer of `Info`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Info {
    pub(crate) init_pid: i32,
    pub(crate) init_start_ticks: u64,
    pub(crate) log_bytes_dropped: u64,
    pub(crate) adopted: bool,
    pub(crate) log_blocked: bool,
}

impl Shim {
    pub(crate) fn describe(&self, of: &ProcessRef) -> Result<Described, Error> {
        let process = self.find(of)?;
        Ok(Described {
            bundle: self.container(None)?.bundle.clone(),
            pid: process.pid,
            state: process.state,
            uris: process.uris.clone(),
            terminal: process.terminal,
            exit: process.exit,
        })
    }

    /// Pids in the container, with the exec that each belongs to where it is its first process.
    pub(crate) fn pids(&self, id: &TaskId) -> Result<Vec<(i32, Option<String>)>, Error> {
        let task = self.container(Some(id))?.hold.task();
        let pids =
            task.pids().map_err(|source| Error::Runtime { step: "list processes", source })?;
        let exec_of = |pid: i32| {
            let process = self.processes.values().find(|process| process.pid == pid)?;
            process.exec.as_ref().map(|exec| exec.as_str().to_owned())
        };
        Ok(pids.into_iter().map(|pid| (pid, exec_of(pid))).collect())
    }

    /// Pid of the init, 0 when there is none.
    pub(crate) fn init_pid(&self) -> i32 {
        self.container.as_ref().map_or(0, |container| container.hold.task().pid)
    }

    /// Where the container's figures are.
    pub(crate) fn cgroup(&self, id: &TaskId) -> Result<Cgroup, Error> {
        let container = self.container(Some(id))?;
        let init = self.processes.get(&container.init).expect("a container has its init");
        init.state.after(Event::Update)?;
        Ok(Cgroup::of(init.pid)?)
    }

    /// Execs that were added and not deleted.
    pub(crate) fn exec_ids(&self) -> Vec<String> {
        self.processes.values().filter_map(super::event::exec_of).collect()
    }

    pub(crate) fn info(&self) -> Info {
        let task = self.container.as_ref().map(|container| container.hold.task());
        Info {
            init_pid: task.map_or(0, |task| task.pid),
            init_start_ticks: task.map_or(0, |task| task.start_ticks),
            log_bytes_dropped: self.log.as_ref().map_or(0, super::log::Log::dropped),
            adopted: self.container.as_ref().is_some_and(|container| container.is_adopted),
            log_blocked: self.log.as_ref().is_some_and(super::log::Log::is_blocked),
        }
    }

    /// Answered when the process has ended and its output has arrived.
    pub(crate) fn wait(&mut self, of: &ProcessRef, ticket: Ticket) -> Result<(), Error> {
        let process = self.find_mut(of)?;
        match process.exit {
            Some(exit) if process.is_announced => {
                self.completions.push((ticket, Ok(Outcome::Exited(exit))));
            }
            Some(_) | None if process.waiters.len() >= MAX_WAITERS => {
                return Err(Error::TooMany {
                    what: "calls wait for this process",
                    limit: MAX_WAITERS,
                });
            }
            Some(_) | None => process.waiters.push(ticket),
        }
        Ok(())
    }

    pub(crate) fn reopen_log(&mut self) -> Result<(), Error> {
        match &mut self.log {
            Some(log) => Ok(log.reopen()?),
            None => Ok(()),
        }
    }
}
