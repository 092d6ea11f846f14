//! What of a shim goes to the next version of its program, and back when that fails.
//!
//! A shim is handed over only while its container runs or while it has none: a container that
//! waits for its start waits on this very program, and an exec that was added and not started is
//! about to be.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use super::log::Log;
use super::process::Process;
use super::read_output::Reader;
use super::shim::{Container, Identity, Outcome, Shim, Ticket};
use crate::logic::process::State;
use crate::sys::{SysError, clock};

/// How long a reader that was handed over waits before it is told to ask again.
const READER_REST: Duration = Duration::from_secs(2);

/// The shim without what a program makes anew: its poller and its working memory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Parts {
    container: Option<Container>,
    processes: BTreeMap<u32, Process>,
    log: Option<Log>,
    readers: Vec<Reader>,
    next_number: u32,
    oom_kills_told: u64,
}

impl Shim {
    /// Refused: why this shim can't be handed over now.
    pub(crate) fn may_hand_over(&self) -> Result<(), Error> {
        match self.init_state() {
            None | Some(State::Running | State::Paused) => {}
            Some(state) => return Err(Error::NotHandedOver(state.name())),
        }
        if self.processes.values().any(|process| process.waiting.is_some()) {
            return Err(Error::NotHandedOver("about to start an exec"));
        }
        Ok(())
    }

    /// Takes the parts out. The shim is empty until [`Shim::put_back`].
    pub(crate) fn take_parts(&mut self) -> Parts {
        Parts {
            container: self.container.take(),
            processes: std::mem::take(&mut self.processes),
            log: self.log.take(),
            readers: std::mem::take(&mut self.readers),
            next_number: self.next_number,
            oom_kills_told: self.oom_kills_told,
        }
    }

    /// After a handover that failed: everything is as it was.
    pub(crate) fn put_back(&mut self, parts: Parts) {
        self.container = parts.container;
        self.processes = parts.processes;
        self.log = parts.log;
        self.readers = parts.readers;
        self.next_number = parts.next_number;
        self.oom_kills_told = parts.oom_kills_told;
    }

    /// In the new program. What is watched is watched again, and who asked is told.
    pub(crate) fn resume_from(identity: Identity, parts: Parts) -> Result<Self, SysError> {
        let mut shim = Self::new(identity)?;
        shim.put_back(parts);
        let until = clock::now() + READER_REST;
        for reader in &mut shim.readers {
            reader.until = Some(until);
        }
        let numbers: Vec<u32> = shim.processes.keys().copied().collect();
        for number in numbers {
            if let Some(process) = shim.processes.get_mut(&number)
                && process.exit.is_some()
                && !process.is_announced
            {
                process.announce_by = Some(until);
            }
            shim.arm(number);
        }
        if let Some(log) = &mut shim.log {
            log.retry();
        }
        if let Err(error) = shim.watch_init() {
            use crate::sys::journal::{self, Level};
            let error = journal::chain(&error);
            journal::write(Level::Error, "init is not watched", &[("error", &error)]);
        }
        shim.is_kept_stale = true;
        shim.touch();
        Ok(shim)
    }

    /// The answer to the call that asked for the handover.
    pub(crate) fn handed_over(&mut self, ticket: Ticket) {
        self.completions.push((ticket, Ok(Outcome::Done)));
        let pid = self.init_pid();
        if pid > 0 {
            self.watch_memory(pid);
        }
    }

    /// The handover did not happen.
    pub(crate) fn not_handed_over(&mut self, ticket: Ticket, error: Error) {
        self.completions.push((ticket, Err(error)));
    }

    /// Nothing that happened waits to be told.
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }
}

/// Serialized as what a task can be found by again.
pub(crate) mod hold {
    use super::super::shim::Hold;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use wharf_runtime::{Task, TaskState};

    pub(crate) fn serialize<S: Serializer>(hold: &Hold, to: S) -> Result<S::Ok, S::Error> {
        hold.task().state().serialize(to)
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Hold, D::Error> {
        let task = Task::load(TaskState::deserialize(from)?).map_err(serde::de::Error::custom)?;
        Ok(Hold::Found(Box::new(task)))
    }
}
