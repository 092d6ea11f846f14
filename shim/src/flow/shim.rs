//! The shim itself: one task, its processes, and what they share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wharf_runtime::{Created, Task};

use super::Error;
use super::event::Happened;
use super::foreign::{Foreign, Of};
use super::log::Log;
use super::process::Process;
use super::pump::SCRATCH;
use super::read_output::Reader;
use crate::logic::exit::Exit;
use crate::logic::ids::{ProcessRef, TaskId};
use crate::logic::lines::Stream;
use crate::logic::process::State;
use crate::sys::SysError;
use crate::sys::cgroup::MemoryWatch;
use crate::sys::clock;
use crate::sys::memory::{Scratch, trim};
use crate::sys::poller::Poller;

/// Idle for this long, working memory goes back to the kernel.
const IDLE: Duration = Duration::from_millis(500);

/// Who this shim is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) namespace: String,
    pub(crate) id: TaskId,
    pub(crate) bundle: PathBuf,
    pub(crate) socket: PathBuf,
}

/// Names a call whose answer comes later. The edge makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Ticket {
    pub(crate) connection: u32,
    pub(crate) stream: u32,
}

/// What a late answer says.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done,
    Exited(Exit),
    Output { chunks: Vec<(Stream, Vec<u8>)>, next: u64, is_end: bool },
}

/// A late answer.
pub(crate) type Completion = (Ticket, Result<Outcome, Error>);

/// The container as the runtime made it, or as it was found again by a new program.
#[derive(Debug)]
pub(crate) enum Hold {
    Made(Box<Created>),
    Found(Box<Task>),
}

impl Hold {
    pub(crate) fn task(&self) -> &Task {
        match self {
            Self::Made(created) => &created.task,
            Self::Found(task) => task,
        }
    }

    /// Lets the init go on. One that was found runs already.
    pub(crate) fn start(&mut self) -> Result<(), wharf_runtime::Error> {
        match self {
            Self::Made(created) => created.start(),
            Self::Found(_) => Ok(()),
        }
    }
}

/// The container of this shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    pub(crate) id: TaskId,
    pub(crate) bundle: PathBuf,
    #[serde(with = "super::upgrade::hold")]
    pub(crate) hold: Hold,
    /// Its processes die with the init, by the kernel's hand.
    pub(crate) has_private_pids: bool,
    /// Its spec has hooks for after its end.
    #[serde(default)]
    pub(crate) has_poststop: bool,
    /// By whose program it is made; `None`: by the embedded runtime.
    #[serde(default)]
    pub(crate) foreign: Option<Foreign>,
    /// criu's program, for a checkpoint; empty: the one in PATH.
    #[serde(default)]
    pub(crate) criu: PathBuf,
    /// Begun by another shim, which died: its init is not our child.
    #[serde(default)]
    pub(crate) is_adopted: bool,
    /// Number of its init.
    pub(crate) init: u32,
}

impl Container {
    /// For another runtime's commands.
    pub(crate) fn of(&self) -> Of<'_> {
        Of { id: self.id.as_str(), bundle: &self.bundle }
    }
}

/// One task, its processes, and what they share.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) identity: Identity,
    pub(crate) poller: Poller,
    pub(crate) scratch: Scratch,
    pub(crate) container: Option<Container>,
    pub(crate) processes: BTreeMap<u32, Process>,
    pub(crate) log: Option<Log>,
    /// Only while somebody follows events.
    pub(crate) memory: Option<MemoryWatch>,
    pub(crate) oom_kills_told: u64,
    pub(crate) readers: Vec<Reader>,
    pub(crate) completions: Vec<Completion>,
    pub(crate) events: Vec<Happened>,
    pub(crate) has_followers: bool,
    /// Where events go, kept for the next program.
    pub(crate) events_address: Option<String>,
    pub(super) next_number: u32,
    /// What is kept has changed since it was told.
    pub(crate) is_kept_stale: bool,
    /// An adopted init has ended, and how is known by then.
    pub(crate) init_gone_until: Option<Instant>,
    /// An upgrade that was asked for.
    pub(crate) upgrade: Option<(PathBuf, Ticket)>,
    /// When working memory is to be freed.
    idle_at: Option<Instant>,
    is_stopping: bool,
}

impl Shim {
    pub(crate) fn new(identity: Identity) -> Result<Self, SysError> {
        Ok(Self {
            identity,
            poller: Poller::new()?,
            scratch: Scratch::new(SCRATCH),
            container: None,
            processes: BTreeMap::new(),
            log: None,
            memory: None,
            oom_kills_told: 0,
            readers: Vec::new(),
            completions: Vec::new(),
            events: Vec::new(),
            has_followers: false,
            events_address: None,
            next_number: 0,
            is_kept_stale: false,
            init_gone_until: None,
            upgrade: None,
            idle_at: None,
            is_stopping: false,
        })
    }

    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    pub(crate) fn next_number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }

    /// The container that a request names.
    pub(crate) fn container(&self, id: Option<&TaskId>) -> Result<&Container, Error> {
        match (&self.container, id) {
            (Some(container), None) => Ok(container),
            (Some(container), Some(id)) if container.id == *id => Ok(container),
            (_, Some(id)) => Err(Error::NoTask(id.as_str().to_owned())),
            (None, None) => Err(Error::NoTask(self.identity.id.as_str().to_owned())),
        }
    }

    /// The process that a request names.
    pub(crate) fn find(&self, of: &ProcessRef) -> Result<&Process, Error> {
        let container = self.container(of.task.as_ref())?;
        let Some(exec) = &of.exec else {
            return Ok(self.processes.get(&container.init).expect("a container has its init"));
        };
        self.processes
            .values()
            .find(|process| process.exec.as_ref() == Some(exec))
            .ok_or_else(|| Error::NoExec(exec.as_str().to_owned()))
    }

    /// As [`Shim::find`], to be changed.
    pub(crate) fn find_mut(&mut self, of: &ProcessRef) -> Result<&mut Process, Error> {
        let number = self.find(of)?.number;
        Ok(self.processes.get_mut(&number).expect("just found"))
    }

    pub(crate) fn init_state(&self) -> Option<State> {
        let container = self.container.as_ref()?;
        self.processes.get(&container.init).map(|init| init.state)
    }

    /// Late answers that are ready.
    pub(crate) fn take_completions(&mut self) -> Vec<Completion> {
        std::mem::take(&mut self.completions)
    }

    /// A caller is gone: its answers are of no use any more.
    pub(crate) fn forget(&mut self, connection: u32) {
        let is_gone = |ticket: Ticket| ticket.connection == connection;
        for process in self.processes.values_mut() {
            process.waiters.retain(|&ticket| !is_gone(ticket));
            if let Some(input) = &mut process.ends.input {
                input.forget(is_gone);
            }
        }
        self.readers.retain(|reader| !is_gone(reader.ticket));
    }

    /// `Shutdown`: the loop ends once answers are out. `force` leaves a living container behind.
    pub(crate) fn shutdown(&mut self, force: Force) {
        let is_alive = self.init_state().is_some_and(State::is_alive);
        if !is_alive || force == Force::Yes {
            self.is_stopping = true;
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Memory was used: free it once nothing happens for a while.
    pub(crate) fn touch(&mut self) {
        self.idle_at = Some(clock::now() + IDLE);
    }

    /// How long the loop may sleep.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let log = self.log.as_ref().and_then(Log::retry_at);
        let exits = self.processes.values().filter_map(Process::announce_at);
        let readers = self.readers.iter().filter_map(|reader| reader.until);
        let next = log.into_iter().chain(exits).chain(readers).chain(self.idle_at);
        let next = next.chain(self.init_look_at()).min()?;
        Some(next.saturating_duration_since(clock::now()))
    }

    /// Time has passed.
    pub(crate) fn on_time(&mut self) {
        let now = clock::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.log.as_ref().and_then(Log::retry_at)) {
            self.retry_log();
        }
        self.look_at_init();
        self.announce_due(now);
        self.answer_readers(now);
        if is_due(self.idle_at) {
            self.idle_at = None;
            self.scratch.release();
            trim();
        }
    }
}

/// Whether `Shutdown` was asked to go regardless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Force {
    Yes,
    No,
}
