//! Shims of others (containerd's shim protocol, Task service 2 or 3): what ours does by itself is
//! done here for them.
//!
//! | thing | how |
//! | --- | --- |
//! | output of the container | a logging binary (`binary://…/wharf-shim?logger=…`) that the shim starts: it outlives wharfd |
//! | stdin | a named pipe in the bundle; the shim holds it open until CloseIO |
//! | output of an exec | named pipes in the bundle, read into a bounded buffer here |
//! | the end | Wait; out of memory as the shim's event says |
//!
//! `foreign.json` in the bundle says how to find the shim again; it is there before the shim is.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
    sync::Notify,
};
use wharf_proto::{
    shim::{
        OutputChunk, ReadOutputResponse,
        log_target::{Format, WhenFull},
        output_chunk,
    },
    task::{SERVICE_V2, SERVICE_V3},
};

use super::{Bundle, ShimError};

/// Output of one exec that is held here unread.
const HELD_BYTES: usize = 64 << 10;
const FILE: &str = "foreign.json";
/// Locked by the logging binary for as long as it has something to write.
const LOGGER_LOCK: &str = "logger.lock";
/// How long the rest of the output may take after the end. Runc's shim keeps its ends of the pipes
/// until Delete, so that the lock is not given back before: what is in the pipes by then is written
/// well within this time.
const DRAIN_LIMIT: Duration = Duration::from_millis(250);

/// How a foreign shim is found again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its program.
    pub program: PathBuf,
    /// Of its socket, as it told; empty until it has.
    pub address: String,
    /// Of the Task service.
    pub version: u32,
    /// The bundle under the name that containerd's shims expect: the whole id.
    pub link: PathBuf,
}

/// What the answer of `start` says (containerd docs, runtime-v2.md).
#[derive(Deserialize)]
struct Told {
    version: u32,
    address: String,
    #[serde(default)]
    protocol: String,
}

impl Place {
    /// With what the shim has printed: JSON, or the bare address of older ones.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn told(self, output: &str) -> Result<Self, String> {
        let output = output.trim();
        let (version, address) = if output.starts_with('{') {
            let told: Told = serde_json::from_str(output).map_err(|e| e.to_string())?;
            if !matches!(told.protocol.as_str(), "" | "ttrpc") {
                return Err(format!("it speaks {:?}, and not ttrpc", told.protocol));
            }
            (told.version, told.address)
        } else {
            (2, output.to_owned())
        };
        if !matches!(version, 2 | 3) {
            return Err(format!("it speaks version {version} of the task service, not 2 or 3"));
        }
        if !address.starts_with("unix://") {
            return Err(format!("its address is {address:?}, and no unix socket"));
        }
        Ok(Self { address, version, ..self })
    }

    /// Of a shim that is about to be started: what it expects in its bundle is there, and the
    /// bundle says what it is. Blocks.
    ///
    /// # Errors
    /// [`ShimError::Bundle`].
    pub(super) fn prepare(program: &Path, bundle: &Bundle, id: &str) -> Result<Self, ShimError> {
        let link = bundle.path().with_file_name(id);
        let place = Self { program: program.into(), link: link.clone(), ..Self::default() };
        place.write(bundle)?;
        let error = |step, path: &Path| {
            let path = path.to_owned();
            move |source| ShimError::Bundle { step, path, source }
        };
        // A named pipe for containerd; a file is written to as well, and needs no reader.
        let log = bundle.path().join("log");
        fs::File::create(&log).map_err(error("make", &log))?;
        // Left by one that was interrupted, it leads to the same place.
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(bundle.path(), &link).map_err(error("link", &link))?;
        Ok(place)
    }

    /// Removes what stands beside the bundle. Blocks.
    pub(super) fn unlink(&self) {
        if fs::symlink_metadata(&self.link).is_ok_and(|found| found.is_symlink()) {
            let _ = fs::remove_file(&self.link);
        }
    }

    /// From the bundle; `None`: its shim is ours. Blocks.
    pub(super) fn read(bundle: &Bundle) -> Option<Self> {
        serde_json::from_slice(&fs::read(bundle.path().join(FILE)).ok()?).ok()
    }

    /// Into the bundle, whole or not at all. Blocks.
    ///
    /// # Errors
    /// [`ShimError::Bundle`].
    pub(super) fn write(&self, bundle: &Bundle) -> Result<(), ShimError> {
        let path = bundle.path().join(FILE);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(self).expect("paths of ours are text");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| ShimError::Bundle { step: "write", path, source })
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &Path {
        Path::new(self.address.strip_prefix("unix://").unwrap_or_default())
    }

    /// Name of its Task service on the wire.
    pub(super) fn service(&self) -> &'static str {
        if self.version == 2 { SERVICE_V2 } else { SERVICE_V3 }
    }
}

/// What wharfd does for one foreign shim.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) service: &'static str,
    pub(super) bundle: PathBuf,
    execs: Mutex<HashMap<String, Arc<ExecOutput>>>,
    /// Containers that ran out of memory, as shims say.
    pub(super) out_of_memory: OutOfMemory,
}

/// Ids of containers; clones share it.
#[derive(Clone, Debug, Default)]
pub struct OutOfMemory(Arc<Mutex<HashSet<String>>>);

impl OutOfMemory {
    pub(super) fn seen(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.into());
    }

    pub(super) fn take(&self, id: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

impl Foreign {
    pub(super) fn new(place: &Place, bundle: &Bundle, out_of_memory: OutOfMemory) -> Self {
        Self {
            service: place.service(),
            bundle: bundle.path().to_owned(),
            execs: Mutex::default(),
            out_of_memory,
        }
    }

    /// The named pipe of a stdin; `exec` is empty for the container's own.
    pub(super) fn stdin(&self, exec: &str) -> PathBuf {
        self.bundle.join(format!("stdin{}", short(exec)))
    }

    fn output(&self, exec: &str, stream: &str) -> PathBuf {
        self.bundle.join(format!("{stream}{}", short(exec)))
    }

    /// Writes to a stdin; answers when the pipe has all of it.
    pub(super) async fn write_stdin(&self, exec: &str, data: &[u8]) -> Result<(), ShimError> {
        let path = self.stdin(exec);
        let failed = |source| ShimError::Pipe { path: path.clone(), source };
        let mut pipe = pipe::OpenOptions::new().open_sender(&path).map_err(failed)?;
        pipe.write_all(data).await.map_err(failed)
    }

    /// Makes the pipes of an exec and begins to hold them: stdin, stdout, stderr, as the shim is
    /// told of them.
    pub(super) fn pipes(
        &self,
        exec: &str,
        stdin: bool,
        output: bool,
        terminal: bool,
    ) -> Result<[String; 3], ShimError> {
        let mut names = [String::new(), String::new(), String::new()];
        if stdin {
            make_pipe(&self.stdin(exec))?;
            names[0] = self.stdin(exec).display().to_string();
        }
        if output {
            let held = Arc::new(ExecOutput::default());
            let streams: &[_] = if terminal { &["stdout"] } else { &["stdout", "stderr"] };
            for (index, stream) in streams.iter().enumerate() {
                let path = self.output(exec, stream);
                make_pipe(&path)?;
                names[index + 1] = path.display().to_string();
                held.hold(&path, index)?;
            }
            self.execs.lock().unwrap_or_else(PoisonError::into_inner).insert(exec.to_owned(), held);
        }
        Ok(names)
    }

    /// The exec runs: its ends of the pipes are open, and their end means something.
    pub(super) fn begin(&self, exec: &str) {
        if let Some(held) = self.held(exec) {
            held.begin();
        }
    }

    fn held(&self, exec: &str) -> Option<Arc<ExecOutput>> {
        let found = self.execs.lock().unwrap_or_else(PoisonError::into_inner).get(exec).cloned();
        if found.is_some() {
            return found;
        }
        // Of a supervisor before this one: what that one had read and not told is lost.
        let held = Arc::new(ExecOutput::default());
        for (index, stream) in ["stdout", "stderr"].into_iter().enumerate() {
            let path = self.output(exec, stream);
            if path.exists() {
                held.hold(&path, index).ok()?;
            }
        }
        held.begin();
        let mut execs = self.execs.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(execs.entry(exec.to_owned()).or_insert(held)))
    }

    /// As `Shim::read_output` has it.
    pub(super) async fn read_output(
        &self,
        exec: &str,
        offset: u64,
        release_below: Option<u64>,
        within: Duration,
    ) -> Option<ReadOutputResponse> {
        Some(self.held(exec)?.read(offset, release_below, within).await)
    }

    /// Nothing of the exec is needed any more.
    pub(super) fn forget(&self, exec: &str) {
        let held = self.execs.lock().unwrap_or_else(PoisonError::into_inner).remove(exec);
        if let Some(held) = held {
            held.lock().forgotten = true;
            held.changed.notify_waiters();
        }
        for path in [self.stdin(exec), self.output(exec, "stdout"), self.output(exec, "stderr")] {
            // Not all of them were made.
            let _ = fs::remove_file(path);
        }
    }

    /// Waits until the logging binary has written all there was, but not for ever: what a process
    /// left behind holds the pipe open.
    pub(super) async fn drained(&self) {
        let lock = self.bundle.join(LOGGER_LOCK);
        let waiting = tokio::task::spawn_blocking(move || {
            let Ok(file) = fs::File::open(&lock) else { return };
            let end = std::time::Instant::now() + DRAIN_LIMIT;
            while std::time::Instant::now() < end {
                if file.try_lock_shared().is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        waiting.await.expect("waiting does not panic");
    }
}

/// The URI of a logging binary: ours, told where to write and what to lock meanwhile.
pub(super) fn log_uri(program: &Path, bundle: &Path, log: &wharf_proto::shim::LogTarget) -> String {
    // Percent-encoded, as containerd's shims read it.
    let mut value = String::new();
    let lock = bundle.join(LOGGER_LOCK);
    let words = [
        log.path.clone(),
        log.max_bytes.to_string(),
        log.max_files.to_string(),
        lock.display().to_string(),
        match log.format() {
            Format::JsonFile => "json-file".to_owned(),
            Format::Unspecified | Format::Cri => "cri".to_owned(),
        },
        match log.when_full() {
            WhenFull::Drop => "drop".to_owned(),
            WhenFull::Unspecified | WhenFull::Block => "block".to_owned(),
        },
    ];
    for byte in words.join("\n").bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.') {
            value.push(char::from(byte));
        } else {
            value.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("binary://{}?logger={value}", program.display())
}

/// Exec ids have 32 characters; a part is enough in one bundle.
fn short(exec: &str) -> String {
    if exec.is_empty() { String::new() } else { format!("-{}", exec.get(..16).unwrap_or(exec)) }
}

pub(super) fn make_pipe(path: &Path) -> Result<(), ShimError> {
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, path, FileType::Fifo, mode, 0)
        .map_err(|errno| ShimError::Pipe { path: path.into(), source: errno.into() })
}

/// Output of one exec, as far as nobody has it yet.
#[derive(Debug, Default)]
struct ExecOutput {
    pipes: Mutex<Vec<(usize, pipe::Receiver)>>,
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    chunks: VecDeque<(usize, Vec<u8>)>,
    /// Offset of the first byte that is held.
    begin: u64,
    bytes: usize,
    /// Pipes that have not ended.
    open: usize,
    /// Nobody will ask any more.
    forgotten: bool,
}

impl ExecOutput {
    /// Opens a pipe for reading before anybody writes.
    fn hold(&self, path: &Path, stream: usize) -> Result<(), ShimError> {
        let pipe = pipe::OpenOptions::new()
            .open_receiver(path)
            .map_err(|source| ShimError::Pipe { path: path.into(), source })?;
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner).push((stream, pipe));
        self.lock().open += 1;
        Ok(())
    }

    fn begin(self: &Arc<Self>) {
        let pipes = std::mem::take(&mut *self.pipes.lock().unwrap_or_else(PoisonError::into_inner));
        for (stream, pipe) in pipes {
            // Ends with the pipe, or when nobody holds the exec any more.
            tokio::spawn(pump(Arc::downgrade(self), stream, pipe));
        }
    }

    async fn read(
        &self,
        offset: u64,
        release_below: Option<u64>,
        within: Duration,
    ) -> ReadOutputResponse {
        let end = tokio::time::Instant::now() + within;
        self.lock().release(release_below.unwrap_or(offset).min(offset));
        self.changed.notify_waiters();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let held = self.lock();
                let (chunks, next_offset) = held.after(offset);
                let eof = held.open == 0 && chunks.is_empty();
                if eof || !chunks.is_empty() {
                    return ReadOutputResponse { chunks, next_offset, eof };
                }
            }
            if tokio::time::timeout_at(end, changed).await.is_err() {
                return ReadOutputResponse { chunks: Vec::new(), next_offset: offset, eof: false };
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn release(&mut self, below: u64) {
        while let Some((_, chunk)) = self.chunks.front_mut() {
            let Some(over) = below.checked_sub(self.begin).filter(|n| *n > 0) else { return };
            let gone = chunk.len().min(usize::try_from(over).unwrap_or(usize::MAX));
            if gone == chunk.len() {
                self.chunks.pop_front();
            } else {
                chunk.drain(..gone);
            }
            self.begin += gone as u64;
            self.bytes -= gone;
        }
        if self.chunks.is_empty() {
            self.begin = self.begin.max(below);
        }
    }

    /// What is held beyond an offset, and the offset after it.
    fn after(&self, offset: u64) -> (Vec<OutputChunk>, u64) {
        let mut at = self.begin;
        let mut chunks = Vec::new();
        for (stream, data) in &self.chunks {
            let end = at + data.len() as u64;
            if end > offset {
                let skip = usize::try_from(offset.saturating_sub(at)).unwrap_or(0);
                let stream = match stream {
                    0 => output_chunk::Stream::Stdout,
                    _ => output_chunk::Stream::Stderr,
                };
                chunks.push(OutputChunk { stream: stream.into(), data: data[skip..].to_vec() });
            }
            at = end;
        }
        (chunks, at.max(offset))
    }
}

async fn pump(output: std::sync::Weak<ExecOutput>, stream: usize, mut pipe: pipe::Receiver) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = pipe.read(&mut buffer).await;
        let Some(output) = output.upgrade() else { return };
        loop {
            let changed = output.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let mut held = output.lock();
                if held.forgotten {
                    return;
                }
                match &read {
                    Ok(0) | Err(_) => {
                        held.open -= 1;
                        output.changed.notify_waiters();
                        return;
                    }
                    Ok(count) if held.bytes < HELD_BYTES => {
                        held.bytes += count;
                        held.chunks.push_back((stream, buffer[..*count].to_vec()));
                        output.changed.notify_waiters();
                        break;
                    }
                    // The pipe fills, and the process waits.
                    Ok(_) => {}
                }
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use tokio::{io::AsyncWriteExt as _, net::unix::pipe};

    use super::{ExecOutput, HELD_BYTES, Place, log_uri, make_pipe};

    #[test]
    fn answers_of_start_in_both_forms() {
        let told = |text: &str| Place::default().told(text);
        let bare = told("unix:///run/s\n").expect("old");
        assert_eq!((bare.version, bare.service()), (2, "containerd.task.v2.Task"));
        assert_eq!(bare.socket(), Path::new("/run/s"));
        let json = r#"{"version":3,"address":"unix:///run/s","protocol":"ttrpc"}"#;
        let new = told(json).expect("new");
        assert_eq!((new.version, new.service()), (3, "containerd.task.v3.Task"));
        for bad in [
            "",
            "{",
            "tcp://1.2.3.4:5",
            r#"{"version":4,"address":"unix:///s"}"#,
            r#"{"version":3,"address":"unix:///s","protocol":"grpc"}"#,
        ] {
            assert!(told(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_log_as_a_uri() {
        let log = wharf_proto::shim::LogTarget {
            path: "/l og".into(),
            max_bytes: 5,
            max_files: 2,
            ..Default::default()
        };
        assert_eq!(
            log_uri(Path::new("/b/shim"), Path::new("/c"), &log),
            "binary:///b/shim?logger=/l%20og%0A5%0A2%0A/c/logger.lock%0Acri%0Ablock"
        );
    }

    #[tokio::test]
    async fn output_is_held_in_bounds_and_read_again_from_an_offset() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("p");
        make_pipe(&path).expect("a pipe");
        let output = std::sync::Arc::new(ExecOutput::default());
        output.hold(&path, 0).expect("opened");
        let mut writer = pipe::OpenOptions::new().open_sender(&path).expect("opened");
        output.begin();
        let whole: Vec<u8> = (0..=255).cycle().take(4 * HELD_BYTES).collect();
        let sent = whole.clone();
        let writing = tokio::spawn(async move { writer.write_all(&sent).await });
        let (mut got, mut offset) = (Vec::new(), 0);
        loop {
            // Nothing is let go of before it is read again.
            let first = output.read(offset, Some(offset), Duration::from_secs(30)).await;
            let again = output.read(offset, Some(offset), Duration::from_secs(30)).await;
            if first.eof {
                break;
            }
            let first: Vec<u8> = first.chunks.into_iter().flat_map(|c| c.data).collect();
            let second: Vec<u8> = again.chunks.into_iter().flat_map(|c| c.data).collect();
            assert!(second.starts_with(&first));
            assert!(output.lock().bytes <= HELD_BYTES + (16 << 10));
            offset += first.len() as u64;
            got.extend(first);
        }
        assert!(got == whole, "{} of {} bytes", got.len(), whole.len());
        writing.await.expect("no panic").expect("all was read");
    }
}
