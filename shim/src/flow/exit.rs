//! The end of a process: its output first, then its record on disk, then the zombie, then those
//! who wait. In this order, so that whoever dies in between loses nothing.

use std::time::Duration;

use super::event::{self, exec_of};
use super::pump::{Pump, Turn};
use super::records;
use super::shim::{Outcome, Shim};
use crate::logic::exit::{Ending, Exit};
use crate::logic::process::{Event, State};
use crate::sys::journal::{self, Level};
use crate::sys::{clock, process};

/// How long a client's named pipe may hold up the word of an exit.
const SINK_GRACE: Duration = Duration::from_secs(1);
/// How long processes that were killed with the init may take to end.
const KILL_GRACE: Duration = Duration::from_millis(500);

impl Shim {
    /// Some child has ended: ours by start or by adoption.
    pub(crate) fn on_children(&mut self) {
        while let Some(ended) = process::peek_ended() {
            let known = self
                .processes
                .values()
                .find(|process| process.pid == ended.pid && process.state.is_alive())
                .map(|process| process.number);
            match known {
                Some(number) => self.on_end(number, ended.ending),
                // An orphan of the container.
                None => process::reap(ended.pid),
            }
        }
    }

    /// A process has ended and is a zombie still.
    pub(crate) fn on_end(&mut self, number: u32, ending: Ending) {
        let is_init = self.container.as_ref().is_some_and(|container| container.init == number);
        if is_init {
            self.end_others();
        }
        self.run_pumps(number, Turn::Drain, |_| true);
        let Some(process) = self.processes.get(&number) else { return };
        let (before, pid) = (process.oom_kills_before, u32::try_from(process.pid).unwrap_or(0));
        let oom_kills = self.oom_kills();
        if self.has_followers {
            self.on_memory();
        }
        let killed = ending == Ending::Signal(libc::SIGKILL);
        let oom_killed = oom_kills > before && (is_init || killed);
        let exit = Exit::new(pid, ending, oom_killed, clock::unix_ns());
        self.record(number, exit);
        process::reap(i32::try_from(pid).unwrap_or(0));
        self.settle(number);
        self.is_kept_stale |= is_init;
    }

    /// The init has ended unseen.
    pub(super) fn on_unknown_end(&mut self, number: u32, exit: Exit) {
        self.end_others();
        self.run_pumps(number, Turn::Drain, |_| true);
        self.record(number, exit);
        self.settle(number);
        self.is_kept_stale = true;
    }

    /// Writes an exit down. A full disk must not keep it from being told.
    pub(crate) fn record(&mut self, number: u32, exit: Exit) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        process.exit = Some(exit);
        if let Ok(state) = process.state.after(Event::Exited) {
            process.state = state;
        }
        let bundle = self.container.as_ref().map(|container| &container.bundle);
        let bundle = bundle.unwrap_or(&self.identity.bundle);
        if let Err(error) = records::save_exit(bundle, process.exec.as_ref(), &exit) {
            let error = journal::chain(&error);
            journal::write(Level::Error, "exit was not written down", &[("error", &error)]);
        }
        journal::write(
            process.level(),
            "process ended",
            &[
                ("process", &process.name()),
                ("pid", &exit.pid),
                ("code", &exit.exit_code),
                ("signal", &exit.signal),
                ("oom_killed", &exit.oom_killed),
            ],
        );
    }

    /// The streams of a process that is gone; then the word to those who wait, or a deadline.
    fn settle(&mut self, number: u32) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        if let Some(input) = &mut process.ends.input {
            let failed = input.fail();
            input.arm(number, &self.poller);
            self.completions.extend(
                failed.into_iter().map(|(ticket, result)| (ticket, result.map(|()| Outcome::Done))),
            );
        }
        process.ends.pty = None;
        process.pidfd = None;
        let is_behind = process.ends.pumps.iter().any(Pump::is_behind);
        if is_behind {
            process.announce_by = Some(clock::now() + SINK_GRACE);
        } else {
            self.announce(number);
        }
    }

    /// Tells an exit to all who wait for it and lets go of the streams.
    pub(crate) fn announce(&mut self, number: u32) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let Some(exit) = process.exit else { return };
        if std::mem::replace(&mut process.is_announced, true) {
            return;
        }
        for pump in &mut process.ends.pumps {
            pump.end(&self.poller);
        }
        for ticket in std::mem::take(&mut process.waiters) {
            self.completions.push((ticket, Ok(Outcome::Exited(exit))));
        }
        let exec = exec_of(process);
        if process.was_started {
            self.happened(event::Event::Exited { exec, exit });
        }
        self.answer_readers_of(number);
    }

    /// The init is dead: nothing of the container goes on. With a pid namespace of its own the
    /// kernel has seen to that, and the execs were reaped before the init became a zombie.
    fn end_others(&mut self) {
        let Some(container) = &self.container else { return };
        if !container.has_private_pids
            && let Err(error) = container.hold.task().signal_all(libc::SIGKILL)
        {
            let error = journal::chain(&error);
            journal::write(Level::Warn, "processes may be left", &[("error", &error)]);
        }
        let execs: Vec<(u32, i32)> = self
            .processes
            .values()
            .filter(|process| process.exec.is_some() && process.state == State::Running)
            .map(|process| (process.number, process.pid))
            .collect();
        for (number, pid) in execs {
            let pidfd = self.processes.get(&number).and_then(|process| process.pidfd.as_ref());
            if let Some(pidfd) = pidfd {
                process::wait_end(pidfd, KILL_GRACE);
            }
            if let Some(ended) = process::peek_ended_pid(pid) {
                self.on_end(number, ended.ending);
            }
        }
    }

    /// OOM kills in the container so far.
    pub(crate) fn oom_kills(&self) -> u64 {
        let task = self.container.as_ref().map(|container| container.hold.task());
        task.map_or(0, |task| task.oom_kills().unwrap_or(0))
    }
}
