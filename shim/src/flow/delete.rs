//! `Delete`: the record of an end is acknowledged, and all that is left of the process goes.

use std::time::Duration;

use super::Error;
use super::create::load_spec;
use super::event::{self, exec_of};
use super::records;
use super::shim::{Container, Outcome, Shim};
use crate::logic::exit::{Ending, Exit};
use crate::logic::ids::ProcessRef;
use crate::logic::process::{Event, State};
use crate::sys::journal::{self, Level};
use crate::sys::{clock, process};

/// How long a container that was never started may take to die.
const KILL_GRACE: Duration = Duration::from_secs(2);

impl Shim {
    pub(crate) fn delete(&mut self, of: &ProcessRef) -> Result<Exit, Error> {
        let found = self.find(of)?;
        found.state.after(Event::Delete)?;
        let (number, is_init) = (found.number, found.exec.is_none());
        if is_init { self.delete_task(number) } else { self.delete_exec(number) }
    }

    fn delete_exec(&mut self, number: u32) -> Result<Exit, Error> {
        let bundle = self.container(None)?.bundle.clone();
        let exec = self.processes.get(&number).expect("found by the caller");
        records::remove_exit(&bundle, exec.exec.as_ref())?;
        let exit = exec.exit.unwrap_or_else(never_ran);
        let name = exec_of(exec);
        self.drop_process(number);
        self.happened(event::Event::Deleted { exec: name, exit });
        self.touch();
        Ok(exit)
    }

    fn delete_task(&mut self, number: u32) -> Result<Exit, Error> {
        let init = self.processes.get(&number).expect("found by the caller");
        if init.state == State::Created {
            self.end_created(number);
        }
        let container = self.container(None)?;
        if let Some(foreign) = &container.foreign {
            foreign.delete(container.of())?;
        }
        let task = container.hold.task();
        task.destroy().map_err(|source| Error::Runtime { step: "take container down", source })?;
        if container.has_poststop {
            run_poststop(container);
        }
        for exec in self.processes.values().filter(|process| process.exec.is_some()) {
            records::remove_exit(&container.bundle, exec.exec.as_ref())?;
        }
        records::remove_task(&container.bundle)?;
        let init = self.processes.get(&number).expect("found by the caller");
        let exit = init.exit.unwrap_or_else(never_ran);
        let numbers: Vec<u32> = self.processes.keys().copied().collect();
        for number in numbers {
            self.drop_process(number);
        }
        if let Some(log) = &self.log
            && (log.is_blocked() || log.dropped() > 0)
        {
            let dropped = log.dropped();
            journal::write(Level::Error, "log is not whole", &[("dropped", &dropped)]);
        }
        self.log = None;
        self.happened(event::Event::Deleted { exec: None, exit });
        self.unwatch_memory();
        self.container = None;
        self.is_kept_stale = true;
        journal::write(Level::Info, "container deleted", &[("code", &exit.exit_code)]);
        self.touch();
        Ok(exit)
    }

    /// A container that waits before its execve is killed: nothing of the image has run.
    fn end_created(&mut self, number: u32) {
        let Some(container) = &self.container else { return };
        let task = container.hold.task();
        if let Err(error) = process::signal(&task.pidfd, libc::SIGKILL) {
            journal::write(
                Level::Warn,
                "init was not killed",
                &[("error", &journal::chain(&error))],
            );
        }
        process::wait_end(&task.pidfd, KILL_GRACE);
        if let Some(ended) = process::peek_ended_pid(task.pid) {
            self.on_end(number, ended.ending);
        }
    }

    /// Whoever waits for it is told.
    fn drop_process(&mut self, number: u32) {
        let Some(mut process) = self.processes.remove(&number) else { return };
        for pump in &mut process.ends.pumps {
            pump.close_source(&self.poller);
        }
        let exit = process.exit;
        for ticket in process.waiters {
            self.completions.push((ticket, exit.map(Outcome::Exited).ok_or(Error::Deleted)));
        }
        self.answer_readers_of(number);
    }
}

/// The spec is read again for it: few have such hooks. The container is gone whatever they say.
fn run_poststop(container: &Container) {
    let id = container.id.as_str();
    let result = load_spec(&container.bundle).and_then(|spec| {
        wharf_runtime::run_poststop_hooks(&spec, id, &container.bundle)
            .map_err(|source| Error::Runtime { step: "run poststop hooks", source })
    });
    if let Err(error) = result {
        journal::write(Level::Warn, "hook failed", &[("error", &journal::chain(&error))]);
    }
}

/// For a process that was deleted before it ran.
fn never_ran() -> Exit {
    Exit::new(0, Ending::Code(0), false, clock::unix_ns())
}
