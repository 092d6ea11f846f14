//! A blob on its way in.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Algorithm, Blob, ContentStore, Digest, Error, Hasher};

/// A part of a blob that is smaller is sooner fetched than found.
const WORTH_BYTES: u64 = 1 << 20;
/// A part that nobody has come back for is garbage.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
const PRIOR_BYTES: usize = 256 << 10;

/// Whether the file is a part of a blob, by its name: others have numbers.
fn is_part(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.replacen('-', ":", 1).parse::<Digest>().is_ok()
}

/// Whether a file of an earlier process may be gone on with.
pub(super) fn is_worth_keeping(path: &Path) -> bool {
    let age = |meta: &fs::Metadata| meta.modified().ok().and_then(|at| at.elapsed().ok());
    let worth = |meta: fs::Metadata| {
        meta.is_file() && meta.len() >= WORTH_BYTES && age(&meta).is_none_or(|age| age < MAX_AGE)
    };
    is_part(path) && fs::symlink_metadata(path).is_ok_and(worth)
}

/// Bytes on their way into the store; dropped before the commit, they leave nothing.
#[derive(Debug)]
pub struct Ingest {
    store: ContentStore,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    expected: Option<Digest>,
    announced: Option<u64>,
    written: u64,
    hashing: Duration,
    writing: Duration,
    keep: bool,
    committed: bool,
}

/// What there is of a blob that did not come whole.
#[derive(Debug)]
pub struct Prior {
    file: File,
    left: u64,
    have: u64,
}

impl Prior {
    /// All bytes of it.
    #[must_use]
    pub fn have(&self) -> u64 {
        self.have
    }

    /// The next of them; None after the last.
    ///
    /// # Errors
    /// When they can't be read.
    pub fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let most = usize::try_from(self.left).unwrap_or(PRIOR_BYTES).min(PRIOR_BYTES);
        let mut chunk = vec![0; most];
        self.file.read_exact(&mut chunk)?;
        self.left -= most as u64;
        Ok(Some(chunk.into()))
    }
}

impl Ingest {
    pub(super) fn begin(
        store: &ContentStore,
        expected: Option<Digest>,
        announced: Option<u64>,
    ) -> Result<Self, Error> {
        let number = store.next_ingest.fetch_add(1, Ordering::Relaxed);
        let path = store.incoming().join(number.to_string());
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io("make", &path, e))?;
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        Ok(Self {
            store: store.clone(),
            path,
            file,
            hasher: Hasher::new(algorithm),
            expected,
            announced,
            written: 0,
            hashing: Duration::ZERO,
            writing: Duration::ZERO,
            keep: false,
            committed: false,
        })
    }

    /// A download that an earlier process or caller may have begun: what is there of it is given
    /// back, to be read and replayed first.
    pub(super) fn resume(
        store: &ContentStore,
        expected: &Digest,
        size: u64,
    ) -> Result<(Self, Option<Prior>), Error> {
        let afresh = || Self::begin(store, Some(expected.clone()), Some(size)).map(|i| (i, None));
        let name = format!("{}-{}", expected.algorithm().as_str(), expected.hex());
        let path = store.incoming().join(name);
        let io = |action, e| Error::io(action, &path, e);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io("make", e))?;
        // Somebody who was given up may still be at it.
        if file.try_lock().is_err() {
            return afresh();
        }
        let meta = file.metadata().map_err(|e| io("look at", e))?;
        // ... or has just given it its name.
        if fs::symlink_metadata(&path).map_or(true, |named| named.ino() != meta.ino()) {
            return afresh();
        }
        let have = if meta.len() < size { meta.len() } else { 0 };
        file.set_len(have).map_err(|e| io("shorten", e))?;
        file.seek(SeekFrom::End(0)).map_err(|e| io("read", e))?;
        let prior = match have {
            0 => None,
            _ => Some(Prior {
                file: File::open(&path).map_err(|e| io("open", e))?,
                left: have,
                have,
            }),
        };
        let ingest = Self {
            store: store.clone(),
            hasher: Hasher::new(expected.algorithm()),
            path,
            file,
            expected: Some(expected.clone()),
            announced: Some(size),
            written: 0,
            hashing: Duration::ZERO,
            writing: Duration::ZERO,
            keep: false,
            committed: false,
        };
        Ok((ingest, prior))
    }

    /// Bytes that are in its file already.
    pub fn replay(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let begun = Instant::now();
        self.hasher.update(bytes);
        self.hashing += begun.elapsed();
    }

    /// What has come so far is worth keeping if the rest does not come.
    pub fn keep_part(&mut self) {
        self.keep = true;
    }

    /// Bytes taken in so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Takes more bytes in.
    ///
    /// # Errors
    /// When they can't be written, or are more than announced.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        if let (Some(digest), Some(announced)) = (&self.expected, self.announced)
            && self.written > announced
        {
            return Err(Error::Size {
                digest: digest.clone(),
                expected: announced,
                found: self.written,
            });
        }
        let begun = Instant::now();
        self.hasher.update(bytes);
        let hashed = Instant::now();
        self.hashing += hashed - begun;
        let written = self.file.write_all(bytes);
        self.writing += hashed.elapsed();
        written.map_err(|e| Error::io("write", &self.path, e))
    }

    /// What hashing and writing have taken so far.
    #[must_use]
    pub fn spent(&self) -> (Duration, Duration) {
        (self.hashing, self.writing)
    }

    /// Checks size and digest and gives the blob its name. It is there for this process at once, and
    /// on the disk after [`ContentStore::flush`].
    ///
    /// # Errors
    /// When the bytes are not the expected ones, or the rename fails. Nothing is left then.
    pub fn commit(mut self) -> Result<Blob, Error> {
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256));
        let digest = hasher.finish();
        if let (Some(expected), Some(announced)) = (&self.expected, self.announced)
            && announced != self.written
        {
            return Err(Error::Size {
                digest: expected.clone(),
                expected: announced,
                found: self.written,
            });
        }
        if let Some(expected) = &self.expected
            && *expected != digest
        {
            return Err(Error::Corrupt { expected: expected.clone(), found: digest });
        }
        let target = self.store.path(&digest);
        fs::rename(&self.path, &target).map_err(|e| Error::io("name", &target, e))?;
        self.committed = true;
        Ok(Blob { digest, size_bytes: self.written })
    }

    /// [`Ingest::commit`], and returns only when the blob and its name are on the disk: for one blob
    /// that stands alone.
    ///
    /// # Errors
    /// As [`Ingest::commit`], or when the disk fails.
    pub fn commit_flushed(self) -> Result<Blob, Error> {
        self.file.sync_all().map_err(|e| Error::io("flush", &self.path, e))?;
        let store = self.store.clone();
        let blob = self.commit()?;
        let dir = store.blobs(blob.digest.algorithm());
        File::open(&dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("flush", &dir, e))?;
        Ok(blob)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let len = || self.file.metadata().map_or(0, |meta| meta.len());
        let stays = self.committed || (self.keep && len() >= WORTH_BYTES && is_part(&self.path));
        if !stays {
            // What stays is garbage that the next start removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}
