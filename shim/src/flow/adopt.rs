//! `adopt`: another shim was killed, this one goes on with its container.
//!
//! ```text
//! keeper's message ─┐   descriptors as they were
//!                   ├─▶ Shim with the container ─▶ pidfd, pipes, log watched again
//! bundle's record ──┘   descriptors opened anew, as far as they can be
//! ```
//! The init is not our child: its end is seen and told through its pidfd.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use wharf_runtime::Task;

use super::create::Started;
use super::input::Input;
use super::keep::Found;
use super::log::Log;
use super::process::Process;
use super::pump::{Pump, Sink};
use super::shim::{Container, Hold, Identity, Shim};
use super::stdio::{Ends, Pty};
use super::{Error, records};
use crate::logic::exit::Exit;
use crate::logic::process::State;
use crate::sys::journal::{self, Level};
use crate::sys::pidfd::{self, Told};
use crate::sys::poller::{Interest, Token};
use crate::sys::{clock, pipes, process};

/// Between two looks at an init that has ended and was not reaped by whoever is its parent now.
const LOOK: Duration = Duration::from_millis(5);
/// After this nobody will tell.
const PATIENCE: Duration = Duration::from_secs(2);

impl Shim {
    /// A shim around a container that is there.
    pub(crate) fn adopt(identity: Identity, found: Found) -> Result<Self, Error> {
        let mut shim = Self::new(identity)?;
        let Found { runtime, mut kept } = found;
        let (pid, ticks) = (runtime.pid, runtime.start_ticks);
        let pidfd = match kept.pidfd.take().or_else(|| process::open_pidfd(pid, ticks)) {
            Some(pidfd) => pidfd,
            None => pidfd::of_nobody()?,
        };
        let task = Task::with_pidfd(runtime, pidfd)
            .map_err(|source| Error::Runtime { step: "find the container", source })?;

        // A keeper may have had no time to read of the start; the record was written before it.
        let record = records::StateRecord::load(&kept.bundle)?;
        if kept.state == State::Created && record.is_some_and(|record| record.is_started) {
            kept.state = State::Running;
            kept.was_started = true;
        }
        if let Some(log) = &kept.log {
            shim.log = Some(Log::adopt(log)?);
        }
        let mut init = Process::new(kept.number, None, kept.uris, kept.terminal);
        init.pid = pid;
        init.state = kept.state;
        init.was_started = kept.was_started;
        init.exit = records::load_exit(&kept.bundle)?;
        if init.exit.is_some() {
            init.state = State::Stopped;
        } else if kept.state == State::Running && task.is_paused() {
            init.state = State::Paused;
        } else if kept.state == State::Paused && !task.is_paused() {
            init.state = State::Running;
        }
        let sources = kept.outputs.into_iter().map(|output| {
            let sink = match (output.is_logged, output.sink) {
                (true, _) => Sink::Log,
                (false, Some(sink)) => Sink::file(sink),
                (false, None) => Sink::Discard,
            };
            Pump::new(output.stream, output.source, sink)
        });
        init.ends = ends(sources.collect(), kept.stdin, kept.pty);
        shim.next_number = kept.number;
        shim.processes.insert(kept.number, init);
        shim.events_address = kept.events;
        shim.container = Some(Container {
            id: kept.id,
            bundle: kept.bundle,
            hold: Hold::Found(Box::new(task)),
            has_private_pids: kept.has_private_pids,
            has_poststop: kept.has_poststop,
            criu: kept.foreign.as_ref().map_or_else(PathBuf::new, |made_by| made_by.criu.clone()),
            foreign: kept.foreign,
            is_adopted: true,
            init: kept.number,
        });
        shim.oom_kills_told = shim.oom_kills();
        Ok(shim)
    }

    /// In the process that is to stay: goes on where the other shim was.
    pub(crate) fn go_on(&mut self) -> Result<(), Error> {
        let Some(container) = &self.container else { return Ok(()) };
        let number = container.init;
        let pid = container.hold.task().pid;
        self.end_strangers();
        let init = self.processes.get(&number).expect("a container has its init");
        let (has_ended, was_started) = (init.exit.is_some(), init.was_started);
        self.save_state(if was_started { Started::Yes } else { Started::No })?;
        journal::write(Level::Info, "container adopted", &[("pid", &pid)]);
        self.arm(number);
        if has_ended {
            self.run_pumps(number, super::pump::Turn::Drain, |_| true);
            self.announce(number);
        } else {
            self.watch_init()?;
            self.watch_memory(pid);
        }
        self.touch();
        Ok(())
    }

    /// From here on the init's pidfd says when it ends. Also after an upgrade.
    pub(super) fn watch_init(&mut self) -> Result<(), Error> {
        let Some(container) = self.container.as_ref().filter(|container| container.is_adopted)
        else {
            return Ok(());
        };
        Ok(self.poller.add(&container.hold.task().pidfd, Token::Init, Interest::Read)?)
    }

    /// The adopted init has ended, says its pidfd.
    pub(crate) fn on_init(&mut self) {
        if let Some(container) = &self.container {
            self.poller.remove(&container.hold.task().pidfd);
        }
        self.init_gone_until = Some(clock::now() + PATIENCE);
        self.look_at_init();
    }

    /// When to look again.
    pub(crate) fn init_look_at(&self) -> Option<std::time::Instant> {
        self.init_gone_until.map(|_| clock::now() + LOOK)
    }

    /// How it ended is known once its parent has reaped it, or while it is a zombie that we may
    /// look at.
    pub(crate) fn look_at_init(&mut self) {
        let Some(until) = self.init_gone_until else { return };
        let Some(container) = &self.container else { return };
        let task = container.hold.task();
        let number = container.init;
        let pid = u32::try_from(task.pid).unwrap_or(0);
        match pidfd::ending(&task.pidfd, task.pid, task.start_ticks) {
            Told::Ended(ending) => {
                self.init_gone_until = None;
                self.on_end(number, ending);
            }
            Told::NotYet if clock::now() < until => {}
            Told::NotYet | Told::Never => {
                self.init_gone_until = None;
                journal::write(Level::Warn, "exit is not known", &[("pid", &pid)]);
                self.on_unknown_end(number, Exit::unknown(pid, clock::unix_ns()));
            }
        }
    }

    /// Execs of the shim that died: their output was in its memory, so nobody could go on with
    /// them. Known by their parent, which is outside of the container.
    fn end_strangers(&self) {
        let Some(container) = &self.container else { return };
        if !container.has_private_pids {
            return;
        }
        let task = container.hold.task();
        let pids = task.pids().unwrap_or_default();
        for &pid in pids.iter().filter(|&&pid| pid != task.pid) {
            let Some(ticks) = process::start_ticks(pid) else { continue };
            let is_inside = process::parent(pid).is_none_or(|parent| pids.contains(&parent));
            if is_inside {
                continue;
            }
            if let Some(pidfd) = process::open_pidfd(pid, ticks) {
                let _ = process::signal(&pidfd, libc::SIGKILL);
                journal::write(Level::Info, "exec of the dead shim ended", &[("pid", &pid)]);
            }
        }
        if let Err(error) = records::remove_execs(&container.bundle) {
            let error = journal::chain(&error);
            journal::write(Level::Warn, "records of execs are left", &[("error", &error)]);
        }
    }
}

fn ends(pumps: Vec<Pump>, stdin: Option<OwnedFd>, pty: Option<OwnedFd>) -> Ends {
    let is_pty = pty.is_some();
    let pty = pty.map(|master| {
        let peer = pipes::pty_peer(&master);
        Pty::new(master, peer)
    });
    Ends { pumps, input: stdin.map(|target| Input::new(target, is_pty, None)), pty }
}
