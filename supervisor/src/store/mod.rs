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
mod space;
mod writer;

use std::{
    fs::{self, File},
    io::{self, BufRead, Write},
    path::Path,
    sync::{Arc, mpsc},
};

pub use backup::Summary;
pub use error::Error;
pub use record::{Appended, Durability, Ops, Record};
pub use schema::SCHEMA;
pub use space::Need;
use tokio::sync::oneshot;

use writer::{Message, Observer, Request, Writer};

/// Bytes of sled's page cache.
/// 1,000 containers' records are 4 MiB, and what is asked for most is in memory anyway.
const CACHE_BYTES: u64 = 4 << 20;

/// A handle to the one store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    db: sled::Db,
    requests: mpsc::Sender<Message>,
    observer: Arc<Observer>,
}

impl Store {
    /// Opens the store in `folder`, which is made when missing. Blocks; recovers after a crash.
    ///
    /// # Errors
    /// When it can't be read or was written by a newer version.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|e| Error::folder(folder, e))?;
        let db = match open_db(folder) {
            Err(Error::Open { source, .. })
                if space::is_full(&source) && space::give_up_reserve(folder) =>
            {
                open_db(folder)
            }
            opened => opened,
        }?;
        schema::migrate(&db, folder)?;
        // What recovery wrote must not be lost to a power cut after we have answered from it.
        let log = File::options().read(true).write(true).open(folder.join("db"));
        let log = log.map_err(|e| Error::folder(folder, e))?;
        log.sync_all().map_err(|e| Error::folder(folder, e))?;
        for dir in [Some(folder), folder.parent()].into_iter().flatten() {
            File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::folder(dir, e))?;
        }
        space::make_reserve(folder);
        let observer = Arc::new(Observer::default());
        let requests = Writer::spawn(db.clone(), log, Arc::clone(&observer))?;
        Ok(Self { db, requests, observer })
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

    /// Writes all records as of one moment to `out`. Commits wait while they are copied, not while
    /// they are written. Blocks.
    ///
    /// # Errors
    /// When the store can't be read or `out` not be written.
    pub fn backup(&self, out: &mut dyn Write) -> Result<Summary, Error> {
        let (done, answer) = oneshot::channel();
        self.requests.send(Message::Copy(done)).map_err(|_| Error::WriterGone)?;
        let records = answer.blocking_recv().map_err(|_| Error::WriterGone)??;
        backup::write(&records, SCHEMA, out)
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

    /// Keys and bytes of all records of all kinds, for a check of the whole.
    ///
    /// # Errors
    /// When a tree can't be opened or read.
    pub fn visit_all(&self, mut visit: impl FnMut(&str, &[u8], &[u8])) -> Result<(), Error> {
        for raw in backup::copy(&self.db)? {
            visit(&raw.tree, &raw.key, &raw.value);
        }
        Ok(())
    }

    /// Takes a record out, whatever is in it; gives its bytes. For one that can't be read.
    ///
    /// # Errors
    /// When the store can't be read or changed.
    pub fn take_raw(&self, tree: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let found = self.db.open_tree(tree).map_err(Error::Read)?.get(key).map_err(Error::Read)?;
        let Some(found) = found else { return Ok(None) };
        let mut ops = Ops::new();
        ops.needs(Need::Removal);
        ops.delete_raw(tree, key);
        self.commit_blocking(ops, Durability::Power)?;
        Ok(Some(found.to_vec()))
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

/// Opens sled. What it can't make sense of it may also panic about.
fn open_db(folder: &Path) -> Result<sled::Db, Error> {
    let open =
        || sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None).open();
    let damaged = |problem: String| Error::Damaged { folder: folder.into(), problem };
    match std::panic::catch_unwind(open) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(e @ (sled::Error::Corruption { .. } | sled::Error::Unsupported(_)))) => {
            Err(damaged(e.to_string()))
        }
        Ok(Err(source)) => Err(Error::Open { folder: folder.into(), source }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(damaged(text.unwrap_or_else(|| "sled panicked".into())))
        }
    }
}

#[cfg(test)]
mod tests;
