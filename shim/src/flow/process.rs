//! One process of the container as the shim holds it: identity, state, stdio, end.

use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::time::Instant;
use wharf_runtime::spec as oci;

use super::shim::Ticket;
use super::stdio::{Ends, Plan, Uris};
use crate::logic::exit::Exit;
use crate::logic::ids::ExecId;
use crate::logic::output::Output;
use crate::logic::process::State;
use crate::sys::journal::Level;

/// An init or an exec.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Names the process in poller tokens; never used twice.
    pub(crate) number: u32,
    /// `None`: the init.
    pub(crate) exec: Option<ExecId>,
    pub(crate) state: State,
    /// 0 until there is one.
    pub(crate) pid: i32,
    /// Of an exec; the init's is in the runtime's task.
    #[serde(with = "crate::sys::handover::optional_fd")]
    pub(crate) pidfd: Option<OwnedFd>,
    /// Of an exec that has not been started.
    #[serde(skip)]
    pub(crate) waiting: Option<Box<Waiting>>,
    pub(crate) uris: Uris,
    pub(crate) terminal: bool,
    pub(crate) ends: Ends,
    pub(crate) output: Output,
    /// Output stays here for `ReadOutput`.
    pub(crate) holds_output: bool,
    /// execve succeeded once.
    pub(crate) was_started: bool,
    /// OOM kills in the container when this process started.
    pub(crate) oom_kills_before: u64,
    /// Written down, not necessarily announced.
    pub(crate) exit: Option<Exit>,
    /// The exit has been told to all who waited.
    pub(crate) is_announced: bool,
    /// When it is told although a sink has not taken all output.
    #[serde(skip)]
    pub(crate) announce_by: Option<Instant>,
    /// Who waits for the end.
    pub(crate) waiters: Vec<Ticket>,
}

/// What an exec needs at its start.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) process: oci::Process,
    /// The same, for another runtime's program.
    pub(crate) json: Vec<u8>,
    pub(crate) plan: Plan,
}

impl Process {
    pub(crate) fn new(number: u32, exec: Option<ExecId>, uris: Uris, terminal: bool) -> Self {
        Self {
            number,
            exec,
            state: State::Created,
            pid: 0,
            pidfd: None,
            waiting: None,
            uris,
            terminal,
            ends: Ends::default(),
            output: Output::default(),
            holds_output: false,
            was_started: false,
            oom_kills_before: 0,
            exit: None,
            is_announced: false,
            announce_by: None,
            waiters: Vec::new(),
        }
    }

    /// When the loop has to look at this process again.
    pub(crate) fn announce_at(&self) -> Option<Instant> {
        if self.is_announced { None } else { self.announce_by }
    }

    /// For messages and the journal.
    pub(crate) fn name(&self) -> &str {
        self.exec.as_ref().map_or("init", ExecId::as_str)
    }

    /// Of what the journal says of it: execs come by the thousand, and the journal is in memory.
    pub(crate) fn level(&self) -> Level {
        if self.exec.is_some() { Level::Debug } else { Level::Info }
    }

    /// No more output will come.
    pub(crate) fn output_ended(&self) -> bool {
        self.ends.pumps.iter().all(super::pump::Pump::is_ended)
    }
}
