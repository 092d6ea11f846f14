//! Frozen and going on again. The kernel is the truth: a supervisor that was away asks the shim.

use wharf_proto::task::Status;

use super::{Driver, Error, Shim, State};
use crate::{fault, services::containers::machine, store::Durability};

impl Driver {
    pub(super) async fn pause(&mut self) -> Result<(), Error> {
        if matches!(self.record.state, State::Paused(_)) {
            return Ok(());
        }
        let next = self.next(machine::Event::Paused, "pause")?;
        self.live_shim("pause")?.pause().await.map_err(|source| self.shim_error(source))?;
        self.freeze(next, "container.pause").await
    }

    pub(super) async fn resume(&mut self) -> Result<(), Error> {
        if matches!(self.record.state, State::Running(_)) {
            return Ok(());
        }
        let next = self.next(machine::Event::Resumed, "resume")?;
        self.live_shim("resume")?.resume().await.map_err(|source| self.shim_error(source))?;
        self.freeze(next, "container.unpause").await
    }

    async fn freeze(&mut self, next: State, topic: &str) -> Result<(), Error> {
        self.record.state = next;
        self.record.revision += 1;
        let event = self.event(topic);
        // What is frozen ends with the host.
        self.commit(&[event], Durability::Process).await
    }

    fn live_shim(&self, verb: &'static str) -> Result<Shim, Error> {
        self.shim.borrow().clone().ok_or_else(|| self.wrong_state(verb, ""))
    }

    /// Takes over whether it is frozen: that may have changed while nobody looked, or have been
    /// done and not written down.
    pub(super) async fn observe_frozen(&mut self, shim: &Shim) {
        if self.record.state.current().is_none() {
            return;
        }
        let event = match shim.state().await.map(|state| state.status()) {
            Ok(Status::Paused) if matches!(self.record.state, State::Running(_)) => {
                machine::Event::Paused
            }
            Ok(Status::Running) if matches!(self.record.state, State::Paused(_)) => {
                machine::Event::Resumed
            }
            Ok(_) => return,
            Err(error) => {
                let error = fault::chain(&error);
                tracing::warn!(container = self.record.id.short(), error, "state is not known");
                return;
            }
        };
        self.change_state(event, &[], Durability::Process).await;
    }
}
