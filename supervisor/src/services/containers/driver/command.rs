//! What a container's task is asked to do.

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wharf_proto::shim::ExitRecord;

use crate::{
    drivers::shims::ShimError,
    ids::ContainerName,
    services::{
        containers::{
            Error,
            health::Probed,
            launch::Window,
            restart::Policy,
            spec::{Resources, Signal},
        },
        requests::Ticket,
    },
};

pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What a container's task is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Start it.
    Start {
        /// Of its terminal.
        window: Window,
        /// Answered when it runs.
        reply: Reply<()>,
    },
    /// Send it a signal.
    Kill {
        /// Which.
        signal: Signal,
        /// Answered when it is sent.
        reply: Reply<()>,
    },
    /// Freeze it.
    Pause {
        /// Answered when nothing of it runs.
        reply: Reply<()>,
    },
    /// Let it go on.
    Resume {
        /// Answered when it runs.
        reply: Reply<()>,
    },
    /// It is going to be started again when it has stopped: it must not remove itself.
    Restarting {
        /// Whether that is still so.
        yes: bool,
        /// Answered at once.
        reply: Reply<()>,
    },
    /// Change what may be changed.
    Update {
        /// To what.
        change: Box<Change>,
        /// Answered when it is committed.
        reply: Reply<()>,
    },
    /// Another command, on behalf of a request that has an id.
    Under {
        /// Whose effects are stamped.
        ticket: Ticket,
        /// What is asked for.
        command: Box<Command>,
    },
    /// Remove it.
    Remove {
        /// Its volumes that have no name too.
        volumes: bool,
        /// Answered when nothing of it is left.
        reply: Reply<()>,
    },
    /// A user wants it down: its policy does not start it again.
    PutDown {
        /// Answered when that is kept.
        reply: Reply<()>,
    },
    /// Its policy starts it: the pause is over.
    Again {
        /// The start whose end asked for it.
        number: u64,
        /// Its turn among all that are started so.
        turn: OwnedSemaphorePermit,
    },
    /// Do nothing else for as long as somebody works on the files of a container that does not run.
    KeepStill {
        /// Ends it.
        until: oneshot::Receiver<()>,
        /// Answered when it is so; it runs: an error.
        reply: Reply<()>,
    },
    /// Start a shim in place of one that died.
    Adopt {
        /// Which start.
        number: u64,
    },
    /// From the task that asks it how it is.
    Probed {
        /// Which start was asked.
        number: u64,
        /// For how long it had run then.
        ran: Duration,
        /// What came of it.
        probed: Box<Probed>,
        /// Answered how long until the next; none: there is none.
        reply: oneshot::Sender<Option<Duration>>,
    },
    /// From the task that waits for the exit of a start.
    Ended {
        /// Which start.
        number: u64,
        /// What the shim says, or why it says nothing.
        result: Box<Result<ExitRecord, ShimError>>,
    },
}

/// A change of what may be changed.
#[derive(Debug, Default)]
pub struct Change {
    /// A new name, taken already.
    pub name: Option<ContainerName>,
    /// Replaces all labels.
    pub labels: Option<std::collections::BTreeMap<String, String>>,
    /// Limits that are set replace the old ones.
    pub resources: Option<Resources>,
    /// Another policy.
    pub restart: Option<Policy>,
    /// Refused when the container has another; 0: any.
    pub if_revision: u64,
}
