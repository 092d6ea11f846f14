//! What reaches into a running container: signals, freezing, limits, windows, input.

use super::Error;
use super::event::Event as Happening;
use super::shim::{Shim, Ticket};
use crate::logic::ids::{ProcessRef, TaskId};
use crate::logic::process::{Event, State};
use crate::sys::{pipes, process};
use wharf_runtime::spec as oci;

/// Highest signal of Linux.
const MAX_SIGNAL: u32 = 64;

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    One,
    /// Every process of the container.
    All,
}

impl Shim {
    pub(crate) fn kill(&mut self, of: &ProcessRef, signal: u32, reach: Reach) -> Result<(), Error> {
        if signal > MAX_SIGNAL {
            return Err(Error::Signal(signal));
        }
        let signal = i32::try_from(signal).map_err(|_| Error::Signal(signal))?;
        let process = self.find(of)?;
        let is_init = process.exec.is_none();
        if reach == Reach::All && is_init && process.state == State::Stopped {
            // What the init left behind, when it had no pid namespace of its own.
            return self.signal_all(signal);
        }
        process.state.after(Event::Kill)?;
        if reach == Reach::All && is_init {
            self.signal_all(signal)?;
        } else if is_init {
            let task = self.container(None)?.hold.task();
            task.signal(signal).map_err(|source| Error::Runtime { step: "signal init", source })?;
        } else if let Some(pidfd) = &process.pidfd {
            if reach == Reach::All {
                // It leads a session, and is not reaped: its number is that of its group.
                process::signal_group(process.pid, signal)?;
            }
            process::signal(pidfd, signal)?;
        } else {
            // An exec that was never started has no process to signal.
            return Err(Error::NoExec(process.name().to_owned()));
        }
        let for_one = is_init || reach == Reach::One;
        if signal == libc::SIGKILL && for_one && self.init_state() == Some(State::Paused) {
            // A frozen process does not die before it is thawed. A whole exec waits for that.
            self.resume(None)?;
        }
        Ok(())
    }

    fn signal_all(&self, signal: i32) -> Result<(), Error> {
        let task = self.container(None)?.hold.task();
        task.signal_all(signal)
            .map_err(|source| Error::Runtime { step: "signal container", source })
    }

    pub(crate) fn pause(&mut self, id: &TaskId) -> Result<(), Error> {
        self.change(Some(id), Event::Pause, |task| {
            task.pause().map_err(|source| Error::Runtime { step: "freeze container", source })
        })
    }

    pub(crate) fn resume(&mut self, id: Option<&TaskId>) -> Result<(), Error> {
        self.change(id, Event::Resume, |task| {
            task.resume().map_err(|source| Error::Runtime { step: "thaw container", source })
        })
    }

    /// New limits, as OCI JSON.
    pub(crate) fn update(&mut self, id: &TaskId, resources: &[u8]) -> Result<(), Error> {
        if let Some(foreign) = &self.container(Some(id))?.foreign {
            let foreign = foreign.clone();
            let container = self.container(Some(id))?;
            let init = self.processes.get(&container.init).expect("a container has its init");
            init.state.after(Event::Update)?;
            return foreign.update(container.of(), resources);
        }
        let resources = oci::LinuxResources::parse(resources)
            .map_err(|source| Error::Runtime { step: "read resources", source })?;
        self.change(Some(id), Event::Update, |task| {
            task.update(&resources)
                .map_err(|source| Error::Runtime { step: "update limits", source })
        })
    }

    fn change(
        &mut self,
        id: Option<&TaskId>,
        event: Event,
        act: impl FnOnce(&wharf_runtime::Task) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let container = self.container(id)?;
        let number = container.init;
        let init = self.processes.get(&number).expect("a container has its init");
        let after = init.state.after(event)?;
        if after != init.state || event == Event::Update {
            act(container.hold.task())?;
        }
        let init = self.processes.get_mut(&number).expect("just found");
        let before = std::mem::replace(&mut init.state, after);
        match (before, after) {
            (State::Running, State::Paused) => self.happened(Happening::Paused),
            (State::Paused, State::Running) => self.happened(Happening::Resumed),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn resize(&mut self, of: &ProcessRef, columns: u32, rows: u32) -> Result<(), Error> {
        let process = self.find(of)?;
        let pty = process.ends.pty.as_ref().ok_or(Error::NoTerminal)?;
        match (u16::try_from(columns), u16::try_from(rows)) {
            (Ok(columns), Ok(rows)) => Ok(pipes::resize(&pty.master, columns, rows)?),
            _ => Err(Error::Window { columns, rows }),
        }
    }

    /// Answered when the process has all of it.
    pub(crate) fn write_stdin(
        &mut self,
        of: &ProcessRef,
        bytes: Vec<u8>,
        ticket: Ticket,
    ) -> Result<(), Error> {
        let process = self.find_mut(of)?;
        let number = process.number;
        process.ends.input.as_mut().ok_or(Error::StdinClosed)?.push(bytes, ticket)?;
        self.run_input(number);
        Ok(())
    }

    /// Closed already is fine.
    pub(crate) fn close_stdin(&mut self, of: &ProcessRef) -> Result<(), Error> {
        let process = self.find_mut(of)?;
        let number = process.number;
        if let Some(input) = &mut process.ends.input {
            input.close();
            self.run_input(number);
            // A keeper's duplicate would hold the end of the input up.
            self.is_kept_stale = true;
        }
        Ok(())
    }
}
