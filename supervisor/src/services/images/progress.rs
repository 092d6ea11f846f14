//! How far a pull or import is. Told, never waited for: who is slow to listen misses some.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::drivers::unpack::Spent;

/// Bytes between two words about one blob.
const STEP_BYTES: u64 = 1 << 20;

/// What is being done to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Asking the registry what a name means.
    Resolving,
    /// Others come first.
    Waiting,
    /// Its bytes are coming, and are unpacked on the way.
    Downloading,
    /// It is unpacked from the content store.
    Unpacking,
    /// It is complete.
    Done,
    /// It was here already.
    Exists,
    /// Its bytes are going to a registry.
    Pushing,
    /// The registry took it from another of its repositories.
    Mounted,
}

/// One word about one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Digest of a blob, or a word.
    pub item: String,
    /// What is being done.
    pub stage: Stage,
    /// Bytes so far.
    pub current_bytes: u64,
    /// Bytes at the end; 0 if not known.
    pub total_bytes: u64,
}

/// Where progress goes, if anyone listens.
#[derive(Clone, Debug, Default)]
pub struct Reporter {
    listener: Option<mpsc::Sender<Progress>>,
    spent: Arc<Mutex<Spent>>,
}

impl Reporter {
    /// To this listener.
    #[must_use]
    pub fn new(listener: mpsc::Sender<Progress>) -> Self {
        Self { listener: Some(listener), spent: Arc::default() }
    }

    /// Where the time has gone so far, of all layers.
    #[must_use]
    pub fn spent(&self) -> Spent {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, spent: Spent) {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner) += spent;
    }

    pub(super) fn tell(&self, item: &str, stage: Stage, current_bytes: u64, total_bytes: u64) {
        if let Some(listener) = &self.listener {
            let item = item.to_owned();
            // Full or gone: the next word or the answer says all that matters.
            let _ = listener.try_send(Progress { item, stage, current_bytes, total_bytes });
        }
    }
}

/// Progress of one item by its bytes.
#[derive(Debug)]
pub(super) struct Meter {
    reporter: Reporter,
    item: String,
    stage: Stage,
    total_bytes: u64,
    current_bytes: u64,
    told_bytes: u64,
}

impl Meter {
    pub(super) fn new(reporter: &Reporter, item: String, stage: Stage, total_bytes: u64) -> Self {
        reporter.tell(&item, stage, 0, total_bytes);
        let reporter = reporter.clone();
        Self { reporter, item, stage, total_bytes, current_bytes: 0, told_bytes: 0 }
    }

    pub(super) fn spend(&self, spent: Spent) {
        self.reporter.add(spent);
    }

    pub(super) fn advance(&mut self, bytes: u64) {
        self.current_bytes += bytes;
        if self.current_bytes - self.told_bytes >= STEP_BYTES {
            self.told_bytes = self.current_bytes;
            self.reporter.tell(&self.item, self.stage, self.current_bytes, self.total_bytes);
        }
    }
}
