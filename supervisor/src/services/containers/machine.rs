//! The one place where a container's state changes. Pure.
//!
//! ```text
//!            start              started                exited
//! Created ──────────▶ Starting ─────────▶ Running ───────────────▶ Stopped
//!    │                   │  ▲                │ ▲                      │  │
//!    │      start failed │  └─── start ──────┼─┼──────────────────────┘  │
//!    │                   ▼                   │ │ shim found              │
//!    │                Stopped      shim lost ▼ │                         │
//!    │                              Unreachable ── exited ──▶ Stopped    │
//!    └──────────────── remove ──▶ Removing ◀──────── remove ─────────────┘
//!
//! Running ── paused ──▶ Paused ── resumed ──▶ Running; a paused one may end, or lose its shim
//! ```

use serde::{Deserialize, Serialize};

/// A start, and what is known of its process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which start; 1 is the first.
    pub number: u64,
    /// On the host.
    pub pid: u32,
    /// Nanoseconds since the epoch.
    pub started_unix_ns: i64,
    /// Boot of the host it belongs to (/proc/sys/kernel/random/boot_id).
    pub boot_id: String,
    /// Where in the log its output begins.
    pub log_start: String,
}

/// How a start ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// As a shell tells it.
    pub exit_code: i32,
    /// 0: none.
    pub signal: i32,
    /// The kernel's OOM killer took a process.
    pub oom_killed: bool,
    /// Which kind of end.
    pub reason: EndReason,
    /// More, for people.
    #[serde(default)]
    pub message: String,
    /// Nanoseconds since the epoch.
    pub finished_unix_ns: i64,
    /// Of a start that was undone because the supervisor ended in the middle of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
}

/// Message of the end of a start that the supervisor's own end undid.
const INTERRUPTED: &str = "the supervisor ended while it was being started";

impl End {
    /// Of a start that was undone because the supervisor ended in the middle of it.
    #[must_use]
    pub fn interrupted(now_unix_ns: i64) -> Self {
        Self {
            exit_code: 1,
            signal: 0,
            oom_killed: false,
            reason: EndReason::StartFailed,
            message: INTERRUPTED.into(),
            finished_unix_ns: now_unix_ns,
            interrupted: true,
        }
    }

    /// Whether it is such an end.
    #[must_use]
    pub fn was_interrupted(&self) -> bool {
        self.interrupted
    }
}

/// Kinds of ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// By itself.
    Exited,
    /// By a signal.
    Signalled,
    /// By the OOM killer.
    Oom,
    /// It never executed.
    StartFailed,
    /// Nobody saw it: the host or the shim died with it.
    Lost,
}

impl EndReason {
    /// As the API and events say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::Oom => "oom",
            Self::StartFailed => "start-failed",
            Self::Lost => "lost",
        }
    }
}

/// Where a container is; what belongs to a state is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Never started.
    Created,
    /// A start was decided; the shim may or may not be there.
    Starting {
        /// Which start.
        number: u64,
        /// Where in the log its output will begin.
        log_start: String,
    },
    /// Its process runs.
    Running(Run),
    /// Its processes are frozen.
    Paused(Run),
    /// It was seen running, and its shim does not answer.
    Unreachable(Run),
    /// Its process has ended.
    Stopped {
        /// The start that ended; its pid is history.
        run: Run,
        /// How.
        end: End,
    },
    /// Its removal was decided.
    Removing {
        /// How its last start ended, for those who still ask.
        last: Option<End>,
    },
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it started.
    Start {
        /// Where in the log its output will begin.
        log_start: String,
    },
    /// Its process was executed.
    Started {
        /// On the host.
        pid: u32,
        /// Nanoseconds since the epoch.
        at_unix_ns: i64,
        /// Of the host.
        boot_id: String,
    },
    /// Its process has ended, or never began.
    Ended(End),
    /// Its processes were frozen.
    Paused,
    /// They go on.
    Resumed,
    /// Its shim does not answer.
    ShimLost,
    /// Its shim answers again, or another took its place.
    ShimFound,
    /// Somebody wants it gone.
    Remove,
}

/// An event that the state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is {state}")]
pub struct Refusal {
    /// The state in the way.
    pub state: &'static str,
}

impl State {
    /// The state as people know it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting { .. } => "starting",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Unreachable(_) => "unknown",
            Self::Stopped { .. } => "stopped",
            Self::Removing { .. } => "being removed",
        }
    }

    /// Number of the latest start; 0 before the first.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self {
            Self::Created | Self::Removing { .. } => 0,
            Self::Starting { number, .. } => *number,
            Self::Running(run)
            | Self::Paused(run)
            | Self::Unreachable(run)
            | Self::Stopped { run, .. } => run.number,
        }
    }

    /// How the last start ended; `None` while one runs and before the first.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        match self {
            Self::Stopped { end, .. } => Some(end),
            Self::Removing { last } => last.as_ref(),
            Self::Created
            | Self::Starting { .. }
            | Self::Running(_)
            | Self::Paused(_)
            | Self::Unreachable(_) => None,
        }
    }

    /// Whether a process of it may be there.
    #[must_use]
    pub fn is_live(&self) -> bool {
        match self {
            Self::Starting { .. } | Self::Running(_) | Self::Paused(_) | Self::Unreachable(_) => {
                true
            }
            Self::Created | Self::Stopped { .. } | Self::Removing { .. } => false,
        }
    }

    /// The start whose process is there, as far as is known.
    #[must_use]
    pub fn current(&self) -> Option<&Run> {
        match self {
            Self::Running(run) | Self::Paused(run) | Self::Unreachable(run) => Some(run),
            Self::Created
            | Self::Starting { .. }
            | Self::Stopped { .. }
            | Self::Removing { .. } => None,
        }
    }

    /// Whether a start was decided, and nothing is known of it yet.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self, Self::Starting { .. })
    }

    /// Whether its process was executed at least once, or its start failed for a reason of its own.
    #[must_use]
    pub fn was_started(&self) -> bool {
        match self {
            Self::Created | Self::Starting { .. } => false,
            Self::Stopped { run, end } => run.number > 1 || !end.was_interrupted(),
            Self::Running(_) | Self::Paused(_) | Self::Unreachable(_) | Self::Removing { .. } => {
                true
            }
        }
    }

    /// The state after an event.
    ///
    /// # Errors
    /// [`Refusal`] when the event is not allowed in this state; the state stays.
    pub fn after(&self, event: Event) -> Result<Self, Refusal> {
        let refusal = Refusal { state: self.name() };
        match (self, event) {
            (Self::Created | Self::Stopped { .. }, Event::Start { log_start }) => {
                Ok(Self::Starting { number: self.number() + 1, log_start })
            }
            (Self::Starting { number, log_start }, Event::Started { pid, at_unix_ns, boot_id }) => {
                Ok(Self::Running(Run {
                    number: *number,
                    pid,
                    started_unix_ns: at_unix_ns,
                    boot_id,
                    log_start: log_start.clone(),
                }))
            }
            (Self::Starting { number, log_start }, Event::Ended(end)) => Ok(Self::Stopped {
                run: Run {
                    number: *number,
                    pid: 0,
                    started_unix_ns: end.finished_unix_ns,
                    boot_id: String::new(),
                    log_start: log_start.clone(),
                },
                end,
            }),
            (
                Self::Running(run) | Self::Paused(run) | Self::Unreachable(run),
                Event::Ended(end),
            ) => Ok(Self::Stopped { run: run.clone(), end }),
            (Self::Running(run) | Self::Paused(run), Event::Paused) => {
                Ok(Self::Paused(run.clone()))
            }
            (Self::Running(run) | Self::Paused(run), Event::Resumed) => {
                Ok(Self::Running(run.clone()))
            }
            (Self::Running(run) | Self::Paused(run), Event::ShimLost) => {
                Ok(Self::Unreachable(run.clone()))
            }
            (Self::Unreachable(run), Event::ShimFound) => Ok(Self::Running(run.clone())),
            (Self::Created, Event::Remove) => Ok(Self::Removing { last: None }),
            (Self::Stopped { end, .. }, Event::Remove) => {
                Ok(Self::Removing { last: Some(end.clone()) })
            }
            (Self::Removing { .. }, Event::Remove) => Ok(self.clone()),
            (
                Self::Created
                | Self::Starting { .. }
                | Self::Running(_)
                | Self::Paused(_)
                | Self::Unreachable(_)
                | Self::Stopped { .. }
                | Self::Removing { .. },
                _,
            ) => Err(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{End, EndReason, Event, Run, State};

    fn run() -> Run {
        Run { number: 3, pid: 42, started_unix_ns: 5, boot_id: "b".into(), log_start: "1:0".into() }
    }

    fn end() -> End {
        End {
            exit_code: 0,
            signal: 0,
            oom_killed: false,
            reason: EndReason::Exited,
            message: String::new(),
            finished_unix_ns: 9,
            interrupted: false,
        }
    }

    fn states() -> Vec<State> {
        vec![
            State::Created,
            State::Starting { number: 3, log_start: "1:0".into() },
            State::Running(run()),
            State::Paused(run()),
            State::Unreachable(run()),
            State::Stopped { run: run(), end: end() },
            State::Removing { last: Some(end()) },
        ]
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Start { log_start: "1:0".into() },
            Event::Started { pid: 42, at_unix_ns: 5, boot_id: "b".into() },
            Event::Ended(end()),
            Event::Paused,
            Event::Resumed,
            Event::ShimLost,
            Event::ShimFound,
            Event::Remove,
        ]
    }

    /// Every (state, event) pair: the name of the state after, or "-" for a refusal.
    #[test]
    fn every_pair() {
        let table = [
            // start       started    ended      paused    resumed    lost       found      remove
            ["starting", "-", "-", "-", "-", "-", "-", "being removed"], // created
            ["-", "running", "stopped", "-", "-", "-", "-", "-"],        // starting
            ["-", "-", "stopped", "paused", "running", "unknown", "-", "-"], // running
            ["-", "-", "stopped", "paused", "running", "unknown", "-", "-"], // paused
            ["-", "-", "stopped", "-", "-", "-", "running", "-"],        // unreachable
            ["starting", "-", "-", "-", "-", "-", "-", "being removed"], // stopped
            ["-", "-", "-", "-", "-", "-", "-", "being removed"],        // removing
        ];
        for (state, row) in states().iter().zip(table) {
            for (event, expected) in events().into_iter().zip(row) {
                let what = format!("{} + {event:?}", state.name());
                let after = state.after(event);
                match &after {
                    Ok(after) => assert_eq!(after.name(), expected, "{what}"),
                    Err(refusal) => {
                        assert_eq!(expected, "-", "{what}");
                        assert_eq!(refusal.state, state.name(), "{what}");
                    }
                }
            }
        }
    }

    proptest! {
        /// Whatever happens: numbers of starts only grow by one, and nothing live is removed.
        #[test]
        fn sequences(picks in proptest::collection::vec(0usize..8, 0..60)) {
            let mut state = State::Created;
            for pick in picks {
                let event = events().swap_remove(pick);
                let Ok(after) = state.after(event) else { continue };
                if matches!(after, State::Removing { .. }) {
                    prop_assert!(!state.is_live());
                    break;
                }
                let started = matches!(after, State::Starting { .. });
                prop_assert_eq!(after.number(), state.number() + u64::from(started));
                state = after;
            }
        }
    }
}
