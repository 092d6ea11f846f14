//! From a layer's blob to an overlay folder, in one pass: read, decompress, hash, untar.
//!
//! ```text
//! source ─▶ decompress ─▶ chunks ─▶ sha256 (diff id) ─▶ tar entries ─▶ files below one folder
//!           own thread              caller's thread
//! ```
//!
//! Layers are hostile input. Every path is resolved by the kernel below the layer's folder
//! (openat2 with RESOLVE_IN_ROOT), the last component is never followed and never overwritten in
//! place, and counts and sizes are bounded by [`Limits`]. What comes out is not flushed and not
//! recorded: that is for whoever asked, and until then the folder is garbage.

mod apply;
mod decompress;
mod error;
mod limits;
mod parents;
mod spent;
pub mod tar;
mod whiteout;
mod window;

use std::{
    fs::File,
    io::Read,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

pub use decompress::{Compression, reader as decompress};
pub use error::Error;
pub use limits::Limits;
pub use spent::{Spent, timed};

use apply::Applier;

use crate::drivers::content::Digest;

/// What came out of a layer.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Folders that have no entry of their own but something in them: their mode and owner are the
    /// lower layers' business. Relative paths; the empty one is the layer's root.
    pub implicit: Vec<Vec<u8>>,
    /// Of decompressing, hashing and writing files.
    pub spent: Spent,
}

/// Where a layer goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// An empty folder that nobody else writes to.
    pub folder: &'a Path,
    /// A folder on the same file system, where what an entry replaces is moved to.
    pub trash: &'a Path,
}

/// Unpacks the layer that `source` holds and checks that its diff id is `expected`. Blocks.
///
/// # Errors
/// When the source fails, the layer is not what it should be, or the kernel refuses.
pub fn unpack(
    source: impl Read + Send,
    target: Target<'_>,
    expected: Option<&Digest>,
    limits: &Limits,
) -> Result<Unpacked, Error> {
    let open = |path: &Path| {
        File::open(path).map_err(|e| Error::Folder { action: "open", path: path.into(), source: e })
    };
    let mut applier = Applier::new(open(target.folder)?, open(target.trash)?);
    let source_failed = AtomicBool::new(false);
    let inflate_ns = AtomicU64::new(0);
    let begun = Instant::now();
    let (diff_id, mut spent) =
        std::thread::scope(|scope| {
            let total = limits.total_bytes;
            let chunks = decompress::spawn(scope, source, &source_failed, &inflate_ns, total)
                .map_err(|e| Error::Folder {
                    action: "start a thread for",
                    path: target.folder.into(),
                    source: e,
                })?;
            let mut tar = tar::TarReader::new(chunks, *limits);
            let classify = |e| classify(e, &source_failed, total);
            while let Some(entry) = tar.next_entry().map_err(|e| classify(Error::Tar(e)))? {
                applier.apply(&entry, &mut tar).map_err(classify)?;
            }
            let chunks = tar.into_inner();
            chunks.finish().map_err(|e| classify(Error::Tar(tar::Error::Read(e))))
        })?;
    // On this thread there is nothing else than waiting for chunks, hashing them and writing.
    let waited = std::mem::take(&mut spent.network);
    spent.write = begun.elapsed().saturating_sub(waited + spent.hash);
    spent.inflate = Duration::from_nanos(inflate_ns.into_inner());
    if let Some(expected) = expected
        && *expected != diff_id
    {
        return Err(Error::DiffId { expected: expected.clone(), found: diff_id });
    }
    let (size_bytes, implicit) = applier.finish()?;
    Ok(Unpacked { diff_id, size_bytes, implicit, spent })
}

/// Reading fails for three reasons that the reader can't tell apart; a limit is a limit, whoever kept
/// it.
fn classify(error: Error, source_failed: &AtomicBool, total: u64) -> Error {
    let source = match error {
        Error::Tar(tar::Error::Read(source)) => source,
        Error::Tar(tar::Error::Limit { what, limit }) => return Error::Limit { what, limit },
        other => return other,
    };
    if source_failed.load(Ordering::Acquire) {
        Error::Source(source)
    } else if source.kind() == std::io::ErrorKind::FileTooLarge {
        Error::Limit { what: "bytes", limit: total }
    } else {
        Error::Decompress(source)
    }
}

#[cfg(test)]
mod tests;
