//! A container's health: kept, told, and asked for while it runs.

use std::{sync::Arc, time::Duration};

use super::{Driver, State, View};
use crate::{
    drivers::host,
    fault,
    services::containers::{
        health::{Health, Probed},
        probe::{Asked, Prober, run_for},
        record::Record,
    },
    store::{self, Durability, Need, Ops, Store},
};

/// Probes that came due while no supervisor was there are made within that time.
const SPREAD: Duration = Duration::from_secs(10);

impl store::Record for Health {
    const TREE: &'static str = "health";
}

/// What is kept of the health of a container that is taken up.
pub(super) fn kept(store: &Store, record: &mut Record) {
    let number = record.state.number();
    let checked = record.spec.health.as_ref().is_some_and(|check| check.command().is_some());
    if !checked || number == 0 {
        return;
    }
    let found = match store.get::<Health>(record.key()) {
        Ok(found) => found,
        Err(error) => {
            let error = fault::chain(&error);
            tracing::warn!(container = record.id.short(), error, "health is asked for anew");
            None
        }
    };
    let found = found.filter(|health| health.number == number);
    let mut health = found.unwrap_or_else(|| Health::begin(number));
    if !record.state.is_live() {
        health.ended();
    }
    record.health = Some(Arc::new(health));
}

/// Nothing is kept of a container any more.
pub(super) fn forget(ops: &mut Ops, record: &Record) {
    if record.spec.health.is_some() {
        ops.delete::<Health>(record.key());
    }
}

impl Driver {
    /// It has just been started.
    pub(super) fn begin_health(&mut self) {
        let check = self.record.spec.health.as_ref().and_then(|check| check.command());
        let number = self.record.state.number();
        self.record.health = check.map(|_| Arc::new(Health::begin(number)));
    }

    /// It has just ended.
    pub(super) fn end_health(&mut self) {
        if let Some(health) = &mut self.record.health {
            Arc::make_mut(health).ended();
        }
    }

    /// Sees to it that it is asked how it is exactly while it runs.
    pub(super) fn tend_health(&mut self) {
        let (State::Running(run), Some(health), Some(check)) =
            (&self.record.state, &self.record.health, &self.record.spec.health)
        else {
            self.prober = None;
            return;
        };
        if self.prober.as_ref().is_some_and(|prober| prober.number == run.number) {
            return;
        }
        if self.shim.borrow().is_none() {
            return;
        }
        let started = Duration::from_millis(self.record.restarts.started_uptime_ms);
        let mut pause = health.due_in(check, started, host::uptime());
        if pause.is_zero() && self.taken_up.is_some() {
            // All that are overdue would be asked at once.
            let most = check.pause(health.status, Duration::MAX).min(SPREAD);
            let part = u32::from_str_radix(&self.record.id.as_str()[..4], 16).unwrap_or(0);
            pause = most.mul_f64(f64::from(part) / 65_536.0);
        }
        let asked = Asked {
            tools: Arc::clone(&self.tools),
            view: self.view.subscribe(),
            shim: self.shim.subscribe(),
            queue: self.own_queue.clone(),
        };
        self.prober = Some(Prober::start(run.number, pause, asked));
    }

    /// A probe has ended. How long until the next, if there is one.
    pub(super) async fn probed(
        &mut self,
        number: u64,
        ran: Duration,
        probed: Probed,
    ) -> Option<Duration> {
        // One that was frozen in the middle of it says nothing by that.
        if !matches!(&self.record.state, State::Running(run) if run.number == number) {
            return None;
        }
        let (health, check) = (self.record.health.as_mut()?, self.record.spec.health.as_ref()?);
        let health = Arc::make_mut(health);
        let changed = health.probed(check, ran, probed);
        health.probed_uptime = Some(host::uptime());
        let (status, streak) = (health.status, health.failing_streak);
        let next = check.pause(status, run_for(&self.record));
        let event = changed
            .then(|| self.event("container.health_status").with("healthStatus", status.as_str()));
        let written = async {
            let mut ops = Ops::new();
            ops.needs(Need::Removal);
            ops.put(self.record.key(), &**self.record.health.as_ref().expect("just probed"))?;
            if let Some(event) = &event {
                self.tools.events.append(&mut ops, event)?;
            }
            // The power takes the container with it.
            self.tools.store.commit(ops, Durability::Process).await
        };
        if let Err(error) = written.await {
            let error = fault::chain(&error);
            tracing::warn!(container = self.record.id.short(), error, "health is not kept");
        }
        self.view.send_replace(View { record: Arc::new(self.record.clone()), gone: false });
        if changed {
            let status = status.as_str();
            tracing::info!(container = self.record.id.short(), status, streak, "health");
        }
        Some(next)
    }
}
