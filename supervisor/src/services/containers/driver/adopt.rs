//! A shim that was killed under a container that runs: another one goes on with it.
//!
//! ```text
//! connection closed ─▶ connect once more ─ ok ──────────────▶ as before
//!                              │ refused
//!                              ▼
//!     exit record there? ─ yes ▶ ended ─ no ▶ Unreachable ─ adopt ─▶ Running, Paused or ended
//!                                                  ▲          │ failed
//!                                                  └─ later ──┘
//! ```

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;

use super::{Command, Driver, Shim, State};
use crate::{
    drivers::shims::{Death, Keeper},
    fault, faultpoint,
    services::containers::{commit, launch, machine},
    store::Durability,
};

/// After a start: what ends sooner needs no successor of its shim.
pub(super) const KEEP_AFTER: Duration = Duration::from_millis(20);
/// How long a shim whose connections are closed may take to be gone.
const DYING: Duration = Duration::from_secs(2);
/// Between attempts to adopt: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is kept of a container's shim for the case of its death; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Successor {
    keeper: Keeper,
    death: Arc<Mutex<Option<Death>>>,
    failures: u32,
}

impl Successor {
    /// Nothing is needed any more.
    pub(super) fn let_go(&self) {
        self.keeper.let_go();
        if let Ok(mut death) = self.death.try_lock() {
            death.take();
        }
    }
}

impl Driver {
    /// Keeps what this shim gives for its successor, in a task of its own.
    pub(super) fn keep(&self, shim: &Shim, after: Duration) {
        if shim.is_foreign() {
            return;
        }
        let (keeper, death) = (self.successor.keeper.clone(), Arc::clone(&self.successor.death));
        let (shim, socket) = (shim.clone(), self.bundle().socket());
        let (id, view) = (self.record.id.clone(), self.view.subscribe());
        let number = self.record.state.number();
        // Ends with the shim's connection.
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let over = |state: &State| !state.is_live() || state.number() != number;
            if over(&view.borrow().record.state) {
                return;
            }
            let watch = async {
                match shim.death().await {
                    Ok(found) => *death.lock().await = Some(found),
                    Err(error) => {
                        let error = fault::chain(&error);
                        tracing::debug!(container = id.short(), error, "shim is not watched");
                    }
                }
                drop(shim);
            };
            let (kept, ()) = tokio::join!(keeper.keep(&socket), watch);
            if let Err(error) = kept {
                tracing::debug!(container = id.short(), %error, "nothing more is kept");
            }
            // Put down after the end was taken up.
            if over(&view.borrow().record.state) {
                keeper.let_go();
            }
        });
    }

    /// Starts a shim that takes the place of a dead one, or tries again later.
    pub(super) async fn adopt(&mut self, number: u64) {
        let wanted = self.record.state.current().is_some_and(|run| run.number == number);
        if !wanted || self.shim.borrow().is_some() {
            return;
        }
        if let Some(death) = self.successor.death.lock().await.take() {
            let sure = tokio::task::spawn_blocking(move || death.make_sure(DYING)).await;
            if let Err(error) = sure.expect("waiting does not panic") {
                tracing::warn!(container = self.record.id.short(), %error, "shim does not die");
            }
        }
        faultpoint::reach("adopt.intended").await;
        let kept = self.successor.keeper.newest();
        let with_pipes = kept.is_some();
        let (namespace, id) = (self.record.namespace.clone(), self.record.id.clone());
        let bundle = self.bundle();
        match self.tools.launcher.adopt(&bundle, &namespace, &id, kept).await {
            Ok(shim) => {
                faultpoint::reach("adopt.spawned").await;
                self.successor.failures = 0;
                self.taken_over(&shim, number).await;
                let event = self.event("container.adopt").with("stdio", with_pipes);
                self.tell(event).await;
                tracing::info!(container = id.short(), with_pipes, "another shim goes on");
            }
            Err(error) => {
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << self.successor.failures.min(10))
                    .min(LONGEST_PAUSE);
                self.successor.failures += 1;
                let error = fault::chain(&error);
                tracing::warn!(container = id.short(), error, ?pause, "no shim goes on with it");
                let queue = self.own_queue.clone();
                // Ends after the pause.
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    if let Some(queue) = queue.upgrade() {
                        let _ = queue.send(Command::Adopt { number }).await;
                    }
                });
            }
        }
    }

    /// Goes on with a shim that was found or has just taken over.
    pub(super) async fn taken_over(&mut self, shim: &Shim, number: u64) {
        self.watch_exit(shim, number);
        self.watch_execs(shim);
        // By a commit, of a supervisor or with a shim that has gone since.
        if launch::has_pause_note(&self.bundle()) {
            commit::resume(shim, &self.bundle()).await;
        }
        self.keep(shim, Duration::ZERO);
        self.change_state(machine::Event::ShimFound, &[], Durability::Process).await;
        self.observe_frozen(shim).await;
        self.shim.send_replace(Some(shim.clone()));
    }
}
