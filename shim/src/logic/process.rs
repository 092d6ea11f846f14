//! The life of one process of a container: its init or an exec. Pure.
//!
//! ```text
//!            Start            Pause
//! Created ──────────▶ Running ◀────▶ Paused
//!    │  │ StartFailed    │    Resume   │
//!    │  └────────────┐   │ Exited      │ Exited
//!    │ Delete        ▼   ▼             ▼
//!    ▼              Stopped ◀──────────┘
//! Deleted ◀──Delete──┘
//! ```
//! Execs are never paused by themselves: they share the init's cgroup.

use serde::{Deserialize, Serialize};
use wharf_proto::kind::Kind;

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Prepared: an init waits before execve, an exec has not been started.
    Created,
    Running,
    Paused,
    /// Ended; its record waits for `Delete`.
    Stopped,
    /// Nothing is left.
    Deleted,
}

/// What is asked of, or happens to, a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Start,
    /// execve failed: there is no process any more.
    StartFailed,
    /// The kernel says it ended.
    Exited,
    Pause,
    Resume,
    /// A signal is to be sent.
    Kill,
    /// An exec is to be added beside this init.
    Exec,
    Update,
    /// All of the container is to be saved.
    Checkpoint,
    Delete,
}

/// An event that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("process is {}, which does not allow {}", state.name(), event.name())]
pub(crate) struct Refusal {
    pub(crate) state: State,
    pub(crate) event: Event,
}

impl Refusal {
    /// A signal to what has ended is "not found", as containerd's callers expect.
    pub(crate) fn kind(self) -> Kind {
        match (self.state, self.event) {
            (State::Deleted, _) | (State::Stopped, Event::Kill) => Kind::NotFound,
            (
                State::Created | State::Running | State::Paused | State::Stopped,
                Event::Start
                | Event::StartFailed
                | Event::Exited
                | Event::Pause
                | Event::Resume
                | Event::Kill
                | Event::Exec
                | Event::Update
                | Event::Checkpoint
                | Event::Delete,
            ) => Kind::Precondition,
        }
    }
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Deleted => "deleted",
        }
    }

    /// Is there a process in the kernel?
    pub(crate) const fn is_alive(self) -> bool {
        matches!(self, Self::Created | Self::Running | Self::Paused)
    }

    /// The state after the event. A goal that is reached already is granted.
    pub(crate) fn after(self, event: Event) -> Result<Self, Refusal> {
        use State::{Created, Deleted, Paused, Running, Stopped};

        match (self, event) {
            (Created, Event::Start) => Ok(Running),
            (Created, Event::StartFailed) => Ok(Stopped),
            (Created | Running | Paused, Event::Exited) => Ok(Stopped),
            (Running | Paused, Event::Pause) => Ok(Paused),
            (Paused | Running, Event::Resume) => Ok(Running),
            (Created | Running | Paused, Event::Kill | Event::Update) => Ok(self),
            (Created | Running, Event::Exec) => Ok(self),
            (Running | Paused, Event::Checkpoint) => Ok(self),
            (Created | Stopped, Event::Delete) => Ok(Deleted),
            (Created, Event::Pause | Event::Resume | Event::Checkpoint)
            | (Running | Paused, Event::Start | Event::StartFailed | Event::Delete)
            | (Paused, Event::Exec)
            | (
                Stopped,
                Event::Start
                | Event::StartFailed
                | Event::Exited
                | Event::Pause
                | Event::Resume
                | Event::Kill
                | Event::Exec
                | Event::Update
                | Event::Checkpoint,
            )
            | (Deleted, _) => Err(Refusal { state: self, event }),
        }
    }
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::StartFailed => "a failed start",
            Self::Exited => "an exit",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Kill => "kill",
            Self::Exec => "exec",
            Self::Update => "update",
            Self::Checkpoint => "checkpoint",
            Self::Delete => "delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Refusal, State};
    use wharf_proto::kind::Kind;

    const STATES: [State; 5] =
        [State::Created, State::Running, State::Paused, State::Stopped, State::Deleted];
    const EVENTS: [Event; 9] = [
        Event::Start,
        Event::StartFailed,
        Event::Exited,
        Event::Pause,
        Event::Resume,
        Event::Kill,
        Event::Exec,
        Event::Update,
        Event::Delete,
    ];

    /// Rows: states; columns: events in the order above. `-`: refused.
    const TABLE: [&str; 5] = [
        // Start Failed Exited Pause Resume Kill Exec Update Delete
        "R S S - - C C C D", // created
        "- - S P R R R R -", // running
        "- - S P R P - P -", // paused
        "- - - - - - - - D", // stopped
        "- - - - - - - - -", // deleted
    ];

    fn letter(state: State) -> &'static str {
        match state {
            State::Created => "C",
            State::Running => "R",
            State::Paused => "P",
            State::Stopped => "S",
            State::Deleted => "D",
        }
    }

    #[test]
    fn every_pair() {
        for (state, row) in STATES.into_iter().zip(TABLE) {
            for (event, expected) in EVENTS.into_iter().zip(row.split(' ')) {
                let got = state.after(event).map_or("-", letter);
                assert_eq!(got, expected, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn refusals_name_the_state() {
        let refusal = Refusal { state: State::Stopped, event: Event::Pause };
        assert_eq!(refusal.to_string(), "process is stopped, which does not allow pause");
        assert_eq!(refusal.kind(), Kind::Precondition);
        assert_eq!(Refusal { state: State::Stopped, event: Event::Kill }.kind(), Kind::NotFound);
    }

    #[test]
    fn deleted_is_final_whatever_comes() {
        for event in EVENTS {
            assert!(State::Deleted.after(event).is_err());
        }
    }
}
