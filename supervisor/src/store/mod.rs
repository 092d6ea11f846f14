//! The metadata: typed trees in sled, changed by atomic, durable commits. The only module that
//! names the database.
//!
//! One thread writes. It takes all commits that wait at that moment, applies them as one
//! transaction, flushes once, calls `sync_data` once on a handle of its own (sled's flush ends in
//! no fsync on Linux) and answers them all: a group commit. Readers go to the trees directly.
//!
//! Any storage error ends the process: the next start recovers to the last commit.

mod error;
mod record;
mod writer;

use std::{
    fs::{self, File},
    path::Path,
    sync::{Arc, mpsc},
};

pub use error::Error;
pub use record::{Appended, Durability, Ops, Record};
use tokio::sync::oneshot;

use writer::{Observer, Request, Writer};

/// Raised when the form of the records changes; a newer one is refused.
pub const SCHEMA: u32 = 1;
const SCHEMA_KEY: &[u8] = b"schema";
const META_TREE: &str = "meta";
/// Bytes of sled's page cache.
/// 1,000 containers' records are 4 MiB, and what is asked for most is in memory anyway.
const CACHE_BYTES: u64 = 4 << 20;

/// A handle to the one store; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    db: sled::Db,
    requests: mpsc::Sender<Request>,
    observer: Arc<Observer>,
}

impl Store {
    /// Opens the store in `folder`, which is made when missing. Blocks; recovers after a crash.
    ///
    /// # Errors
    /// When it can't be read or was written by a newer version.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|e| Error::folder(folder, e))?;
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()
            .map_err(|e| Error::Open { folder: folder.into(), source: e })?;
        check_schema(&db)?;
        // What recovery wrote must not be lost to a power cut after we have answered from it.
        let log = File::open(folder.join("db")).map_err(|e| Error::folder(folder, e))?;
        log.sync_all().map_err(|e| Error::folder(folder, e))?;
        for dir in [Some(folder), folder.parent()].into_iter().flatten() {
            File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::folder(dir, e))?;
        }
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
        self.requests.send(Request { ops, durability, done }).map_err(|_| Error::WriterGone)?;
        answer.await.map_err(|_| Error::WriterGone)
    }

    /// [`Store::commit`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_blocking(&self, ops: Ops, durability: Durability) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.requests.send(Request { ops, durability, done }).map_err(|_| Error::WriterGone)?;
        answer.blocking_recv().map_err(|_| Error::WriterGone)
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

fn check_schema(db: &sled::Db) -> Result<(), Error> {
    let meta = db.open_tree(META_TREE).map_err(Error::Read)?;
    let Some(found) = meta.get(SCHEMA_KEY).map_err(Error::Read)? else {
        meta.insert(SCHEMA_KEY, &SCHEMA.to_be_bytes()).map_err(Error::Read)?;
        db.flush().map_err(Error::Read)?;
        return Ok(());
    };
    let found = found.as_ref().try_into().map(u32::from_be_bytes).map_err(|_| Error::NoSchema)?;
    if found > SCHEMA {
        return Err(Error::NewerSchema { found, known: SCHEMA });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
