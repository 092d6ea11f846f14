//! `Start`: the init's execve, or an exec's whole making.

use super::Error;
use super::create::{Started, not_started};
use super::event::{Event, exec_of};
use super::foreign;
use super::shim::Shim;
use crate::logic::ids::ProcessRef;
use crate::logic::process::Event as Change;
use crate::sys::journal;

impl Shim {
    /// Answers with the pid.
    pub(crate) fn start(&mut self, of: &ProcessRef) -> Result<i32, Error> {
        let process = self.find(of)?;
        let after = process.state.after(Change::Start)?;
        let (number, is_init) = (process.number, process.exec.is_none());
        let result = if is_init { self.start_init() } else { self.start_exec(number) };
        let process = self.processes.get_mut(&number).expect("found above");
        match result {
            Ok(()) => {
                process.state = after;
                process.was_started = true;
                self.is_kept_stale |= is_init;
                let (name, pid) = (process.name(), process.pid);
                let event = match exec_of(process) {
                    None => Event::Started { pid },
                    Some(exec) => Event::ExecStarted { exec, pid },
                };
                journal::write(
                    process.level(),
                    "process started",
                    &[("process", &name), ("pid", &pid)],
                );
                self.happened(event);
                Ok(pid)
            }
            Err(error) => {
                if let Some(exit) = error.exit() {
                    process.state = process.state.after(Change::StartFailed)?;
                    self.record(number, exit);
                    self.announce(number);
                }
                Err(error)
            }
        }
    }

    fn start_init(&mut self) -> Result<(), Error> {
        // Written before: a start that nobody was told of is still a start.
        self.save_state(Started::Yes)?;
        let container = self.container.as_mut().expect("an init belongs to a container");
        let task = container.hold.task();
        if task.is_paused() {
            // Nothing but a checkpoint makes one that stands still before its start.
            return task
                .resume()
                .map_err(|source| Error::Runtime { step: "let the container go on", source });
        }
        if let Some(foreign) = &container.foreign {
            return foreign.start(container.of()).map_err(foreign::not_started);
        }
        let pid = container.hold.task().pid;
        container.hold.start().map_err(|source| not_started(pid, source))
    }
}
