//! Upgrades of the running supervisor, as callers see them: asked for, told about, remembered. Who
//! does them is the daemon.
//!
//! ```text
//! call ─▶ Upgrades ─▶ queue of one ─▶ daemon: checks, starts the next one, drains, hands over
//!             ▲                         │ progress
//!             └─ resume: how it ended ◀─┘ told to the next supervisor, or to this one when it goes on
//! ```

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use wharf_proto::kind::Kind;

use crate::fault::{Detail, Fault};

/// Steps of one upgrade on their way to whoever asked for it.
const PROGRESS_LEN: usize = 8;

/// Why an upgrade is not begun, or did not happen. The supervisor that was there serves on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One at a time.
    #[error("an upgrade is under way")]
    Busy,
    /// Asked about one that is not known.
    #[error("no upgrade {0:?} is known")]
    Unknown(String),
    /// The one asked about is being handed over at this moment.
    #[error("the upgrade is under way: ask again")]
    UnderWay,
    /// The program can't be used at all.
    #[error("{} can't be the next wharfd: {problem}", path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// It was started and did not get ready; nothing had changed yet.
    #[error("the new wharfd is not ready: {0}")]
    NotReady(String),
    /// It did not come up in its time; the old one took everything back.
    #[error("the new wharfd did not come up, the old one serves on: {0}")]
    TakenBack(String),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Busy => Kind::Conflict,
            Self::Unknown(_) => Kind::NotFound,
            Self::UnderWay => Kind::Unavailable,
            Self::Program { .. } | Self::NotReady(_) | Self::TakenBack(_) => Kind::Precondition,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Busy => "UPGRADE_UNDER_WAY",
            Self::Unknown(_) => "UPGRADE_NOT_FOUND",
            Self::UnderWay => "UPGRADE_HANDING_OVER",
            Self::Program { .. } => "UPGRADE_REFUSED",
            Self::NotReady(_) => "UPGRADE_NOT_READY",
            Self::TakenBack(_) => "UPGRADE_TAKEN_BACK",
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::Program { .. } => Detail::Field("binary".into()),
            Self::Unknown(id) => Detail::Resource { kind: "upgrade", name: id.clone() },
            Self::Busy | Self::UnderWay | Self::NotReady(_) | Self::TakenBack(_) => Detail::None,
        }
    }
}

/// A step of an upgrade.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The program is asked what it is.
    Checking(PathBuf),
    /// It runs, and can take over.
    Ready {
        /// Of the new one.
        pid: u32,
        /// As above.
        version: String,
    },
    /// Calls in flight are finished.
    Draining,
}

/// How an upgrade ended; passed on from process to process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Given by whoever asked for it; empty for a signal.
    pub id: String,
    /// Of the one that was there before.
    pub old_pid: u32,
    /// As above.
    pub old_version: String,
    /// Why it did not happen.
    pub failure: Option<String>,
}

/// An upgrade that is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// The program; none: where the running one came from.
    pub binary: Option<PathBuf>,
    /// Given by the caller.
    pub id: String,
    /// Told each step, or why there is no next one.
    pub progress: mpsc::Sender<Result<Progress, Error>>,
}

/// Where upgrades are asked for; clones share it.
#[derive(Clone, Debug)]
pub struct Upgrades {
    queue: mpsc::Sender<Wanted>,
    under_way: Arc<Mutex<Option<String>>>,
    last: Arc<Option<Outcome>>,
}

impl Upgrades {
    /// Of a supervisor that came from an upgrade, if `last` says so; and where they are wanted.
    #[must_use]
    pub fn new(last: Option<Outcome>) -> (Self, mpsc::Receiver<Wanted>) {
        let (queue, wanted) = mpsc::channel(1);
        (Self { queue, under_way: Arc::default(), last: Arc::new(last) }, wanted)
    }

    /// Asks for an upgrade; its steps follow, and end with an error or break with the hand-over.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub fn begin(
        &self,
        binary: Option<PathBuf>,
        id: String,
    ) -> Result<mpsc::Receiver<Result<Progress, Error>>, Error> {
        let (progress, steps) = mpsc::channel(PROGRESS_LEN);
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.is_some() {
            return Err(Error::Busy);
        }
        let wanted = Wanted { binary, id: id.clone(), progress };
        self.queue.try_send(wanted).map_err(|_| Error::Busy)?;
        *under_way = Some(id);
        Ok(steps)
    }

    /// One that was not asked for by a call begins; false: another is under way.
    #[must_use]
    pub fn begin_by_signal(&self) -> bool {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let free = under_way.is_none();
        if free {
            *under_way = Some(String::new());
        }
        free
    }

    /// The one under way has failed, and nothing changed.
    pub fn failed(&self) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How the upgrade `id` ended.
    ///
    /// # Errors
    /// How it failed; [`Error::Unknown`], [`Error::UnderWay`].
    pub fn outcome(&self, id: &str) -> Result<Outcome, Error> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if !id.is_empty() && under_way.as_deref() == Some(id) {
            return Err(Error::UnderWay);
        }
        match self.last.as_ref() {
            Some(last) if !id.is_empty() && last.id == id => match &last.failure {
                None => Ok(last.clone()),
                Some(failure) => Err(Error::TakenBack(failure.clone())),
            },
            _ => Err(Error::Unknown(id.into())),
        }
    }
}

/// Says to whoever serves a call that the supervisor is about to hand over; clones share it.
#[derive(Clone, Debug)]
pub struct Drain {
    begun: watch::Receiver<bool>,
    /// Calls that better end before it begins.
    lasting: Arc<watch::Sender<usize>>,
}

/// The one who says it.
#[derive(Debug)]
pub struct DrainSwitch(watch::Sender<bool>);

/// A call that the hand-over waits for, up to a limit.
#[derive(Debug)]
pub struct Lasting(Arc<watch::Sender<usize>>);

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl DrainSwitch {
    /// From now on calls that may be asked again are, and streams end.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Both sides of it.
    #[must_use]
    pub fn new() -> (DrainSwitch, Self) {
        let (switch, begun) = watch::channel(false);
        (DrainSwitch(switch), Self { begun, lasting: Arc::new(watch::Sender::new(0)) })
    }

    /// Waits until it begins; for ever if it never does.
    pub async fn begun(mut self) {
        if self.begun.wait_for(|begun| *begun).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// A call that can't be taken up by another supervisor, for as long as the answer lives.
    #[must_use]
    pub fn lasting(&self) -> Lasting {
        self.lasting.send_modify(|count| *count += 1);
        Lasting(Arc::clone(&self.lasting))
    }

    /// Waits until there is no such call.
    pub async fn quiet(&self) {
        let mut lasting = self.lasting.subscribe();
        // The sender is ours.
        let _ = lasting.wait_for(|count| *count == 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Outcome, Upgrades};

    #[test]
    fn one_at_a_time_and_asked_about_after() {
        let (upgrades, mut wanted) = Upgrades::new(None);
        let steps = upgrades.begin(None, "a".into()).expect("free");
        assert!(matches!(upgrades.begin(None, "b".into()), Err(Error::Busy)));
        assert!(!upgrades.begin_by_signal());
        assert!(matches!(upgrades.outcome("a"), Err(Error::UnderWay)));
        assert_eq!(wanted.try_recv().expect("queued").id, "a");
        upgrades.failed();
        drop(steps);
        assert!(upgrades.begin_by_signal());
        assert!(matches!(upgrades.outcome(""), Err(Error::Unknown(_))));
    }

    #[test]
    fn the_next_one_knows_how_it_ended() {
        let done = Outcome { id: "a".into(), old_pid: 1, old_version: "0".into(), failure: None };
        let (next, _queue) = Upgrades::new(Some(done.clone()));
        assert_eq!(next.outcome("a").expect("known"), done);
        assert!(matches!(next.outcome("b"), Err(Error::Unknown(_))));
        let failed = Outcome { failure: Some("it hung".into()), ..done };
        let (old, _queue) = Upgrades::new(Some(failed));
        assert!(matches!(old.outcome("a"), Err(Error::TakenBack(_))));
    }
}
