//! The content store: blobs by digest, as `blobs/<algorithm>/<hex>`, and `ingest/` for those on
//! their way in.
//!
//! A blob gets its name only when its bytes have its digest, by a rename; so what has a name is
//! whole. That its bytes are on the disk is another matter: [`ContentStore::flush`] says so, and has
//! to be called before a record that names a blob is committed. Blobs that no record names are
//! garbage, which [`ContentStore::sweep`] removes at start. Nothing here knows what blobs mean.
//!
//! All of it blocks: call it from blocking threads.

mod digest;
mod error;
mod ingest;

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

pub use digest::{Algorithm, Digest, Hasher, ParseError};
pub use error::Error;
pub use ingest::{Ingest, Prior};

/// A blob that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
}

/// The store; clones share it.
#[derive(Clone, Debug)]
pub struct ContentStore {
    root: Arc<Path>,
    next_ingest: Arc<AtomicU64>,
}

impl ContentStore {
    /// Opens the store in the folder `content` of the data folder, which is made when missing.
    ///
    /// # Errors
    /// When its folders can't be made.
    pub fn open(data: &Path) -> Result<Self, Error> {
        let store = Self { root: data.join("content").into(), next_ingest: Arc::default() };
        for dir in
            [store.blobs(Algorithm::Sha256), store.blobs(Algorithm::Sha512), store.incoming()]
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|e| Error::io("make", &dir, e))?;
        }
        Ok(store)
    }

    fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.as_str())
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// Where the blob is or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// The blob, if it is here.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn stat(&self, digest: &Digest) -> Result<Option<Blob>, Error> {
        let path = self.path(digest);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(Some(Blob { digest: digest.clone(), size_bytes: meta.len() })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("look at", &path, e)),
        }
    }

    /// Begins to take a blob in. With `expected`, nothing else is accepted.
    ///
    /// # Errors
    /// When its file can't be made.
    pub fn ingest(&self, expected: Option<&Digest>, size: Option<u64>) -> Result<Ingest, Error> {
        Ingest::begin(self, expected.cloned(), size)
    }

    /// Begins to take a blob in, or goes on where an earlier download of it broke off: what is given
    /// beside it is to be replayed first.
    ///
    /// # Errors
    /// When its file can't be made or read.
    pub fn resume(&self, expected: &Digest, size: u64) -> Result<(Ingest, Option<Prior>), Error> {
        Ingest::resume(self, expected, size)
    }

    /// Takes in bytes that are at hand.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Blob, Error> {
        let mut ingest = self.ingest(None, Some(bytes.len() as u64))?;
        ingest.write(bytes)?;
        ingest.commit()
    }

    /// Opens a blob. Its bytes are checked as they are read: a read that comes to the end of
    /// corrupted ones is an error (see [`Reader::corruption`]).
    ///
    /// # Errors
    /// When it is not here.
    pub fn open_blob(&self, digest: &Digest) -> Result<Reader, Error> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::NotFound(digest.clone()),
            _ => Error::io("open", &path, e),
        })?;
        Ok(Reader {
            file,
            expected: digest.clone(),
            hasher: Some(Hasher::new(digest.algorithm())),
            corruption: None,
        })
    }

    /// The first few bytes of a blob, unchecked: enough to tell what it is.
    ///
    /// # Errors
    /// When it is not here or can't be read.
    pub fn first_bytes(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let mut first = Vec::new();
        self.open_blob(digest)?
            .file
            .take(8)
            .read_to_end(&mut first)
            .map_err(|e| Error::io("read", &self.path(digest), e))?;
        Ok(first)
    }

    /// A whole small blob, checked.
    ///
    /// # Errors
    /// When it is not here, corrupted, or over `limit` bytes.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, Error> {
        let blob = self.stat(digest)?.ok_or_else(|| Error::NotFound(digest.clone()))?;
        if blob.size_bytes > limit {
            return Err(Error::TooLarge { digest: digest.clone(), size: blob.size_bytes, limit });
        }
        let mut reader = self.open_blob(digest)?;
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size_bytes).unwrap_or(0));
        match reader.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(e) => Err(reader
                .corruption
                .take()
                .unwrap_or_else(|| Error::io("read", &self.path(digest), e))),
        }
    }

    /// All blobs that are here.
    ///
    /// # Errors
    /// When a folder can't be read.
    pub fn list(&self) -> Result<Vec<Blob>, Error> {
        let mut blobs = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for path in list(&self.blobs(algorithm))? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                if let Ok(digest) = format!("{}:{name}", algorithm.as_str()).parse() {
                    blobs.extend(self.stat(&digest)?);
                }
            }
        }
        Ok(blobs)
    }

    /// Removes a blob; one that is not here is no error.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn delete(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Returns when all blobs, and all else on their file system, are on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn flush(&self) -> Result<(), Error> {
        let flushed = File::open(&*self.root).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
        flushed.map_err(|e| Error::io("flush", &self.root, e))
    }

    /// Removes what an earlier process had on its way in, but for parts of downloads that can go on,
    /// and every blob that is not in `keep`. Only before anything else uses the store. Answers with
    /// what it removed.
    ///
    /// # Errors
    /// When a folder can't be read or a file not removed.
    pub fn sweep(&self, keep: &HashSet<Digest>) -> Result<Vec<Blob>, Error> {
        for path in list(&self.incoming())? {
            if ingest::is_worth_keeping(&path) {
                continue;
            }
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        }
        self.retain(keep)
    }

    /// Removes every blob that is not in `keep`, while nobody relies on one of those. Answers with
    /// the digests it removed.
    ///
    /// # Errors
    /// As [`ContentStore::sweep`].
    pub fn retain(&self, keep: &HashSet<Digest>) -> Result<Vec<Blob>, Error> {
        let mut removed = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for path in list(&self.blobs(algorithm))? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let Ok(digest) = format!("{}:{name}", algorithm.as_str()).parse::<Digest>() else {
                    tracing::warn!(path = %path.display(), "not a blob: left alone");
                    continue;
                };
                if keep.contains(&digest) {
                    continue;
                }
                let size_bytes = fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
                fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
                removed.push(Blob { digest, size_bytes });
            }
        }
        Ok(removed)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    entries.map(|e| e.map(|e| e.path()).map_err(|e| Error::io("list", dir, e))).collect()
}

/// Reads a blob and checks it on the way.
#[derive(Debug)]
pub struct Reader {
    file: File,
    expected: Digest,
    hasher: Option<Hasher>,
    corruption: Option<Error>,
}

impl Reader {
    /// What was found out about the bytes, once a read has failed.
    pub fn corruption(&mut self) -> Option<Error> {
        self.corruption.take()
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        if n > 0 || buf.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buf[..n]);
            }
            return Ok(n);
        }
        let Some(hasher) = self.hasher.take() else { return Ok(0) };
        let found = hasher.finish();
        if found == self.expected {
            return Ok(0);
        }
        let error = Error::Corrupt { expected: self.expected.clone(), found };
        let text = error.to_string();
        self.corruption = Some(error);
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

#[cfg(test)]
mod tests;
