//! Readiness of a process' streams: which pump or input runs, and what waits for it.

use std::time::Instant;

use super::pump::{Pump, Tools, Turn};
use super::shim::{Outcome, Shim};
use crate::logic::lines::Stream;
use crate::sys::poller::Token;

impl Shim {
    /// A stream's descriptor is ready.
    pub(crate) fn on_ready(&mut self, token: Token) {
        match token {
            Token::Source(number, stream) | Token::Sink(number, stream) => {
                self.run_pump(number, stream);
            }
            Token::Stdin(number) | Token::Feed(number) => self.run_input(number),
            Token::Memory => self.on_memory(),
            Token::Init => self.on_init(),
            Token::Listener | Token::Signals | Token::Connection(_) | Token::Publisher => {}
        }
    }

    fn run_pump(&mut self, number: u32, stream: Stream) {
        let log_was_blocked = self.log_is_blocked();
        self.run_pumps(number, Turn::Share, |pump| pump.stream == stream);
        if self.log_is_blocked() != log_was_blocked {
            // The other stream shares the log.
            self.arm(number);
        }
        self.after_output(number);
    }

    fn log_is_blocked(&self) -> bool {
        self.log.as_ref().is_some_and(super::log::Log::is_blocked)
    }

    /// Runs some pumps of a process and tells the poller what they wait for.
    pub(crate) fn run_pumps(&mut self, number: u32, turn: Turn, which: impl Fn(&Pump) -> bool) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let mut tools =
            Tools { scratch: &mut self.scratch, log: self.log.as_mut(), held: &mut process.output };
        for pump in process.ends.pumps.iter_mut().filter(|pump| which(pump)) {
            pump.run(turn, &mut tools);
            pump.arm(number, &tools, &self.poller);
        }
        self.touch();
    }

    /// Tells the poller what a process' streams wait for.
    pub(crate) fn arm(&mut self, number: u32) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let tools =
            Tools { scratch: &mut self.scratch, log: self.log.as_mut(), held: &mut process.output };
        for pump in &mut process.ends.pumps {
            pump.arm(number, &tools, &self.poller);
        }
        if let Some(input) = &mut process.ends.input {
            input.arm(number, &self.poller);
        }
    }

    /// Output was moved: readers and whoever waits for the end may go on.
    fn after_output(&mut self, number: u32) {
        self.answer_readers_of(number);
        let Some(process) = self.processes.get(&number) else { return };
        if process.exit.is_some() && !process.is_announced {
            let is_behind = process.ends.pumps.iter().any(Pump::is_behind);
            if !is_behind {
                self.announce(number);
            }
        }
    }

    /// Writes what can be written to a process' stdin.
    pub(crate) fn run_input(&mut self, number: u32) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let Some(input) = &mut process.ends.input else { return };
        let was_open = input.kept().is_some();
        let written = input.run(&mut self.scratch);
        input.arm(number, &self.poller);
        self.is_kept_stale |= was_open && input.kept().is_none();
        self.completions.extend(
            written.into_iter().map(|(ticket, result)| (ticket, result.map(|()| Outcome::Done))),
        );
        self.touch();
    }

    /// The disk may have room again.
    pub(crate) fn retry_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        log.retry();
        let numbers: Vec<u32> = self.processes.keys().copied().collect();
        for number in numbers {
            self.arm(number);
        }
    }

    /// Exits whose sinks have had their time.
    pub(crate) fn announce_due(&mut self, now: Instant) {
        let due: Vec<u32> = self
            .processes
            .values()
            .filter(|process| process.announce_at().is_some_and(|at| at <= now))
            .map(|process| process.number)
            .collect();
        for number in due {
            self.announce(number);
        }
    }
}
