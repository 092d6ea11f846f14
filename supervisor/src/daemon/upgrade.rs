//! The running supervisor replaced by another one, with nobody turned away.
//!
//! ```text
//!  old                                         new
//!  ask the program what it is (--handover-version)
//!  start it ─────────────────────────────────▶ flags, configuration, shim: all that can be checked
//!  ◀───────────────────────────── hello ──────┘  … until here nothing has changed for anyone
//!  drain: short calls end here, streams at a cursor, new connections wait in the socket's queue
//!  shut down, close the store
//!  ──────────── take: locks, listener ───────▶ open the store, take up the containers
//!  ◀──────────────────────────── serving ─────┘
//!  ask it over the socket who it is; end
//! ```
//! At whatever step the new one fails, it is killed and the old one begins anew in its own process,
//! with the locks and the listener that it has never given up.

use std::{
    ffi::OsString,
    io,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use wharf_proto::v1::{InfoRequest, system_client::SystemClient};

use super::{
    notify,
    place::{KEPT, Place, SUCCESSOR},
};
use crate::{
    config::{Address, Config},
    drivers::{
        handover::{Hello, Line, Message},
        open_files,
    },
    fault, faultpoint,
    services::upgrade::{Error, Outcome},
    store,
};

/// Raised when the talk between two supervisors changes; both must know the same.
const HANDOVER: u32 = 1;
/// What a program may take to say what it is.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Largest answer that is looked at.
const PROBE_MAX: u64 = 4096;
/// What the new one may take until its hello.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// What sled may take to give its lock back once nobody has the store any more.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// What a program says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    program: String,
    version: String,
    handover: u32,
    schema: u32,
}

/// The answer to `--handover-version`.
#[must_use]
pub fn identity() -> String {
    let identity = Identity {
        program: "wharfd".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        handover: HANDOVER,
        schema: store::SCHEMA,
    };
    serde_json::to_string(&identity).expect("words and numbers")
}

/// A supervisor that was started and waits to take over. Killed on drop.
#[derive(Debug)]
pub(super) struct Successor {
    child: Option<Child>,
    line: Line,
    /// Who it says it is.
    pub(super) hello: Hello,
    /// Of the upgrade.
    pub(super) id: String,
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether `program` can be the next wharfd, asked without a change to anything.
pub(super) async fn check(program: &Path) -> Result<(), Error> {
    let refused = |problem: String| Error::Program { path: program.into(), problem };
    if !program.is_absolute() {
        return Err(refused("an absolute path is needed".into()));
    }
    let meta = std::fs::metadata(program).map_err(|e| refused(e.to_string()))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(refused("it is not an executable file".into()));
    }
    let said = tokio::time::timeout(PROBE_LIMIT, probe(program))
        .await
        .map_err(|_| refused(format!("it did not say what it is within {PROBE_LIMIT:?}")))?
        .map_err(|e| refused(e.to_string()))?;
    let identity: Identity = serde_json::from_slice(&said)
        .map_err(|_| refused("it is no wharfd that can take over".into()))?;
    if identity.program != "wharfd" || identity.handover != HANDOVER {
        return Err(refused(format!("{} {} can't take over", identity.program, identity.version)));
    }
    if identity.schema < store::SCHEMA {
        return Err(refused(format!(
            "version {} does not understand the metadata of version {} (schema {} against {})",
            identity.version,
            env!("CARGO_PKG_VERSION"),
            identity.schema,
            store::SCHEMA
        )));
    }
    Ok(())
}

async fn probe(program: &Path) -> io::Result<Vec<u8>> {
    let mut child = tokio::process::Command::new(program)
        .arg("--handover-version")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(PROBE_MAX).read_to_end(&mut said).await?;
    }
    let status = child.wait().await?;
    if !status.success() {
        return Err(io::Error::other(format!("asked what it is, it ended with {status}")));
    }
    Ok(said)
}

/// Starts `program` and waits for its hello. Blocks.
pub(super) fn start(config: &Config, program: &Path, id: String) -> Result<Successor, Error> {
    let refused = |e: io::Error| Error::Program { path: program.into(), problem: e.to_string() };
    let (line, theirs) = Line::pair().map_err(refused)?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let child = std::process::Command::new(program)
        .args(arguments)
        .env(SUCCESSOR, std::process::id().to_string())
        .envs(open_files::variable())
        .env_remove(KEPT)
        .stdin(Stdio::from(theirs))
        .spawn()
        .map_err(refused)?;
    let nobody =
        Hello { version: String::new(), schema: 0, root: PathBuf::new(), state: PathBuf::new() };
    let mut successor = Successor { child: Some(child), line, hello: nobody, id };
    match successor.line.receive(HELLO_LIMIT) {
        Ok((Message::Hello(hello), _)) => successor.hello = hello,
        Ok(_) => return Err(Error::NotReady("it said something else than hello".into())),
        Err(error) => {
            return Err(Error::NotReady(successor.what_happened(&error, HELLO_LIMIT)));
        }
    }
    let hello = &successor.hello;
    if hello.schema < store::SCHEMA {
        return Err(Error::NotReady("it does not understand this version's metadata".into()));
    }
    if hello.root != config.root || hello.state != config.state {
        return Err(Error::NotReady(format!(
            "its configuration has other folders: root {}, state {}",
            hello.root.display(),
            hello.state.display()
        )));
    }
    Ok(successor)
}

impl Successor {
    /// On the host.
    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Gives everything to the new one and waits until it serves. The store must have no user left
    /// in this process. Blocks.
    ///
    /// # Errors
    /// Why it does not serve; it is gone then.
    pub(super) fn take_over(mut self, config: &Config, place: &Place) -> Result<(), String> {
        let meta = config.root.join("meta");
        faultpoint::reach_blocking("upgrade.shut.down");
        if !store::released(&meta, RELEASE_LIMIT) {
            return Err("the old wharfd could not let go of its metadata".into());
        }
        // A newer form of the metadata can't be read by us any more.
        let kept = if self.hello.schema > store::SCHEMA { Some(keep(&meta)?) } else { None };
        let served = self.serve_instead(config, place);
        match (&served, kept) {
            (Ok(()), Some(copy)) => drop(std::fs::remove_dir_all(copy)),
            (Err(_), Some(copy)) => {
                drop(self);
                put_back(&copy, &meta)?;
                return served;
            }
            (_, None) => {}
        }
        if served.is_ok() {
            notify::main_pid(self.pid());
            // It goes on without us.
            self.child = None;
        }
        served
    }

    fn serve_instead(&mut self, config: &Config, place: &Place) -> Result<(), String> {
        let fds = [place.root.as_fd(), place.state.as_fd(), place.socket.as_fd()];
        let given = self.line.send(&place.take(&self.id), &fds);
        given.map_err(|error| self.what_happened(&error, Duration::ZERO))?;
        faultpoint::reach_blocking("upgrade.given");
        let limit = config.upgrade_timeout;
        match self.line.receive(limit) {
            Ok((Message::Serving, _)) => {}
            Ok(_) => return Err("it said something else than that it serves".into()),
            Err(error) => return Err(self.what_happened(&error, limit)),
        }
        let Address::Unix(path) = &config.address else { return Ok(()) };
        ask(path, self.pid(), limit)
    }

    /// In words, for whoever wanted the upgrade.
    fn what_happened(&mut self, error: &io::Error, limit: Duration) -> String {
        match error.kind() {
            io::ErrorKind::TimedOut => format!("it said nothing within {limit:?}"),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                let status = self.child.as_mut().and_then(|child| child.wait().ok());
                let status = status.map_or_else(|| "no status".into(), |s| s.to_string());
                format!("it ended ({status}); its log says why")
            }
            _ => error.to_string(),
        }
    }
}

/// Asks over the socket who serves there, as any client would.
fn ask(socket: &Path, pid: u32, limit: Duration) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let call = async {
            let address = format!("unix:{}", socket.display());
            let channel = tonic::transport::Endpoint::from_shared(address)
                .map_err(|e| fault::chain(&e))?
                .connect()
                .await
                .map_err(|e| fault::chain(&e))?;
            let info = SystemClient::new(channel).info(InfoRequest {}).await;
            let found = info.map_err(|e| e.to_string())?.into_inner().pid;
            if found == pid { Ok(()) } else { Err(format!("pid {found} answers in its place")) }
        };
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("it does not answer calls within {limit:?}")),
        }
    })
}

/// A copy of the closed metadata, beside it.
fn keep(meta: &Path) -> Result<PathBuf, String> {
    let copy = meta.with_extension("before-upgrade");
    let copied = (|| {
        if copy.exists() {
            std::fs::remove_dir_all(&copy)?;
        }
        copy_folder(meta, &copy)
    })();
    copied.map_err(|e| format!("copy the metadata: {e}"))?;
    Ok(copy)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            std::fs::File::open(&target)?.sync_all()?;
        }
    }
    std::fs::File::open(to)?.sync_all()
}

fn put_back(copy: &Path, meta: &Path) -> Result<(), String> {
    let newer = meta.with_extension("of-failed-upgrade");
    let moved = (|| {
        if newer.exists() {
            std::fs::remove_dir_all(&newer)?;
        }
        std::fs::rename(meta, &newer)?;
        std::fs::rename(copy, meta)?;
        std::fs::File::open(meta.parent().unwrap_or(meta))?.sync_all()
    })();
    moved.map_err(|e| format!("put the metadata back: {e}"))
}

/// How it ended, for the next generation.
pub(super) fn failed(id: String, failure: String) -> Outcome {
    Outcome {
        id,
        old_pid: std::process::id(),
        old_version: env!("CARGO_PKG_VERSION").into(),
        failure: Some(failure),
    }
}
