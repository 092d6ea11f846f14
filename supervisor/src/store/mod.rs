//! The metadata: typed trees in sled, changed by atomic, durable commits. The only module that
//! names the database.
//!
//! One thread writes. It takes all commits that wait at that moment, applies them as one
//! transaction, flushes once, calls `sync_data` once on a handle of its own (sled's flush ends in
//! no fsync on Linux) and answers them all: a group commit. Readers go to the trees directly.
//!
//! Any storage error ends the process: the next start recovers to the last commit.

mod backup;
mod error;
mod record;
mod schema;
mod snapshots;
mod space;
mod writer;

use std::{
    fs::{self, File},
    io::{self, BufRead},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

pub use backup::{Extent, Summary};
pub use error::Error;
pub use record::{Appended, Durability, Ops, Record};
pub use schema::SCHEMA;
pub use space::{Need, forget_reserve};
use tokio::sync::oneshot;

use writer::{Message, Observer, Request, Writer};

/// Bytes of sled's page cache.
/// 1,000 containers' records are 4 MiB, and what is asked for most is in memory anyway.
const CACHE_BYTES: u64 = 4 << 20;

/// Tree of the journal, which is most of a store.
const JOURNAL: &str = "events";

/// A handle to the one store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    db: sled::Db,
    requests: mpsc::Sender<Message>,
    observer: Arc<Observer>,
    commits: Arc<AtomicU64>,
    durable: Arc<AtomicU64>,
}

impl Store {
    /// Opens the store in `folder`, which is made when missing. Blocks; recovers after a crash.
    ///
    /// # Errors
    /// When it can't be read or was written by a newer version.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let damaged = |problem: String| Error::Damaged { folder: folder.into(), problem };
        fs::create_dir_all(folder).map_err(|e| match folder.symlink_metadata() {
            Ok(meta) if !meta.is_dir() => damaged("it is no folder".into()),
            _ => Error::folder(folder, e),
        })?;
        snapshots::remove_unfinished(folder).map_err(|e| Error::folder(folder, e))?;
        let db = match open_db(folder) {
            Err(Error::Open { source, .. })
                if space::is_full(&source) && space::give_up_reserve(folder) =>
            {
                snapshots::remove_unfinished(folder).map_err(|e| Error::folder(folder, e))?;
                open_db(folder)
            }
            Err(error @ Error::Damaged { .. }) => {
                snapshots::without(folder, || open_db(folder)).unwrap_or(Err(error))
            }
            opened => opened,
        }?;
        if schema::of(&db)?.is_none() && space::was_here(folder) {
            return Err(damaged("it is empty, and was not".into()));
        }
        schema::migrate(&db, folder)?;
        readable(&db).map_err(damaged)?;
        // What recovery wrote must not be lost to a power cut after we have answered from it.
        let log = File::options().read(true).write(true).open(folder.join("db"));
        let log = log.map_err(|e| Error::folder(folder, e))?;
        log.sync_all().map_err(|e| Error::folder(folder, e))?;
        for dir in [Some(folder), folder.parent()].into_iter().flatten() {
            File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::folder(dir, e))?;
        }
        space::make_reserve(folder);
        let observer = Arc::new(Observer::default());
        let (commits, durable) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let requests = Writer::spawn(
            db.clone(),
            log,
            folder,
            Arc::clone(&observer),
            Arc::clone(&commits),
            Arc::clone(&durable),
        )?;
        Ok(Self { db, requests, observer, commits, durable })
    }

    /// Called on the writer's thread with what each commit appended, in order, once it is durable.
    pub fn observe_appends(&self, observer: impl Fn(&Appended) + Send + Sync + 'static) {
        self.observer.set(Box::new(observer));
    }

    /// Applies all of `ops` or none, and answers when they will survive what `durability` says.
    /// Dropping the future does not take the commit back.
    ///
    /// # Errors
    /// When the writer is gone, which ends the process anyway.
    pub async fn commit(&self, ops: Ops, durability: Durability) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let request = Message::Commit(Request { ops, durability, done });
        self.requests.send(request).map_err(|_| Error::WriterGone)?;
        answer.await.map_err(|_| Error::WriterGone)?
    }

    /// [`Store::commit`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_blocking(&self, ops: Ops, durability: Durability) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        let request = Message::Commit(Request { ops, durability, done });
        self.requests.send(request).map_err(|_| Error::WriterGone)?;
        answer.blocking_recv().map_err(|_| Error::WriterGone)?
    }

    /// Writes all records as of one moment into a file, which is given back at its end. Commits wait
    /// meanwhile. Not flushed to the disk. Blocks.
    ///
    /// # Errors
    /// When the store can't be read or `out` not be written.
    pub fn backup(&self, out: File, extent: Extent) -> Result<(File, Summary), Error> {
        let (done, answer) = oneshot::channel();
        let message = Message::Backup { out, extent, done };
        self.requests.send(message).map_err(|_| Error::WriterGone)?;
        answer.blocking_recv().map_err(|_| Error::WriterGone)?
    }

    /// Makes a store in `folder`, which has none, from a backup. All of it or nothing. Blocks.
    ///
    /// # Errors
    /// When there is one, or the backup is damaged or of a newer version.
    pub fn restore(folder: &Path, backup: impl BufRead) -> Result<Summary, Error> {
        if folder.exists() {
            return Err(Error::Occupied { folder: folder.into() });
        }
        let (schema, records) = backup::read(backup)?;
        if schema > SCHEMA {
            return Err(Error::NewerSchema { found: schema, known: SCHEMA });
        }
        let aside = folder.with_extension("restoring");
        let error = |e| Error::folder(&aside, e);
        match fs::remove_dir_all(&aside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
            _ => fs::create_dir_all(&aside).map_err(error)?,
        }
        {
            let db = open_db(&aside)?;
            for raw in &records {
                let tree = db.open_tree(&raw.tree).map_err(Error::Read)?;
                tree.insert(&raw.key, raw.value.as_slice()).map_err(Error::Read)?;
            }
            schema::mark_as(&db, schema)?;
            File::open(aside.join("db")).and_then(|f| f.sync_all()).map_err(error)?;
        }
        File::open(&aside).and_then(|dir| dir.sync_all()).map_err(error)?;
        fs::rename(&aside, folder).map_err(error)?;
        if let Some(parent) = folder.parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(error)?;
        }
        Ok(Summary { schema, records: records.len() as u64 })
    }

    /// Records of a kind that can't be read: what is wrong with each.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn unreadable<R: Record>(&self) -> Result<Vec<Unreadable>, Error> {
        let mut found = Vec::new();
        for item in &self.tree::<R>()? {
            let (key, bytes) = item.map_err(Error::Read)?;
            if let Err(error) = record::decode::<R>(&key, &bytes) {
                let problem = crate::fault::chain(&error);
                found.push(Unreadable { tree: R::TREE, key: key.to_vec(), problem });
            }
        }
        Ok(found)
    }

    /// Bytes of a record, whatever is in it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn raw(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let tree = self.db.open_tree(tree).map_err(Error::Read)?;
        Ok(tree.get(key).map_err(Error::Read)?.map(|bytes| bytes.to_vec()))
    }

    /// Takes a record out, whatever is in it. For one that can't be read.
    ///
    /// # Errors
    /// When the store can't be changed.
    pub fn remove_raw(&self, tree: &'static str, key: &[u8]) -> Result<(), Error> {
        let mut ops = Ops::new();
        ops.needs(Need::Removal);
        ops.delete_raw(tree, key);
        self.commit_blocking(ops, Durability::Power)
    }

    /// The journal goes on with numbers after this one, if it is not that far already. Blocks.
    ///
    /// # Errors
    /// When the writer is gone.
    pub fn skip_numbers(&self, to: u64) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.requests.send(Message::Skip { to, done }).map_err(|_| Error::WriterGone)?;
        answer.blocking_recv().map_err(|_| Error::WriterGone)
    }

    /// Number of the last event of the journal.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn last_number(&self) -> Result<u64, Error> {
        writer::last_sequence(&self.db.open_tree(JOURNAL).map_err(Error::Read)?)
    }

    /// Number of the last event that is known to survive the end of power.
    #[must_use]
    pub fn durable_number(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// How many commits this process has made.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// One record, if it is there.
    ///
    /// # Errors
    /// When it can't be read or is not what it should be.
    pub fn get<R: Record>(&self, key: &[u8]) -> Result<Option<R>, Error> {
        let tree = self.tree::<R>()?;
        match tree.get(key).map_err(Error::Read)? {
            None => Ok(None),
            Some(bytes) => record::decode(key, &bytes).map(Some),
        }
    }

    /// All records of a kind, in the order of their keys. One that can't be read is an error of its
    /// own and does not end the iteration: the caller sets it aside and reports it.
    ///
    /// # Errors
    /// When the tree can't be opened.
    pub fn all<R: Record>(
        &self,
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, R), Error>> + use<R>, Error> {
        self.from::<R>(&[])
    }

    /// [`Store::all`], beginning at `key`.
    ///
    /// # Errors
    /// As [`Store::all`].
    pub fn from<R: Record>(
        &self,
        key: &[u8],
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, R), Error>> + use<R>, Error> {
        let tree = self.tree::<R>()?;
        Ok(tree.range(key.to_vec()..).map(|item| {
            let (key, bytes) = item.map_err(Error::Read)?;
            let record = record::decode(&key, &bytes)?;
            Ok((key.to_vec(), record))
        }))
    }

    /// Number given to the last appended record of a kind; 0 before the first.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn last_sequence<R: Record>(&self) -> Result<u64, Error> {
        writer::last_sequence(&self.tree::<R>()?)
    }

    fn tree<R: Record>(&self) -> Result<sled::Tree, Error> {
        self.db.open_tree(R::TREE).map_err(Error::Read)
    }
}

/// Whether nobody has the store in `folder` open, waiting for that for `limit` at most: sled gives
/// its lock back on a thread of its own. Blocks.
#[must_use]
pub fn released(folder: &Path, limit: std::time::Duration) -> bool {
    let end = std::time::Instant::now() + limit;
    // One that is not there is nobody's.
    let Ok(file) = File::open(folder.join("db")) else { return true };
    loop {
        // Given back when `file` is dropped.
        match file.try_lock() {
            Ok(()) => return true,
            Err(_) if std::time::Instant::now() < end => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(_) => return false,
        }
    }
}

/// A record that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its kind.
    pub tree: &'static str,
    /// Its key.
    pub key: Vec<u8>,
    /// What is wrong with it.
    pub problem: String,
}

/// Opens sled. What it can't make sense of it may also panic about.
fn open_db(folder: &Path) -> Result<sled::Db, Error> {
    let damaged = |problem: String| Error::Damaged { folder: folder.into(), problem };
    let open =
        || sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None).open();
    match caught(open).map_err(damaged)? {
        Ok(db) => Ok(db),
        Err(e) if is_damage(&e) => Err(damaged(e.to_string())),
        Err(source) => Err(Error::Open { folder: folder.into(), source }),
    }
}

/// Reads all but the journal, of which the two ends: what can't be read is found now, and not by
/// whoever asks for it first.
fn readable(db: &sled::Db) -> Result<(), String> {
    let walk = || -> sled::Result<()> {
        for name in db.tree_names() {
            let tree = db.open_tree(&name)?;
            if name.as_ref() == JOURNAL.as_bytes() {
                tree.first()?;
                tree.last()?;
            } else {
                tree.iter().try_for_each(|item| item.map(drop))?;
            }
        }
        Ok(())
    };
    caught(walk)?.map_err(|e| e.to_string())
}

fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        text.unwrap_or_else(|| "sled panicked".into())
    })
}

/// Whether an error of sled's tells of its files, and not of the disk, the memory or another process.
fn is_damage(error: &sled::Error) -> bool {
    match error {
        sled::Error::Corruption { .. }
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::CollectionNotFound(_) => true,
        sled::Error::Io(e) => matches!(
            e.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
        ),
    }
}

#[cfg(test)]
mod tests;
