//! All containers ended, because the host goes down or a user wants it: in order, within a time.
//!
//! The newest first, since what was started before is what others rely on. The next older one is
//! asked to stop when all newer ones have ended, or when its share of the time has come: half of the
//! budget, divided among all. So one that does not stop holds up nobody for long, a thousand are
//! asked in time, and each has half of the budget at least, if its own timeout lets it. Policies
//! start them again with the next supervisor, as after a boot.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{Containers, Error, ask, driver::Command, machine::State, spec::Signal, table::Handle};

/// Kept of the budget for what must be killed.
const KILL_RESERVE: Duration = Duration::from_secs(2);
/// What is not gone so long after the budget is left.
const GRACE: Duration = Duration::from_secs(5);

/// How a shutdown went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutDown {
    /// Ended, in this order.
    pub stopped: Vec<String>,
    /// Not ended in time.
    pub left: Vec<String>,
}

impl Containers {
    /// Ends all containers of all namespaces; from now on none is started by this supervisor.
    pub async fn shut_down(&self, budget: Duration) -> ShutDown {
        self.tools.ending.store(true, Ordering::SeqCst);
        let mut live = self.tools.table.handles();
        live.retain(|handle| handle.record().state.is_live());
        live.sort_by_key(|handle| std::cmp::Reverse(started(handle)));
        tracing::info!(containers = live.len(), ?budget, "all containers are ended");
        let end = Instant::now() + budget;
        let share = budget / 2 / u32::try_from(live.len().max(1)).unwrap_or(u32::MAX);
        let mut result = ShutDown::default();
        let mut ending = JoinSet::new();
        let mut names: Vec<String> = Vec::new();
        for handle in live {
            names.push(handle.record().name.to_string());
            ending.spawn(self.clone().end_by(handle, end));
            let turn = Instant::now() + share;
            while let Ok(Some(ended)) = timeout_at(turn, ending.join_next()).await {
                result.stopped.extend(ended.expect("ending does not panic"));
            }
        }
        while let Ok(Some(ended)) = timeout_at(end + GRACE, ending.join_next()).await {
            result.stopped.extend(ended.expect("ending does not panic"));
        }
        result.left = names.into_iter().filter(|name| !result.stopped.contains(name)).collect();
        if !result.left.is_empty() {
            tracing::error!(left = result.left.join(" "), "containers have not ended in time");
        }
        result
    }

    /// Ends one; its name, if it has ended.
    async fn end_by(self, handle: Handle, end: Instant) -> Option<String> {
        let record = handle.record();
        let signal = record.spec.stop_signal.unwrap_or(Signal::TERM);
        let own = record.spec.stop_timeout_ms.map(Duration::from_millis);
        let left = end.saturating_duration_since(Instant::now()).saturating_sub(KILL_RESERVE);
        let limit = own.unwrap_or(self.defaults.stop_timeout).min(left);
        match self.end(&handle, signal, limit).await {
            Ok(()) => {
                // Answered, with a refusal, when all is cleaned up after it.
                let _ = ask(&handle, |reply| Command::Resume { reply }).await;
                Some(record.name.to_string())
            }
            Err(error) => {
                let error = crate::fault::chain(&error);
                tracing::warn!(container = record.id.short(), error, "not ended");
                None
            }
        }
    }
}

fn started(handle: &Handle) -> i64 {
    match &handle.record().state {
        State::Running(run) | State::Paused(run) | State::Unreachable(run) => run.started_unix_ns,
        // It is about to be.
        _ => i64::MAX,
    }
}

/// Nothing is started by a supervisor that ends all.
pub(super) fn refusal(name: &crate::ids::ContainerName) -> Error {
    Error::Ending(name.clone())
}
