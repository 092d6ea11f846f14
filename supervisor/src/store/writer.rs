//! The one thread that writes: group commit.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    fs::File,
    io::BufWriter,
    panic,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use sled::Transactional as _;
use tokio::sync::oneshot;

use super::{
    Error, JOURNAL, SCHEMA,
    backup::{self, Extent, Summary},
    record::{Appended, Durability, Op, Ops},
    space::Space,
};
use crate::faultpoint;

/// Commits taken together at most, so that the first does not wait for the hundredth.
const MAX_GROUP: usize = 256;

pub(super) struct Request {
    pub(super) ops: Ops,
    pub(super) durability: Durability,
    pub(super) done: oneshot::Sender<Result<(), Error>>,
}

/// What the writer is asked for.
pub(super) enum Message {
    Commit(Request),
    /// The next number of the journal is a later one.
    Skip {
        to: u64,
        done: oneshot::Sender<()>,
    },
    /// All records into a file, with no commit half way.
    Backup {
        out: File,
        extent: Extent,
        done: oneshot::Sender<Result<(File, Summary), Error>>,
    },
}

type Observe = Box<dyn Fn(&Appended) + Send + Sync>;

/// Who is told of appended records; nobody at first.
#[derive(Default)]
pub(super) struct Observer(Mutex<Option<Observe>>);

impl Observer {
    pub(super) fn set(&self, observe: Observe) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(observe);
    }

    fn tell(&self, appended: &[Appended]) {
        if let Some(observe) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            appended.iter().for_each(observe);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

pub(super) struct Writer {
    db: sled::Db,
    /// sled's file, open a second time: for the fsync that sled leaves out.
    log: File,
    trees: HashMap<&'static str, sled::Tree>,
    sequences: HashMap<&'static str, u64>,
    observer: Arc<Observer>,
    space: Space,
    commits: Arc<AtomicU64>,
    durable: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn spawn(
        db: sled::Db,
        log: File,
        folder: &Path,
        observer: Arc<Observer>,
        commits: Arc<AtomicU64>,
        durable: Arc<AtomicU64>,
    ) -> Result<mpsc::Sender<Message>, Error> {
        let (sender, requests) = mpsc::channel();
        let space = Space::new(&log, folder);
        let (trees, sequences) = (HashMap::new(), HashMap::new());
        let mut writer = Self { db, log, trees, sequences, observer, space, commits, durable };
        thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                let served = panic::AssertUnwindSafe(|| writer.serve(&requests));
                match panic::catch_unwind(served) {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => {
                        tracing::error!(error = crate::fault::chain(&error), "metadata lost");
                    }
                    // What sled can't make sense of it may panic about; that has been told.
                    Err(_) => tracing::error!("the thread that writes the metadata panicked"),
                }
                // Nothing after this can be trusted to be kept: end, and recover at start.
                std::process::abort();
            })
            .map_err(Error::Thread)?;
        Ok(sender)
    }

    /// Until nobody is there to ask for anything.
    fn serve(&mut self, requests: &mpsc::Receiver<Message>) -> Result<(), Error> {
        while let Ok(first) = requests.recv() {
            let mut group = Vec::new();
            for message in std::iter::once(first).chain(requests.try_iter().take(MAX_GROUP)) {
                match message {
                    Message::Commit(request) => self.admit(request, &mut group),
                    Message::Skip { to, done } => {
                        let next = self.next_sequence(JOURNAL)?;
                        self.sequences.insert(JOURNAL, to.max(next - 1));
                        let _ = done.send(());
                    }
                    Message::Backup { out, extent, done } => {
                        drop(done.send(backup_to(&self.db, out, extent)));
                    }
                }
            }
            if !group.is_empty() {
                self.commit(group)?;
            }
        }
        Ok(())
    }

    /// Takes a commit into the group, or refuses it because the disk is full.
    fn admit(&mut self, request: Request, group: &mut Vec<Request>) {
        if self.space.has_room(&self.log, request.ops.need, request.ops.bytes()) {
            group.push(request);
        } else {
            let _ = request.done.send(Err(Error::Full));
        }
    }

    fn commit(&mut self, group: Vec<Request>) -> Result<(), Error> {
        let durability = group.iter().map(|r| r.durability).max();
        let mut waiting = Vec::with_capacity(group.len());
        let mut ops = Vec::new();
        for request in group {
            ops.extend(request.ops.ops);
            waiting.push(request.done);
        }
        faultpoint::reach_blocking("store.commit.begun");
        let appended = self.apply(ops)?;
        faultpoint::reach_blocking("store.commit.applied");
        self.db.flush().map_err(Error::Read)?;
        if durability == Some(Durability::Power) {
            self.log.sync_data().map_err(|e| Error::folder("db".as_ref(), e))?;
            if let Some(last) = self.sequences.get(JOURNAL) {
                self.durable.store(*last, Ordering::Release);
            }
        }
        faultpoint::reach_blocking("store.commit.durable");
        self.commits.fetch_add(1, Ordering::AcqRel);
        self.observer.tell(&appended);
        for done in waiting {
            // The caller may have gone; the commit stands.
            let _ = done.send(Ok(()));
        }
        Ok(())
    }

    fn apply(&mut self, ops: Vec<Op>) -> Result<Vec<Appended>, Error> {
        let mut names: Vec<&'static str> = Vec::new();
        let mut changes: Vec<(usize, Vec<u8>, Option<Vec<u8>>)> = Vec::with_capacity(ops.len());
        let mut appended = Vec::new();
        for op in ops {
            let (tree, key, value) = match op {
                Op::Put { tree, key, value } => (tree, key, Some(value)),
                Op::Delete { tree, key } => (tree, key, None),
                Op::Append { tree, value } => {
                    let sequence = self.next_sequence(tree)?;
                    appended.push(Appended { tree, sequence, value: value.clone() });
                    (tree, sequence.to_be_bytes().to_vec(), Some(value))
                }
            };
            let index = names.iter().position(|n| *n == tree).unwrap_or_else(|| {
                names.push(tree);
                names.len() - 1
            });
            changes.push((index, key, value));
        }
        let trees: Vec<sled::Tree> =
            names.iter().map(|name| self.tree(name)).collect::<Result<_, _>>()?;
        if trees.is_empty() {
            return Ok(appended);
        }
        let result: sled::transaction::TransactionResult<(), Infallible> =
            trees.as_slice().transaction(|views| {
                for (index, key, value) in &changes {
                    match value {
                        Some(value) => views[*index].insert(key.as_slice(), value.as_slice())?,
                        None => views[*index].remove(key.as_slice())?,
                    };
                }
                Ok(())
            });
        match result {
            Ok(()) => Ok(appended),
            Err(sled::transaction::TransactionError::Storage(e)) => Err(Error::Read(e)),
            Err(sled::transaction::TransactionError::Abort(never)) => match never {},
        }
    }

    fn tree(&mut self, name: &'static str) -> Result<sled::Tree, Error> {
        if let Some(tree) = self.trees.get(name) {
            return Ok(tree.clone());
        }
        let tree = self.db.open_tree(name).map_err(Error::Read)?;
        self.trees.insert(name, tree.clone());
        Ok(tree)
    }

    fn next_sequence(&mut self, name: &'static str) -> Result<u64, Error> {
        let last = match self.sequences.get(name) {
            Some(last) => *last,
            None => last_sequence(&self.tree(name)?)?,
        };
        self.sequences.insert(name, last + 1);
        Ok(last + 1)
    }
}

fn backup_to(db: &sled::Db, out: File, extent: Extent) -> Result<(File, Summary), Error> {
    let mut out = BufWriter::new(out);
    let summary = backup::write(db, SCHEMA, extent, &mut out)?;
    let file = out.into_inner().map_err(|e| Error::Backup(e.into_error()))?;
    Ok((file, summary))
}

pub(super) fn last_sequence(tree: &sled::Tree) -> Result<u64, Error> {
    let last = tree.last().map_err(Error::Read)?;
    Ok(last.and_then(|(key, _)| key.as_ref().try_into().ok().map(u64::from_be_bytes)).unwrap_or(0))
}
