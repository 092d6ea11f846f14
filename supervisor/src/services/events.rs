//! The journal: what happened, numbered, kept, and told in order with no gap.
//!
//! An event is appended by the commit that makes it true, so it can neither be lost nor told of
//! something that was not kept. Subscribers replay from the store, then follow a broadcast; one that
//! falls behind the broadcast goes back to the store, and nobody waits for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{
    ids::Namespace,
    store::{Error, Ops, Record, Store},
};

/// Events held for subscribers that are a little behind.
const BROADCAST_LEN: usize = 1024;

/// One event, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since the epoch.
    pub time_unix_ns: i64,
    /// Where it happened.
    pub namespace: Namespace,
    /// "container.start", "image.pull", …
    pub topic: String,
    /// Of the container or image.
    pub id: String,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

impl Record for Event {
    const TREE: &'static str = "events";
}

impl Event {
    /// An event of this moment.
    #[must_use]
    pub fn now(namespace: &Namespace, topic: &str, id: &str) -> Self {
        Self {
            time_unix_ns: now_unix_ns(),
            namespace: namespace.clone(),
            topic: topic.into(),
            id: id.into(),
            attributes: BTreeMap::new(),
        }
    }

    /// With one more attribute.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.attributes.insert(key.into(), value.to_string());
        self
    }
}

/// The journal.
#[derive(Clone, Debug)]
pub struct Events {
    store: Store,
    live: broadcast::Sender<(u64, Event)>,
}

impl Events {
    /// The journal in `store`. Once a store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let (live, _) = broadcast::channel(BROADCAST_LEN);
        let sender = live.clone();
        store.observe_appends(move |appended| {
            if appended.tree != Event::TREE {
                return;
            }
            match serde_json::from_slice(&appended.value) {
                // No subscriber is no error.
                Ok(event) => drop(sender.send((appended.sequence, event))),
                Err(error) => tracing::error!(%error, "event can't be read back"),
            }
        });
        Self { store, live }
    }

    /// Adds an event to a commit.
    ///
    /// # Errors
    /// When it is too large.
    pub fn append(&self, ops: &mut Ops, event: &Event) -> Result<(), Error> {
        ops.append(event)
    }
}

/// Nanoseconds since the epoch, by the wall clock.
#[must_use]
pub fn now_unix_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
