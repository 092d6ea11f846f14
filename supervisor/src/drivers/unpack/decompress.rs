//! From compressed bytes to the tar's, on a thread of its own: inflating and writing files take about
//! as long, so two cores halve the time.
//!
//! What the bytes are is told by their first ones: media types lie.

use std::{
    io::{self, BufRead, BufReader, Cursor, Read},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::Scope,
    time::{Duration, Instant},
};

use super::{Spent, timed, window};

use crate::drivers::content::{Algorithm, Digest, Hasher};

/// Bytes handed over at a time: small enough to stay in the second-level cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks between the two threads at most.
const CHUNKS: usize = 4;
const READ_BYTES: usize = 64 << 10;

/// How a layer or archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, in one or several members.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// By the first bytes.
    #[must_use]
    pub fn detect(first: &[u8]) -> Self {
        if first.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_frame(first) {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Zstandard files may begin with a frame of somebody else's data.
fn is_skippable_frame(first: &[u8]) -> bool {
    matches!(first, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// A reader of what `source` holds, decompressed.
///
/// # Errors
/// When the source can't be read or zstd can't be set up.
pub fn reader<'a>(mut source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut first = Vec::with_capacity(window::HEADER_BYTES);
    source.by_ref().take(window::HEADER_BYTES as u64).read_to_end(&mut first)?;
    let compression = Compression::detect(&first);
    let room = match compression {
        Compression::Zstd => Some(window::Room::take(&first)?),
        Compression::None | Compression::Gzip => None,
    };
    let whole = Cursor::new(first).chain(source);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(
            BufReader::with_capacity(READ_BYTES, whole),
        )),
        Compression::Zstd => {
            let buffered = BufReader::with_capacity(READ_BYTES, whole);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
            let room = room.unwrap_or_default();
            decoder.window_log_max(room.window_log())?;
            Box::new(Roomy { decoder, _room: room })
        }
    })
}

/// A decoder and the memory that it was given.
struct Roomy<R> {
    decoder: R,
    _room: window::Room,
}

impl<R: Read> Read for Roomy<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buf)
    }
}

/// Notes whether an error came from the source or from the decompressor above it.
struct Watched<'a, R> {
    source: R,
    failed: &'a AtomicBool,
    /// Taken by the source, which is not the decompressor's.
    inflate_ns: &'a AtomicU64,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let begun = Instant::now();
        let read = self.source.read(buf);
        self.inflate_ns.fetch_sub(nanos(begun), Ordering::Relaxed);
        read.inspect_err(|e| {
            if e.kind() != io::ErrorKind::Interrupted {
                self.failed.store(true, Ordering::Release);
            }
        })
    }
}

fn nanos(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The decompressed bytes as they arrive, hashed.
#[derive(Debug)]
pub(super) struct Chunks {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
    hasher: Hasher,
    total: u64,
    limit: u64,
    ended: bool,
    /// Of which `network` is the time without a chunk.
    spent: Spent,
}

/// Starts to decompress `source`. The thread ends when the source does or the answer is dropped.
pub(super) fn spawn<'scope, 'env, R: Read + Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    source: R,
    failed: &'scope AtomicBool,
    inflate_ns: &'scope AtomicU64,
    limit: u64,
) -> io::Result<Chunks> {
    let (full, chunks) = sync_channel(CHUNKS);
    let (empty, recycled) = channel();
    std::thread::Builder::new().name("inflate".into()).spawn_scoped(scope, move || {
        let begun = Instant::now();
        let watched = Watched { source, failed, inflate_ns };
        let idle = pump(watched, &full, &recycled);
        let idle = u64::try_from(idle.as_nanos()).unwrap_or(u64::MAX);
        inflate_ns.fetch_add(nanos(begun).saturating_sub(idle), Ordering::Relaxed);
    })?;
    Ok(Chunks {
        full: chunks,
        empty,
        current: Vec::new(),
        used: 0,
        hasher: Hasher::new(Algorithm::Sha256),
        total: 0,
        limit,
        ended: false,
        spent: Spent::default(),
    })
}

fn pump(
    mut source: impl Read + Send,
    full: &SyncSender<io::Result<Vec<u8>>>,
    recycled: &Receiver<Vec<u8>>,
) -> Duration {
    let mut idle = Duration::ZERO;
    let result = pump_decompressed(&mut source, full, recycled, &mut idle).and_then(|()| {
        // Whatever follows still counts for the blob's digest.
        io::copy(&mut source, &mut io::sink()).map(drop)
    });
    if let Err(error) = result {
        // A receiver that has gone has had its own error.
        let _ = full.send(Err(error));
    }
    idle
}

fn pump_decompressed(
    source: &mut (impl Read + Send),
    full: &SyncSender<io::Result<Vec<u8>>>,
    recycled: &Receiver<Vec<u8>>,
    idle: &mut Duration,
) -> io::Result<()> {
    let mut reader = reader(source)?;
    loop {
        let mut chunk = recycled.try_recv().unwrap_or_else(|_| Vec::new());
        chunk.resize(CHUNK_BYTES, 0);
        let mut len = 0;
        while len < chunk.len() {
            match reader.read(&mut chunk[len..]) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let ended = len < chunk.len();
        chunk.truncate(len);
        if timed(idle, || full.send(Ok(chunk))).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if ended {
            return Ok(());
        }
    }
}

impl Chunks {
    /// Reads what is left and answers with the digest of all.
    pub(super) fn finish(mut self) -> io::Result<(Digest, Spent)> {
        loop {
            let n = self.fill_buf()?.len();
            if n == 0 {
                return Ok((self.hasher.finish(), self.spent));
            }
            self.consume(n);
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        while self.used == self.current.len() && !self.ended {
            let spent = std::mem::take(&mut self.current);
            self.used = 0;
            if spent.capacity() > 0 {
                // The other side may have ended already.
                let _ = self.empty.send(spent);
            }
            match timed(&mut self.spent.network, || self.full.recv()) {
                Err(_) => self.ended = true,
                Ok(Err(e)) => {
                    self.ended = true;
                    return Err(e);
                }
                Ok(Ok(chunk)) => {
                    timed(&mut self.spent.hash, || self.hasher.update(&chunk));
                    self.total += chunk.len() as u64;
                    self.current = chunk;
                    if self.total > self.limit {
                        return Err(io::ErrorKind::FileTooLarge.into());
                    }
                }
            }
        }
        Ok(())
    }
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let lent = self.fill_buf()?;
        let n = lent.len().min(buf.len());
        buf[..n].copy_from_slice(&lent[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.refill()?;
        Ok(&self.current[self.used..])
    }

    fn consume(&mut self, n: usize) {
        self.used += n;
    }
}
