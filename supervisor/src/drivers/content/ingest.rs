//! A blob on its way in.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::atomic::Ordering,
};

use super::{Algorithm, Blob, ContentStore, Digest, Error, Hasher};

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
    committed: bool,
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
            committed: false,
        })
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
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
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
        if !self.committed {
            // What stays is garbage that the next start removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}
