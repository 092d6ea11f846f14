//! Requests that are done once, however often they come: request ids and what became of them.
//!
//! Two halves. [`Flights`] is in memory: a request that comes while its twin is at work waits for
//! the twin, one that comes later gets the same answer. A [`Stamp`] is in the store, written by the
//! commit that makes the request's effect true, so that whoever sends the request again after the
//! supervisor was killed in between is not done twice: it is known what was made, and what is
//! missing is finished. A failure leaves no stamp: sent again, the request is tried again, once the
//! answer is forgotten.
//!
//! A request that is at work is the task's own ([`Ticket::scope`]), as its span in a log is: each
//! commit on its way is stamped where it is made ([`stamp`]), whatever lies in between. A command to
//! a container's task takes it along.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use wharf_proto::kind::Kind;

use super::{
    containers::{machine::State, record::Record as Container},
    events::now_unix_ns,
};
use crate::{
    fault::{Detail, Fault},
    ids::{ContainerId, Namespace},
    store::{self, Ops, Record, Store},
};

/// Stamps kept.
const KEPT: usize = 4096;
/// How long they are kept at most, by a clock that nobody sets.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// Answers kept in memory, so that a retry gets the very same bytes.
const ANSWERS: usize = 512;
/// Stamps removed by one commit at most.
const FORGET_AT_ONCE: usize = 8;
/// Characters of an id.
const MAX_ID: usize = 128;

/// What a request has done, kept under "namespace/id".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// Which request it was.
    pub fingerprint: String,
    /// When, in nanoseconds since the epoch.
    pub at_unix_ns: i64,
    /// The container that it was about, as it was then.
    #[serde(default)]
    pub container: Option<Box<Container>>,
}

impl Record for Stamp {
    const TREE: &'static str = "requests";
}

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an id.
    #[error("a request id is 1 to {MAX_ID} visible ASCII characters")]
    Id,
    /// Used before, for something else.
    #[error(
        "request id {0:?} was used for another request before: a new request needs an id of its own"
    )]
    Reused(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Id | Self::Reused(_) => Kind::Invalid,
            Self::Store(e) => e.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Id => "INVALID_REQUEST_ID",
            Self::Reused(_) => "REQUEST_ID_REUSED",
            Self::Store(e) => e.reason(),
        }
    }

    fn detail(&self) -> Detail {
        Detail::Field(wharf_proto::v1::REQUEST_ID_KEY.into())
    }
}

/// When stamps were made, or found by this supervisor, and their keys; the oldest first.
type Order = VecDeque<(Instant, Vec<u8>)>;

/// The stamps; clones share them.
#[derive(Clone, Debug)]
pub struct Requests {
    store: Store,
    /// Keys with their times, the oldest first.
    order: Arc<Mutex<Order>>,
    /// Those that were starting a container when the supervisor before this one ended: the
    /// container's id, key and fingerprint.
    open: Arc<HashMap<ContainerId, (Vec<u8>, String)>>,
}

impl Requests {
    /// The stamps in `store`; one that can't be read is reported and left.
    ///
    /// # Errors
    /// When the store can't be read at all.
    pub fn load(store: Store) -> Result<Self, store::Error> {
        let mut order = Vec::new();
        let mut open = HashMap::new();
        for stamp in store.all::<Stamp>()? {
            match stamp {
                Ok((key, stamp)) => {
                    order.push((stamp.at_unix_ns, key.clone()));
                    if let Some(container) = stamp.container
                        && matches!(container.state, State::Starting { .. })
                    {
                        open.insert(container.id, (key, stamp.fingerprint));
                    }
                }
                Err(error) => {
                    tracing::warn!(error = crate::fault::chain(&error), "request set aside");
                }
            }
        }
        order.sort_unstable();
        let now = Instant::now();
        let order = order.into_iter().map(|(_, key)| (now, key)).collect();
        let order = Arc::new(Mutex::new(order));
        Ok(Self { store, order, open: Arc::new(open) })
    }

    /// The request that was starting a container when the supervisor before this one ended: what is
    /// found of the start is stamped too.
    #[must_use]
    pub fn that_was_starting(&self, container: &ContainerId) -> Option<Ticket> {
        let (key, fingerprint) = self.open.get(container)?.clone();
        Some(Ticket(Arc::new(Inner {
            requests: self.clone(),
            key,
            fingerprint,
            done: None,
            listed: AtomicBool::new(true),
        })))
    }

    /// Takes a request up: what it did before, if it came before, is in the ticket.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ticket(
        &self,
        namespace: &Namespace,
        id: &str,
        fingerprint: &str,
    ) -> Result<Ticket, Error> {
        if id.is_empty() || id.len() > MAX_ID || !id.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Id);
        }
        let key = format!("{namespace}/{id}").into_bytes();
        let done = self.store.get::<Stamp>(&key)?;
        if done.as_ref().is_some_and(|stamp| stamp.fingerprint != fingerprint) {
            return Err(Error::Reused(id.into()));
        }
        let listed = AtomicBool::new(done.is_some());
        Ok(Ticket(Arc::new(Inner {
            requests: self.clone(),
            key,
            fingerprint: fingerprint.into(),
            done,
            listed,
        })))
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

tokio::task_local! {
    static CURRENT: Ticket;
}

/// A request at work; clones are the same request.
#[derive(Clone, Debug)]
pub struct Ticket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: Requests,
    key: Vec<u8>,
    fingerprint: String,
    done: Option<Stamp>,
    /// In the order of stamps.
    listed: AtomicBool,
}

impl Ticket {
    /// Does `work` on behalf of the request.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(self, work).await
    }

    fn stamp(&self, ops: &mut Ops, container: Option<&Container>) -> Result<(), store::Error> {
        let at_unix_ns = now_unix_ns();
        let stamp = Stamp {
            fingerprint: self.0.fingerprint.clone(),
            at_unix_ns,
            container: container.cloned().map(Box::new),
        };
        ops.put(&self.0.key, &stamp)?;
        if self.0.listed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut order = self.0.requests.order();
        order.push_back((Instant::now(), self.0.key.clone()));
        for _ in 0..FORGET_AT_ONCE {
            let too_many = order.len() > KEPT;
            match order.front() {
                Some((at, _)) if too_many || at.elapsed() > KEPT_FOR => {}
                _ => break,
            }
            if let Some((_, key)) = order.pop_front() {
                ops.delete::<Stamp>(&key);
            }
        }
        Ok(())
    }
}

/// The request that the running task works on.
#[must_use]
pub fn current() -> Option<Ticket> {
    CURRENT.try_with(Clone::clone).ok()
}

/// The container that this same request has made or changed before, as it was then.
#[must_use]
pub fn done_before() -> Option<Container> {
    let ticket = current()?;
    let stamp = ticket.0.done.as_ref()?;
    stamp.container.as_deref().cloned()
}

/// Whether this same request was done before.
#[must_use]
pub fn was_done() -> bool {
    current().is_some_and(|ticket| ticket.0.done.is_some())
}

/// Adds to a commit that the running task's request has done what the commit says.
///
/// # Errors
/// When it is too large.
pub fn stamp(ops: &mut Ops, container: Option<&Container>) -> Result<(), store::Error> {
    current().map_or(Ok(()), |ticket| ticket.stamp(ops, container))
}

/// A name for what the running task's request makes in `place`: the same each time it comes.
#[must_use]
pub fn derived_id(place: &str) -> Option<String> {
    let ticket = current()?;
    let mut hash = Sha256::new();
    hash.update(&ticket.0.key);
    hash.update([0]);
    hash.update(place.as_bytes());
    Some(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Answers that are on their way or were given; clones share them.
#[derive(Debug)]
pub struct Flights<A> {
    inner: Arc<Mutex<Table<A>>>,
}

impl<A> Clone for Flights<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
struct Table<A> {
    entries: HashMap<String, Entry<A>>,
    answered: VecDeque<String>,
}

#[derive(Debug)]
struct Entry<A> {
    fingerprint: String,
    answer: watch::Receiver<Option<A>>,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Flight<A> {
    /// Nobody does it yet: do it, and land it.
    First(Landing<A>),
    /// It is done or being done: wait for this.
    Twin(watch::Receiver<Option<A>>),
    /// The id belongs to another request.
    Other,
}

/// To be told the answer; dropped without one, the next twin begins anew.
#[derive(Debug)]
pub struct Landing<A> {
    flights: Flights<A>,
    key: String,
    answer: watch::Sender<Option<A>>,
}

impl<A> Default for Flights<A> {
    fn default() -> Self {
        let table = Table { entries: HashMap::new(), answered: VecDeque::new() };
        Self { inner: Arc::new(Mutex::new(table)) }
    }
}

impl<A> Flights<A> {
    fn table(&self) -> MutexGuard<'_, Table<A>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes off, or finds the twin that has.
    #[must_use]
    pub fn begin(&self, key: &str, fingerprint: &str) -> Flight<A> {
        let mut table = self.table();
        match table.entries.get(key) {
            Some(entry) if entry.fingerprint != fingerprint => Flight::Other,
            Some(entry) => Flight::Twin(entry.answer.clone()),
            None => {
                let (sender, answer) = watch::channel(None);
                let entry = Entry { fingerprint: fingerprint.into(), answer };
                table.entries.insert(key.into(), entry);
                Flight::First(Landing { flights: self.clone(), key: key.into(), answer: sender })
            }
        }
    }
}

impl<A> Landing<A> {
    /// Gives the answer to all twins, now and later.
    pub fn land(self, answer: A) {
        self.answer.send_replace(Some(answer));
        let mut table = self.flights.table();
        table.answered.push_back(self.key.clone());
        while table.answered.len() > ANSWERS {
            if let Some(oldest) = table.answered.pop_front() {
                table.entries.remove(&oldest);
            }
        }
    }
}

impl<A> Drop for Landing<A> {
    fn drop(&mut self) {
        if self.answer.borrow().is_none() {
            self.flights.table().entries.remove(&self.key);
        }
    }
}

/// What makes two requests the same: the call, and the fields of its message in any order (a map has
/// none, and no two libraries write them in the same one).
#[must_use]
pub fn fingerprint(call: &str, message: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(call.as_bytes());
    hash.update([0]);
    hash.update(canonical(message, 0));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Messages in messages that are looked into.
const MAX_DEPTH: usize = 16;

fn canonical(bytes: &[u8], depth: usize) -> [u8; 32] {
    let fields = if depth < MAX_DEPTH { fields(bytes) } else { None };
    let mut hash = Sha256::new();
    match fields {
        Some(fields) if !fields.is_empty() => {
            let mut hashes: Vec<(u64, [u8; 32])> = fields
                .into_iter()
                .map(|(tag, value, nested)| {
                    (
                        tag,
                        if nested {
                            canonical(value, depth + 1)
                        } else {
                            Sha256::digest(value).into()
                        },
                    )
                })
                .collect();
            hashes.sort_unstable();
            for (tag, value) in hashes {
                hash.update(tag.to_be_bytes());
                hash.update(value);
            }
        }
        _ => hash.update(bytes),
    }
    hash.finalize().into()
}

/// The fields of a message on the wire (tag, value, whether it may be a message); none if it is not
/// one.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8], bool)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let (len, nested) = match tag & 7 {
            0 => {
                let mut rest = bytes;
                varint(&mut rest)?;
                (bytes.len() - rest.len(), false)
            }
            1 => (8, false),
            2 => (usize::try_from(varint(&mut bytes)?).ok()?, true),
            5 => (4, false),
            _ => return None,
        };
        if tag >> 3 == 0 {
            return None;
        }
        found.push((tag, bytes.get(..len)?, nested));
        bytes = &bytes[len..];
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{ANSWERS, Error, Flight, Flights, KEPT, Requests, Stamp, fingerprint, stamp};
    use crate::{
        ids::Namespace,
        store::{Durability, Ops, Store},
    };

    fn namespace() -> Namespace {
        "default".parse().expect("valid")
    }

    #[test]
    fn the_order_of_fields_does_not_count_and_all_else_does() {
        // 1: "a", 2: {1: 5}
        let one = b"\x0a\x01a\x12\x02\x08\x05";
        let same = b"\x12\x02\x08\x05\x0a\x01a";
        let other = b"\x0a\x01b\x12\x02\x08\x05";
        let deeper = b"\x0a\x01a\x12\x02\x08\x06";
        let of = |bytes: &[u8]| fingerprint("/x/Y", bytes);
        assert_eq!(of(one), of(same));
        for different in [&other[..], deeper, b"", b"\x0a", b"\xff\xff"] {
            assert_ne!(of(one), of(different));
        }
        assert_ne!(of(one), fingerprint("/x/Z", one));
    }

    #[test]
    fn twins_share_an_answer_and_others_are_told_apart() {
        let flights = Flights::<u32>::default();
        let Flight::First(landing) = flights.begin("a", "f") else { panic!("first") };
        let Flight::Twin(mut waits) = flights.begin("a", "f") else { panic!("twin") };
        assert!(matches!(flights.begin("a", "g"), Flight::Other));
        assert!(waits.borrow_and_update().is_none());
        landing.land(7);
        assert_eq!(*waits.borrow_and_update(), Some(7));
        let Flight::Twin(late) = flights.begin("a", "f") else { panic!("answered") };
        assert_eq!(*late.borrow(), Some(7));
        // Given up, it begins anew.
        let Flight::First(landing) = flights.begin("b", "f") else { panic!("first") };
        drop(landing);
        assert!(matches!(flights.begin("b", "f"), Flight::First(_)));
        for n in 0..=ANSWERS {
            let Flight::First(landing) = flights.begin(&format!("n{n}"), "f") else {
                panic!("{n}")
            };
            landing.land(0);
        }
        assert!(matches!(flights.begin("a", "f"), Flight::First(_)), "answers are bounded");
    }

    #[tokio::test]
    async fn stamps_are_kept_with_the_commit_and_bounded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(dir.path()).expect("open");
        let requests = Requests::load(store.clone()).expect("load");
        for n in 0..KEPT + 20 {
            let ticket = requests.ticket(&namespace(), &format!("r{n}"), "f").expect("new");
            ticket
                .scope(async {
                    let mut ops = Ops::new();
                    stamp(&mut ops, None).expect("small");
                    store.commit(ops, Durability::Process).await.expect("commit");
                })
                .await;
        }
        assert_eq!(store.all::<Stamp>().expect("tree").count(), KEPT);
        let again = Requests::load(store.clone()).expect("load");
        let last = format!("r{}", KEPT + 19);
        let known = again.ticket(&namespace(), &last, "f").expect("the same");
        assert!(known.0.done.is_some());
        let other = again.ticket(&namespace(), &last, "g");
        assert!(matches!(other, Err(Error::Reused(_))), "{other:?}");
        assert!(again.ticket(&namespace(), "r0", "g").expect("forgotten").0.done.is_none());
        for bad in ["", "a b", "\u{e9}", &"x".repeat(200)] {
            assert!(matches!(again.ticket(&namespace(), bad, "f"), Err(Error::Id)), "{bad:?}");
        }
    }
}
