//! The end of a start: written down, told, cleaned up after.

use std::time::Duration;

use tokio::sync::oneshot;
use wharf_proto::shim::ExitRecord;

use super::{Command, Driver, ShimError, State};
use crate::{
    fault, faultpoint,
    services::{
        containers::machine::{self, End, EndReason},
        events::now_unix_ns,
    },
    store::Durability,
};

/// How long a container that removes itself waits for clients that are attached.
const DETACH_LIMIT: Duration = Duration::from_secs(10);
/// How long it waits for clients to come back after a restart of the supervisor.
const RETURN_GRACE: Duration = Duration::from_secs(5);
/// How long it waits for whoever was starting it to ask again, when that was undone.
const RETRY_GRACE: Duration = Duration::from_secs(60);

impl Driver {
    pub(super) async fn ended(&mut self, number: u64, result: Result<ExitRecord, ShimError>) {
        let current = self.record.state.current().is_some_and(|run| run.number == number);
        if !current {
            // Of a start that failed and was cleaned up after.
            return;
        }
        faultpoint::reach("exit.seen").await;
        match result {
            Ok(record) => {
                self.commit_end(end_of(&record)).await;
                faultpoint::reach("exit.committed").await;
                self.clean_up_shim().await;
            }
            Err(error) => self.lost_connection(number, &error).await,
        }
        self.remove_if_asked();
    }

    /// Puts the removal of a container that has stopped and was to be removed then into the queue,
    /// once those who are attached have read everything.
    pub(super) fn remove_if_asked(&self) {
        let stopped = matches!(self.record.state, State::Stopped { .. });
        if !stopped || !self.record.spec.auto_remove || self.restarting {
            return;
        }
        // Whoever was attached to the supervisor before this one comes back within that time.
        let interrupted = self.record.state.end().is_some_and(End::was_interrupted);
        let most = if interrupted { RETRY_GRACE } else { RETURN_GRACE };
        let grace = self.taken_up.map_or(Duration::ZERO, |at| most.saturating_sub(at.elapsed()));
        let (queue, mut attached) = (self.own_queue.clone(), self.attached.subscribe());
        // Ends within RETRY_GRACE and DETACH_LIMIT.
        tokio::spawn(async move {
            tokio::time::sleep(grace).await;
            let alone = attached.wait_for(|count| *count == 0);
            // Who reads slower than that finds the container gone.
            let _ = tokio::time::timeout(DETACH_LIMIT, alone).await;
            let Some(queue) = queue.upgrade() else { return };
            let (reply, _) = oneshot::channel();
            let _ = queue.send(Command::Remove { volumes: true, reply }).await;
        });
    }

    /// Commits the end of the current start and tells it.
    pub(super) async fn commit_end(&mut self, end: End) {
        let event = self
            .event("container.exit")
            .with("exitCode", end.exit_code)
            .with("signal", end.signal)
            .with("oomKilled", end.oom_killed)
            .with("reason", end.reason.as_str());
        let mut events = Vec::new();
        if end.oom_killed {
            events.push(self.event("container.oom"));
        }
        events.push(event);
        let again = self.decide_again(&end);
        let delay = again.map(|(delay, event)| {
            events.push(event);
            delay
        });
        let code = end.exit_code;
        self.successor.let_go();
        self.end_health();
        self.change_state(machine::Event::Ended(end), &events, Durability::Power).await;
        self.shim.send_replace(None);
        tracing::info!(container = self.record.id.short(), exit_code = code, "stopped");
        if let Some(delay) = delay {
            self.start_after(delay);
        }
    }

    /// The shim is ended, the cgroup removed, the bundle with it.
    pub(super) async fn clean_up_shim(&mut self) {
        let shim = self.shim.send_replace(None);
        let shim = match shim {
            Some(shim) => Ok(shim),
            None => self.tools.launcher.connect(&self.bundle(), &self.record.id).await,
        };
        let ended = match shim {
            Ok(shim) => {
                let deleted = shim.delete("").await;
                faultpoint::reach("exit.task.deleted").await;
                shim.shutdown().await.and(deleted)
            }
            Err(error) => Err(error),
        };
        if ended.is_err() && self.bundle().exists() {
            let cleaned = self
                .tools
                .launcher
                .clean_up(&self.bundle(), &self.record.namespace, &self.record.id)
                .await;
            if let Err(error) = cleaned {
                tracing::warn!(
                    container = self.record.id.short(),
                    error = fault::chain(&error),
                    "shim left something behind"
                );
            }
        }
        faultpoint::reach("exit.shim.ended").await;
        self.clean_bundle().await;
        faultpoint::reach("exit.bundle.removed").await;
    }

    pub(super) async fn clean_bundle(&self) {
        let bundle = self.bundle();
        let removed = tokio::task::spawn_blocking(move || bundle.remove()).await;
        if let Err(error) = removed.expect("removal does not panic") {
            tracing::warn!(
                container = self.record.id.short(),
                error = fault::chain(&error),
                "bundle is left"
            );
        }
    }
}

pub(in crate::services::containers) fn end_of(record: &ExitRecord) -> End {
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let reason = match record {
        ExitRecord { unknown: true, .. } => EndReason::Lost,
        ExitRecord { oom_killed: true, signal, .. } if *signal != 0 => EndReason::Oom,
        ExitRecord { signal: 0, .. } => EndReason::Exited,
        ExitRecord { .. } => EndReason::Signalled,
    };
    End {
        exit_code: number(record.exit_code),
        signal: number(record.signal),
        oom_killed: record.oom_killed,
        reason,
        message: if record.unknown {
            "it ended while its shim was dead, and the kernel does not tell how".into()
        } else {
            String::new()
        },
        finished_unix_ns: record.exited_at_unix_ns,
        interrupted: false,
    }
}

pub(super) fn failed(exit_code: i32, message: &str) -> End {
    End {
        exit_code,
        signal: 0,
        oom_killed: false,
        reason: EndReason::StartFailed,
        message: message.into(),
        finished_unix_ns: now_unix_ns(),
        interrupted: false,
    }
}

pub(super) fn lost(message: &str) -> End {
    End {
        exit_code: 137,
        signal: libc::SIGKILL,
        oom_killed: false,
        reason: EndReason::Lost,
        message: message.into(),
        finished_unix_ns: now_unix_ns(),
        interrupted: false,
    }
}
