//! The logging binary of containerd's protocol, for containers of foreign shims: output comes on
//! descriptors 3 and 4 and goes to a log as this shim writes it; closing descriptor 5 says that
//! reading has begun.
//!
//! A file is locked until all is written: whoever tells the container's end waits for that.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::log::{Log, LogTarget};
use crate::logic::lines::{Format, MIN_OUT, Stream, Tail};
use crate::sys::{SysError, pipes};

/// A line that is not ended is written after so many milliseconds without more of it.
const FLUSH_MS: u8 = 50;
/// Room for one read and the rest of a line before it.
const BUFFER: usize = 128 << 10;

/// What it was told: path, largest size, rotated files, the file to lock.
struct Told {
    log: LogTarget,
    lock: PathBuf,
}

impl Told {
    fn parse(value: &str) -> Option<Self> {
        let mut lines = value.split('\n');
        let path = PathBuf::from(lines.next()?);
        let (max_bytes, max_files) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
        let lock = PathBuf::from(lines.next()?);
        // Supervisors before these two say nothing of them.
        let format = if lines.next() == Some("json-file") { Format::JsonFile } else { Format::Cri };
        let drops_when_full = lines.next() == Some("drop");
        let log = LogTarget { path, format, max_bytes, max_files, drops_when_full };
        log.path.is_absolute().then_some(Self { log, lock })
    }
}

struct Source {
    stream: Stream,
    pipe: File,
    buffer: Vec<u8>,
}

/// Runs until both streams have ended. `value` is the argument after `logger`.
///
/// # Errors
/// What was told makes no sense, or the log can't be opened.
pub(crate) fn run(value: &str) -> Result<(), SysError> {
    let failed = |step, path: &str, source| SysError::new(step, path.to_owned(), source);
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let told = Told::parse(value).ok_or_else(|| failed("read", "what to log", invalid()))?;
    let lock = File::create(&told.lock)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|e| failed("lock", &told.lock.display().to_string(), e))?;
    let mut log = Log::open(&told.log)?;
    let mut sources = Vec::new();
    for (number, stream) in [(3, Stream::Stdout), (4, Stream::Stderr)] {
        // A descriptor of our own for the same pipe; the given one is closed.
        let path = format!("/proc/self/fd/{number}");
        if let Ok(pipe) = File::open(&path) {
            pipes::set_nonblocking(&pipe)?;
            sources.push(Source { stream, pipe, buffer: Vec::with_capacity(BUFFER) });
        }
        // One that was not given is no loss.
        let _ = nix::unistd::close(number);
    }
    let _ = nix::unistd::close(5);
    let mut out = vec![0; MIN_OUT];
    while !sources.is_empty() {
        let open = sources.iter().any(|source| !source.buffer.is_empty());
        let wait =
            if log.is_blocked() || open { PollTimeout::from(FLUSH_MS) } else { PollTimeout::NONE };
        let mut watched: Vec<_> =
            sources.iter().map(|s| PollFd::new(s.pipe.as_fd(), PollFlags::POLLIN)).collect();
        let ready = poll(&mut watched, wait).unwrap_or(0);
        drop(watched);
        if log.is_blocked() {
            // The disk is full: the pipes fill meanwhile.
            std::thread::sleep(std::time::Duration::from_millis(FLUSH_MS.into()));
            log.retry();
            continue;
        }
        let tail = if ready == 0 { Tail::Flush } else { Tail::Keep };
        sources.retain_mut(|source| source.step(&mut log, tail, &mut out));
    }
    while log.is_blocked() {
        std::thread::sleep(std::time::Duration::from_millis(FLUSH_MS.into()));
        log.retry();
    }
    drop(lock);
    Ok(())
}

impl Source {
    /// Reads what there is; false at the end.
    fn step(&mut self, log: &mut Log, tail: Tail, out: &mut [u8]) -> bool {
        let filled = self.buffer.len();
        self.buffer.resize(BUFFER, 0);
        let read = pipes::read(&self.pipe, &mut self.buffer[filled..]);
        let (count, is_over) = match read {
            Ok(Some(0)) | Err(_) => (0, true),
            Ok(Some(count)) => (count, false),
            Ok(None) => (0, false),
        };
        self.buffer.truncate(filled + count);
        if is_over {
            log.append(self.stream, &self.buffer, Tail::Flush, out);
            return false;
        }
        let tail = if count > 0 { Tail::Keep } else { tail };
        let consumed = log.append(self.stream, &self.buffer, tail, out);
        self.buffer.drain(..consumed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn what_it_is_told() {
        let told = Told::parse("/a b\n5\n2\n/l").expect("whole");
        assert_eq!((told.log.max_bytes, told.log.max_files), (5, 2));
        for bad in ["", "/a", "/a\n5\n2", "/a\nx\n2\n/l", "a\n5\n2\n/l"] {
            assert!(Told::parse(bad).is_none(), "{bad:?}");
        }
    }
}
