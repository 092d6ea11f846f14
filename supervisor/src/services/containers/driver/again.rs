//! Started again by the policy: when an end or a boot asks for it. The pause is slept by a task of
//! its own, so that a container that waits can be stopped and deleted at once.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Command, Driver, Error, State, View, machine::End};
use crate::{
    drivers::host,
    fault,
    services::{containers::launch::Window, events::Event},
    store::{Durability, Need, Ops},
};

/// Who starts a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A caller.
    User,
    /// Its restart policy.
    Policy,
}

impl Driver {
    /// It is ending: what its policy says of that, in the record that is about to be committed.
    pub(super) fn decide_again(&mut self, end: &End) -> Option<(Duration, Event)> {
        if self.restarting {
            return None;
        }
        if self.tools.ending.load(Ordering::SeqCst) {
            self.record.restarts.suspend(self.record.spec.restart);
            return None;
        }
        let same_boot =
            self.record.state.current().is_some_and(|r| r.boot_id == self.tools.boot_id);
        let since = Duration::from_millis(self.record.restarts.started_uptime_ms);
        let ran = if same_boot { host::uptime().saturating_sub(since) } else { Duration::ZERO };
        let policy = self.record.spec.restart;
        let delay = self.record.restarts.ended(policy, end.exit_code, ran)?;
        let event = self
            .event("container.restarting")
            .with("restartCount", self.record.restarts.count)
            .with("delayMs", delay.as_millis());
        Some((delay, event))
    }

    /// Puts the start into the queue after the pause.
    pub(super) fn start_after(&self, delay: Duration) {
        let queue = self.own_queue.clone();
        let number = self.record.state.number();
        let turns = Arc::clone(&self.tools.restart_turns);
        // Ends after the pause, and its turn among all that start.
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let Ok(turn) = turns.acquire_owned().await else { return };
            if let Some(queue) = queue.upgrade() {
                let _ = queue.send(Command::Again { number, turn }).await;
            }
        });
    }

    /// The pause is over, unless somebody did something meanwhile.
    pub(super) async fn again(&mut self, number: u64) {
        let waits = self.record.restarts.waiting
            && matches!(self.record.state, State::Stopped { .. })
            && self.record.state.number() == number;
        if !waits || self.tools.ending.load(Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.start(Window::default(), By::Policy).await {
            let error = fault::chain(&error);
            tracing::warn!(container = self.record.id.short(), error, "not started again");
        }
        // Not even begun, as when the log can't be opened: it waits for its next turn.
        if self.record.restarts.waiting && self.record.state.number() == number {
            let delay = Duration::from_millis(self.record.restarts.delay_ms * 2);
            let delay = delay.clamp(Duration::from_secs(1), Duration::from_secs(60));
            self.record.restarts.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(60_000);
            self.start_after(delay);
        }
    }

    /// A user wants it down. That is kept before anything is sent to it.
    pub(super) async fn put_down(&mut self) -> Result<(), Error> {
        let before = self.record.restarts.clone();
        if self.restarting {
            self.record.restarts.waiting = false;
        } else {
            self.record.restarts.put_down(&self.tools.boot_id);
        }
        // Without a policy it is kept with the end: nobody asks for it before.
        let matters = self.record.spec.restart != super::restart::Policy::No || before.waiting;
        if before == self.record.restarts || !matters {
            return Ok(());
        }
        self.record.revision += 1;
        // Not stamped: what the request asks for is not done with that.
        let mut ops = Ops::new();
        ops.needs(Need::Removal);
        ops.put(self.record.key(), &self.record)?;
        if let Err(error) = self.tools.store.commit(ops, Durability::Power).await {
            return Err(self.as_committed(error.into()));
        }
        self.view.send_replace(View { record: Arc::new(self.record.clone()), gone: false });
        Ok(())
    }

    /// Taken up while it does not run: started, if its policy says so.
    pub(super) async fn take_up_stopped(&mut self) {
        let State::Stopped { run, .. } = &self.record.state else { return };
        let ran_in = run.boot_id.clone();
        let policy = self.record.spec.restart;
        let boot_id = self.tools.boot_id.clone();
        let was_waiting = self.record.restarts.waiting;
        let Some(delay) = self.record.restarts.taken_up(policy, &ran_in, &boot_id) else { return };
        if !was_waiting {
            self.record.revision += 1;
            if let Err(error) = self.commit(&[], Durability::Process).await {
                let error = fault::chain(&error);
                tracing::error!(container = self.record.id.short(), error, "state is not kept");
            }
        }
        self.start_after(delay);
    }
}
