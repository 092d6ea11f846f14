//! After a restart, and when a shim goes away: what the record says is held against what is there.

use std::sync::Arc;

use super::{
    Driver, Shim, ShimError, State,
    end::{end_of, lost},
};
use crate::{
    fault,
    services::{
        containers::{
            exec,
            machine::{self, End},
        },
        events::now_unix_ns,
    },
    store::Durability,
};

impl Driver {
    /// Takes up what the record says was going on when the supervisor ended.
    pub(super) async fn recover(&mut self) {
        // Its end was written down, and the supervisor died before it had cleaned up after it.
        if !self.record.state.is_live() && self.bundle().exists() {
            self.clean_up_shim().await;
        }
        match self.record.state.clone() {
            State::Created => {}
            State::Stopped { .. } => {
                exec::take_up(&self.tools, &Arc::new(self.record.clone()), None).await;
                self.take_up_stopped().await;
            }
            State::Removing { .. } => {
                if let Err(error) = self.finish_removal().await {
                    tracing::warn!(
                        container = self.record.id.short(),
                        error = fault::chain(&error),
                        "removal is not finished"
                    );
                }
            }
            State::Starting { .. } => {
                match self.tools.requests.that_was_starting(&self.record.id) {
                    Some(ticket) => ticket.scope(self.recover_start()).await,
                    None => self.recover_start().await,
                }
            }
            State::Running(run) | State::Paused(run) | State::Unreachable(run) => {
                if run.boot_id == self.tools.boot_id {
                    self.reconnect(run.number).await;
                } else {
                    let message = "the host was restarted while it ran";
                    self.commit_end(lost(message)).await;
                    self.clean_bundle().await;
                }
            }
        }
        self.remove_if_asked();
    }

    /// A start that was decided and never acknowledged: finished if its process runs, undone
    /// otherwise.
    pub(super) async fn recover_start(&mut self) {
        let bundle = self.bundle();
        let number = self.record.state.number();
        if let Ok(shim) = self.tools.launcher.connect(&bundle, &self.record.id).await {
            let state = shim.state().await;
            if let Ok(state) = state
                && state.status() == wharf_proto::task::Status::Running
            {
                self.watch_exit(&shim, number);
                if self.commit_started(state.pid).await.is_ok() {
                    self.shim.send_replace(Some(shim));
                }
                return;
            }
        }
        let end = bundle
            .exit_record()
            .map_or_else(|| End::interrupted(now_unix_ns()), |record| end_of(&record));
        self.clean_up_shim().await;
        self.commit_end(end).await;
    }

    /// Finds the shim of a container that ran, or what it left.
    pub(super) async fn reconnect(&mut self, number: u64) {
        let bundle = self.bundle();
        match self.tools.launcher.connect(&bundle, &self.record.id).await {
            Ok(shim) => self.taken_over(&shim, number).await,
            Err(error) => self.shim_gone(number, &error).await,
        }
    }

    /// Nobody answers for a container that runs: it has ended and been written down, or its shim
    /// has died under it.
    pub(super) async fn shim_gone(&mut self, number: u64, error: &ShimError) {
        self.shim.send_replace(None);
        if let Some(record) = self.bundle().exit_record() {
            self.commit_end(end_of(&record)).await;
            self.clean_up_shim().await;
            return;
        }
        tracing::warn!(
            container = self.record.id.short(),
            error = fault::chain(error),
            "shim is gone"
        );
        if !self.bundle().exists() {
            // Nothing runs without: the record is of an older day, from a backup.
            self.commit_end(lost("nothing is left of it")).await;
            return;
        }
        if self.bundle().is_foreign() {
            // Nobody can go on with it: as with containerd, the container ends with its shim.
            self.clean_up_shim().await;
            self.commit_end(lost("its shim died")).await;
            return;
        }
        self.change_state(machine::Event::ShimLost, &[], Durability::Process).await;
        self.adopt(number).await;
    }

    /// Takes up the execs that the supervisor before this one had started.
    pub(super) fn watch_execs(&self, shim: &Shim) {
        let (tools, shim) = (Arc::clone(&self.tools), shim.clone());
        let record = Arc::new(self.record.clone());
        // Ends with the shim's answers.
        tokio::spawn(async move { exec::take_up(&tools, &record, Some(&shim)).await });
    }

    /// The connection broke; the shim may be there all the same.
    pub(super) async fn lost_connection(&mut self, number: u64, error: &ShimError) {
        let bundle = self.bundle();
        match self.tools.launcher.connect(&bundle, &self.record.id).await {
            Ok(shim) => {
                self.watch_exit(&shim, number);
                self.watch_execs(&shim);
                self.keep(&shim, std::time::Duration::ZERO);
                self.shim.send_replace(Some(shim));
            }
            Err(_) => self.shim_gone(number, error).await,
        }
    }
}
