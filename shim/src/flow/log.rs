//! The container's log: lines to the file, rotation, and what happens when the disk is full.
//!
//! A full disk blocks: lines wait here, the pipes are not read, the container feels a full pipe.
//! Or, if that was asked for, it drops whole lines and counts their bytes. Any other fault of the log drops output and counts it: a container is not held for a broken
//! log folder.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::keep::KeptLog;
use crate::logic::lines::{self, Encoder, Format, Stream, Tail};
use crate::sys::files::{LogFile, Torn, mend};
use crate::sys::journal::{self, Level};
use crate::sys::{SysError, clock};

/// Between two tries on a full disk.
const RETRY: Duration = Duration::from_millis(250);

/// Where and how, as the request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogTarget {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    /// 0: never rotated.
    pub(crate) max_bytes: u64,
    pub(crate) max_files: u32,
    /// On a full disk output is dropped and counted; otherwise it waits.
    pub(crate) drops_when_full: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Log {
    file: LogFile,
    format: Format,
    /// Lines that the disk had no room for.
    blocked: Vec<u8>,
    #[serde(skip)]
    retry_at: Option<Instant>,
    /// The last line of stdout, of stderr, is a part of one.
    open_lines: [bool; 2],
    dropped: u64,
    #[serde(default)]
    drops_when_full: bool,
}

impl Log {
    pub(crate) fn open(target: &LogTarget) -> Result<Self, SysError> {
        let file = LogFile::open(&target.path, target.max_bytes, target.max_files)?;
        Ok(Self {
            file,
            format: target.format,
            blocked: Vec::new(),
            retry_at: None,
            open_lines: [false; 2],
            dropped: 0,
            drops_when_full: target.drops_when_full,
        })
    }

    /// For a keeper.
    pub(crate) fn kept(&self) -> KeptLog {
        let (path, max_bytes, max_files) = self.file.limits();
        KeptLog {
            path: path.to_owned(),
            format: self.format,
            max_bytes,
            max_files,
            drops_when_full: self.drops_when_full,
            dropped: self.dropped,
        }
    }

    /// The log of a shim that died, perhaps in the middle of a line.
    pub(crate) fn adopt(kept: &KeptLog) -> Result<Self, SysError> {
        mend(&kept.path, |part| match lines::mend(kept.format, part) {
            Some((at, byte)) => Torn::Close { at, byte },
            None => Torn::Drop,
        })?;
        let mut log = Self::open(&LogTarget {
            path: kept.path.clone(),
            format: kept.format,
            max_bytes: kept.max_bytes,
            max_files: kept.max_files,
            drops_when_full: kept.drops_when_full,
        })?;
        log.dropped = kept.dropped;
        Ok(log)
    }

    /// Encodes and writes; answers how many bytes of input are done with: all, but for a last
    /// line without end under [`Tail::Keep`]. `out` is memory to work in.
    pub(crate) fn append(
        &mut self,
        stream: Stream,
        input: &[u8],
        tail: Tail,
        out: &mut [u8],
    ) -> usize {
        let encoder = Encoder::new(self.format, stream, clock::unix_ns());
        let mut consumed = 0;
        loop {
            let step = encoder.step(&input[consumed..], tail, out);
            if step.consumed == 0 {
                return consumed;
            }
            consumed += step.consumed;
            self.open_lines[stream as usize] = step.is_open;
            self.write(&out[..step.produced]);
        }
    }

    fn write(&mut self, all: &[u8]) {
        let mut bytes = all;
        while self.blocked.is_empty() && !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) && self.drops_when_full => {
                    if self.dropped == 0 {
                        journal::write(Level::Error, "log drops output", &[("error", &error)]);
                    }
                    // The last line may be there in part.
                    let written = &all[..all.len() - bytes.len()];
                    let lines = memchr::memrchr(b'\n', written).map_or(0, |end| end + 1);
                    self.file.cut(written.len() - lines);
                    self.dropped += (all.len() - lines) as u64;
                    return;
                }
                Err(error) if is_full(&error) => {
                    journal::write(Level::Error, "no room for the log", &[("error", &error)]);
                    self.retry_at = Some(clock::now() + RETRY);
                    break;
                }
                Err(error) => {
                    if self.dropped == 0 {
                        journal::write(Level::Error, "log is lost", &[("error", &error)]);
                    }
                    self.dropped += bytes.len() as u64;
                    return;
                }
            }
        }
        self.blocked.extend_from_slice(bytes);
        // A line is not torn between two files, unless it is as long as a file.
        let is_torn = self.open_lines.contains(&true) && !self.file.is_overdue();
        if self.blocked.is_empty() && self.file.is_due() && !is_torn {
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        if let Err(error) = self.file.rotate() {
            let error = journal::chain(&error);
            journal::write(Level::Warn, "log was not rotated", &[("error", &error)]);
        }
    }

    /// The disk is full: give nothing more.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// When to call [`Log::retry`].
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Tries the disk again.
    pub(crate) fn retry(&mut self) {
        self.retry_at = None;
        let waiting = std::mem::take(&mut self.blocked);
        self.write(&waiting);
    }

    pub(crate) fn reopen(&mut self) -> Result<(), SysError> {
        self.file.reopen()
    }

    /// Bytes of lines that were lost.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};

    matches!(error.kind(), StorageFull | QuotaExceeded)
}
