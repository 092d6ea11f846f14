//! `Exec`: one more process in the container. Added first, made at its `Start`.

use super::Error;
use super::create::not_started;
use super::foreign;
use super::process::{Process, Waiting};
use super::shim::Shim;
use super::stdio::{Names, Plan, To, Uris};
use crate::logic::ids::{ExecId, TaskId};
use crate::logic::process::Event;
use crate::sys::process;
use wharf_runtime::spec as oci;

/// Execs at a time, ended ones that nobody deleted among them.
const MAX_EXECS: usize = 4096;

/// What is asked.
#[derive(Debug)]
pub(crate) struct AddExec {
    pub(crate) task: TaskId,
    pub(crate) exec: ExecId,
    pub(crate) terminal: bool,
    pub(crate) uris: Uris,
    /// An OCI process, as JSON.
    pub(crate) process: Vec<u8>,
}

impl Shim {
    pub(crate) fn add_exec(&mut self, request: AddExec) -> Result<(), Error> {
        let container = self.container(Some(&request.task))?;
        let init = self.processes.get(&container.init).expect("a container has its init");
        init.state.after(Event::Exec)?;
        let is_taken =
            self.processes.values().any(|process| process.exec.as_ref() == Some(&request.exec));
        if is_taken {
            return Err(Error::ExecExists(request.exec.as_str().to_owned()));
        }
        if self.processes.len() > MAX_EXECS {
            return Err(Error::TooMany { what: "execs in this task", limit: MAX_EXECS });
        }
        let process = oci::Process::parse(&request.process)
            .map_err(|source| Error::Runtime { step: "read the exec's process", source })?;
        let window = process.console_size().and_then(|size| {
            Some((u16::try_from(size.width()).ok()?, u16::try_from(size.height()).ok()?))
        });
        let plan = Plan::from_uris(&request.uris, request.terminal.then_some(window))?;
        let number = self.next_number();
        let name = request.exec.as_str().to_owned();
        let mut exec = Process::new(number, Some(request.exec), request.uris, request.terminal);
        exec.holds_output = plan.stdout == To::Held || plan.stderr == To::Held;
        let is_foreign = self.container.as_ref().is_some_and(|one| one.foreign.is_some());
        let json = if is_foreign { request.process } else { Vec::new() };
        exec.waiting = Some(Box::new(Waiting { process, json, plan }));
        self.processes.insert(number, exec);
        self.happened(super::event::Event::ExecAdded { exec: name });
        Ok(())
    }

    pub(super) fn start_exec(&mut self, number: u32) -> Result<(), Error> {
        let container = self.container.as_ref().expect("an exec belongs to a container");
        let init = self.processes.get(&container.init).expect("a container has its init");
        init.state.after(Event::Exec)?;
        let before = self.oom_kills();
        let exec = self.processes.get_mut(&number).expect("found by the caller");
        let waiting = exec.waiting.take().expect("an exec that was not started has its process");
        let names = Names { id: container.id.as_str(), namespace: &self.identity.namespace };
        let opened = waiting.plan.open(names)?;
        if let Some(foreign) = &container.foreign {
            let made = foreign
                .exec(container.of(), &waiting.json, opened.stdio)
                .map_err(foreign::not_started)?;
            exec.pid = made.pid;
            exec.oom_kills_before = before;
            // Our child by now, at least as a zombie: the number means no other process.
            let ticks = process::start_ticks(made.pid).unwrap_or(0);
            exec.pidfd = process::open_pidfd(made.pid, ticks);
            exec.ends = opened.wires.attach(made.pty)?;
            self.arm(number);
            self.touch();
            return Ok(());
        }
        let task = container.hold.task();
        let made =
            task.exec(&waiting.process, opened.stdio).map_err(|source| not_started(0, source))?;
        drop(waiting.process);
        for warning in &made.warnings {
            use crate::sys::journal::{self, Level};
            journal::write(Level::Warn, "exec is degraded", &[("reason", warning)]);
        }
        exec.pid = made.pid;
        exec.oom_kills_before = before;
        exec.pidfd = Some(made.pidfd);
        // Without its streams it runs on: there is no taking back an execve.
        exec.ends = opened.wires.attach(made.pty)?;
        self.arm(number);
        self.touch();
        Ok(())
    }
}
