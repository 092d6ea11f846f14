//! The journal: what happened, numbered, kept, and told in order with no gap.
//!
//! An event is appended by the commit that makes it true, so it can neither be lost nor told of
//! something that was not kept. Subscribers replay from the store, then follow a broadcast; one that
//! falls behind the broadcast goes back to the store, and nobody waits for it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use wharf_proto::kind::Kind;

use crate::{
    fault::{Detail, Fault},
    ids::Namespace,
    store::{Durability, Error, Ops, Record, Store},
};

/// Events kept.
const KEPT: u64 = 100_000;
/// How long the others are kept, by the wall clock.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// So many are kept however old they look: a clock that was set forward makes all look old.
const KEPT_AT_LEAST: u64 = 10_000;
/// How often older ones are removed.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// Events removed by one commit.
const TRIM_BATCH: usize = 1000;

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

/// Which events are wanted.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this namespace.
    pub namespace: Option<Namespace>,
    /// Topics or their beginnings; none: all.
    pub topics: Vec<String>,
    /// Of a container or image; none: all.
    pub id: Option<String>,
}

impl Filter {
    fn lets(&self, event: &Event) -> bool {
        let topic = |t: &String| {
            event.topic.strip_prefix(t.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('.'))
        };
        self.namespace.as_ref().is_none_or(|n| *n == event.namespace)
            && (self.topics.is_empty() || self.topics.iter().any(topic))
            && self.id.as_ref().is_none_or(|id| *id == event.id)
    }
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With what happens from now on.
    Now,
    /// With this number.
    Sequence(u64),
    /// With the first event at or after this time, nanoseconds since the epoch.
    Time(i64),
}

/// The journal does not reach back that far.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// Trimmed.
    #[error("the journal begins at event {first}, {asked} is not kept any more: begin there")]
    Trimmed {
        /// As asked.
        asked: u64,
        /// The first that is kept.
        first: u64,
    },
    /// It reads slower than events are trimmed.
    #[error(
        "the subscriber is too slow: it was at event {next}, and the journal begins at {first} by now: \
         go on from there"
    )]
    FellBehind {
        /// The next that it would have got.
        next: u64,
        /// The first that is kept.
        first: u64,
    },
    /// Not written yet.
    #[error("the journal ends at event {last}, {asked} does not exist yet")]
    Future {
        /// As asked.
        asked: u64,
        /// The last there is.
        last: u64,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Fault for SubscribeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Trimmed { .. } | Self::Future { .. } => Kind::OutOfRange,
            Self::FellBehind { .. } => Kind::Exhausted,
            Self::Store(e) => e.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Trimmed { .. } => "JOURNAL_TRIMMED",
            Self::FellBehind { .. } => "SUBSCRIBER_TOO_SLOW",
            Self::Future { .. } => "JOURNAL_NOT_THERE_YET",
            Self::Store(e) => e.reason(),
        }
    }

    fn detail(&self) -> Detail {
        Detail::Field("from_sequence".into())
    }
}

/// One subscriber: replays what is kept, then follows.
#[derive(Debug)]
pub struct Subscription {
    store: Store,
    live: broadcast::Receiver<(u64, Event)>,
    filter: Filter,
    /// The next number wanted.
    next: u64,
    /// Numbers up to this one are replayed from the store.
    replay_to: u64,
    /// `next` is a number of the journal's, not just its beginning.
    has_number: bool,
    since_unix_ns: i64,
}

/// Events replayed at once.
const REPLAY_BATCH: usize = 256;

impl Events {
    /// Subscribes.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn subscribe(&self, begin: Begin, filter: Filter) -> Result<Subscription, SubscribeError> {
        // Before the end of the journal is looked up: nothing falls between.
        let live = self.live.subscribe();
        let last = self.store.last_sequence::<Event>()?;
        let (next, since_unix_ns) = match begin {
            Begin::Now => (last + 1, i64::MIN),
            Begin::Time(time) => (1, time),
            Begin::Sequence(asked) => {
                let first = self.first()?.unwrap_or(last + 1);
                if asked < first {
                    return Err(SubscribeError::Trimmed { asked, first });
                }
                if asked > last + 1 {
                    return Err(SubscribeError::Future { asked, last });
                }
                (asked, i64::MIN)
            }
        };
        let store = self.store.clone();
        let has_number = !matches!(begin, Begin::Time(_));
        let replay_to = last;
        Ok(Subscription { store, live, filter, next, replay_to, has_number, since_unix_ns })
    }

    /// Keeps the journal bounded, for as long as it is polled.
    pub async fn keep_bounded(self) {
        loop {
            let oldest = now_unix_ns() - i64::try_from(KEPT_FOR.as_nanos()).unwrap_or(i64::MAX);
            let trimmed = async {
                self.trim(KEPT).await?;
                self.trim_older(oldest, KEPT_AT_LEAST).await
            };
            if let Err(error) = trimmed.await {
                tracing::error!(error = crate::fault::chain(&error), "journal is not trimmed");
            }
            tokio::time::sleep(TRIM_EVERY).await;
        }
    }

    /// Removes all but the last `kept` events.
    async fn trim(&self, kept: u64) -> Result<(), Error> {
        let last = self.store.last_sequence::<Event>()?;
        let mut first = self.first()?.unwrap_or(last + 1);
        while first + kept <= last {
            let to = (first + TRIM_BATCH as u64).min(last + 1 - kept);
            let mut ops = Ops::new();
            (first..to).for_each(|sequence| ops.delete::<Event>(&sequence.to_be_bytes()));
            self.store.commit(ops, Durability::Process).await?;
            first = to;
        }
        Ok(())
    }

    /// Removes those at the beginning that are older than `oldest`, but for the last `kept`.
    async fn trim_older(&self, oldest: i64, kept: u64) -> Result<(), Error> {
        let last = self.store.last_sequence::<Event>()?;
        let mut end = self.first()?.unwrap_or(last + 1);
        for item in self.store.all::<Event>()? {
            match item {
                Ok((key, event)) if event.time_unix_ns < oldest => {
                    end = sequence(&key).map_or(end, |number| number + 1);
                    if end.saturating_add(kept) > last {
                        break;
                    }
                }
                Ok(_) => break,
                // Passed over by those who read, too.
                Err(_) => {}
            }
        }
        self.trim(last.saturating_add(1).saturating_sub(end).max(kept)).await
    }

    fn first(&self) -> Result<Option<u64>, Error> {
        first(&self.store)
    }
}

impl Subscription {
    /// The next events, in order; waits for one. An event that can't be read back is passed over and
    /// reported. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`SubscribeError::FellBehind`], or when the store can't be read.
    pub async fn next(&mut self) -> Result<Vec<(u64, Event)>, SubscribeError> {
        loop {
            if self.next <= self.replay_to {
                let batch = self.replay()?;
                if !batch.is_empty() {
                    return Ok(batch);
                }
                continue;
            }
            match self.live.recv().await {
                Ok((sequence, event)) if sequence >= self.next => {
                    self.next = sequence + 1;
                    if self.wants(&event) {
                        return Ok(vec![(sequence, event)]);
                    }
                }
                // Replayed already.
                Ok(_) => {}
                // Too far behind for the broadcast: the store has it all.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.replay_to = self.store.last_sequence::<Event>()?;
                }
                Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    fn replay(&mut self) -> Result<Vec<(u64, Event)>, SubscribeError> {
        let first = first(&self.store).ok().flatten().unwrap_or(self.next);
        if first > self.next && self.has_number {
            return Err(SubscribeError::FellBehind { next: self.next, first });
        }
        self.has_number = true;
        let mut batch = Vec::new();
        let mut seen = 0;
        for item in self.store.from::<Event>(&self.next.to_be_bytes())? {
            seen += 1;
            match item {
                Ok((key, event)) => {
                    let Some(sequence) = sequence(&key) else { continue };
                    if sequence > self.replay_to {
                        break;
                    }
                    self.next = sequence + 1;
                    if self.wants(&event) {
                        batch.push((sequence, event));
                    }
                }
                Err(error) => {
                    tracing::error!(error = crate::fault::chain(&error), "event passed over");
                    self.next += 1;
                }
            }
            if batch.len() == REPLAY_BATCH || seen == 4 * REPLAY_BATCH {
                return Ok(batch);
            }
        }
        self.next = self.next.max(self.replay_to + 1);
        Ok(batch)
    }

    fn wants(&self, event: &Event) -> bool {
        event.time_unix_ns >= self.since_unix_ns && self.filter.lets(event)
    }
}

/// The number of the first event that is kept.
fn first(store: &Store) -> Result<Option<u64>, Error> {
    // One that can't be read is passed over, as when it is replayed.
    Ok(store.all::<Event>()?.flatten().next().and_then(|(key, _)| sequence(&key)))
}

fn sequence(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

/// Nanoseconds since the epoch, by the wall clock.
#[must_use]
pub fn now_unix_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{Begin, Event, Events, Filter, SubscribeError};
    use crate::{
        ids::Namespace,
        store::{Durability, Ops, Store},
    };

    async fn tell(store: &Store, events: &Events, topic: &str) {
        let namespace: Namespace = "default".parse().expect("valid");
        let mut ops = Ops::new();
        events.append(&mut ops, &Event::now(&namespace, topic, "id")).expect("small");
        store.commit(ops, Durability::Process).await.expect("commit");
    }

    #[tokio::test]
    async fn replays_then_follows_with_no_gap_even_when_far_behind() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        let events = Events::new(store.clone());
        for _ in 0..700 {
            tell(&store, &events, "container.start").await;
        }
        let mut all = events.subscribe(Begin::Sequence(1), Filter::default()).expect("kept");
        // More than the broadcast holds, while nobody reads.
        for _ in 0..1500 {
            tell(&store, &events, "container.exit").await;
        }
        let mut got = Vec::new();
        while got.len() < 2200 {
            got.extend(all.next().await.expect("read").into_iter().map(|(n, _)| n));
        }
        assert_eq!(got, (1..=2200).collect::<Vec<u64>>());
    }

    #[tokio::test]
    async fn trimmed_events_are_said_to_be_so() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        let events = Events::new(store.clone());
        for _ in 0..25 {
            tell(&store, &events, "container.start").await;
        }
        events.trim(10).await.expect("commit");
        let error = events.subscribe(Begin::Sequence(15), Filter::default()).expect_err("gone");
        assert!(matches!(error, SubscribeError::Trimmed { asked: 15, first: 16 }), "{error}");
        let mut kept = events.subscribe(Begin::Sequence(16), Filter::default()).expect("kept");
        let got: Vec<u64> = kept.next().await.expect("read").iter().map(|(n, _)| *n).collect();
        assert_eq!(got, (16..=25).collect::<Vec<u64>>());
    }

    #[tokio::test]
    async fn one_that_is_too_slow_is_told_where_it_fell_off() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        let events = Events::new(store.clone());
        for _ in 0..600 {
            tell(&store, &events, "container.start").await;
        }
        let mut slow = events.subscribe(Begin::Sequence(1), Filter::default()).expect("kept");
        let mut since = events.subscribe(Begin::Time(0), Filter::default()).expect("kept");
        let got = slow.next().await.expect("read").last().map(|(number, _)| *number);
        assert_eq!(got, Some(256));
        events.trim(100).await.expect("commit");
        let error = slow.next().await.expect_err("a gap");
        assert!(matches!(error, SubscribeError::FellBehind { next: 257, first: 501 }), "{error}");
        // Who asked for a time gets what is kept.
        let begun = since.next().await.expect("read").first().map(|(number, _)| *number);
        assert_eq!(begun, Some(501));
    }

    #[tokio::test]
    async fn a_clock_that_jumps_takes_no_more_than_the_old() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        let events = Events::new(store.clone());
        let namespace: Namespace = "default".parse().expect("valid");
        // 1 and 2 are old; 5 looks old, as the clock was set back.
        for time in [10, 20, 1000, 2000, 30, 3000] {
            let mut ops = Ops::new();
            let event = Event { time_unix_ns: time, ..Event::now(&namespace, "a.b", "id") };
            events.append(&mut ops, &event).expect("small");
            store.commit(ops, Durability::Process).await.expect("commit");
        }
        let first = |events: &Events| events.first().expect("read").expect("some");
        events.trim_older(100, 6).await.expect("commit");
        assert_eq!(first(&events), 1);
        events.trim_older(100, 2).await.expect("commit");
        assert_eq!(first(&events), 3);
        // Set forward by years: all look old.
        events.trim_older(i64::MAX, 2).await.expect("commit");
        assert_eq!(first(&events), 5);
    }

    #[tokio::test]
    async fn filters_by_whole_words_of_the_topic() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        let events = Events::new(store.clone());
        for topic in ["container.start", "containers.x", "image.pull", "container.exit"] {
            tell(&store, &events, topic).await;
        }
        let filter = Filter { topics: vec!["container".into()], ..Default::default() };
        let mut some = events.subscribe(Begin::Sequence(1), filter).expect("kept");
        let got: Vec<u64> = some.next().await.expect("read").iter().map(|(n, _)| *n).collect();
        assert_eq!(got, [1, 4]);
        let beyond = events.subscribe(Begin::Sequence(6), Filter::default());
        assert!(matches!(beyond, Err(SubscribeError::Future { asked: 6, last: 4 })));
    }
}
