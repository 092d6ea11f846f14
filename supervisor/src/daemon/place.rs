//! What a supervisor holds alone while it lives, and gives to the next one: the locks of its two
//! folders and its listening socket.
//!
//! It comes in one of four ways: taken and bound anew; the socket by the service manager
//! (LISTEN_FDS); all by the supervisor before this one; all kept over an exec of ourselves, after an
//! upgrade that came to nothing.

use std::{
    env,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Error, listen::Socket, lock::Lock};
use crate::{
    config::Config,
    drivers::{
        handover::{self, Hello, Line, Message, Take},
        open_files,
    },
    faultpoint,
    services::upgrade::Outcome,
    store,
};

/// Set for a process that is to take over from the one that started it.
pub(super) const SUCCESSOR: &str = "WHARF_SUCCESSOR";
/// What was kept over an exec.
pub(super) const KEPT: &str = "WHARF_KEPT";
/// How long the old one may take between our hello and its hand-over.
const DRAIN_PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: Lock,
    pub(super) state: Lock,
    pub(super) socket: Socket,
    /// Where this program came from, for the next one.
    pub(super) program: PathBuf,
    /// The upgrade that this process is the result of.
    pub(super) outcome: Option<Outcome>,
    /// To the one before, until it knows that calls are taken.
    pub(super) line: Option<Line>,
}

/// Descriptors by number, for the same process after an exec.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// A child that inherits the variable has another.
    pid: u32,
    root: i32,
    state: i32,
    listener: i32,
    address: String,
    activated: bool,
    outcome: Outcome,
}

impl Place {
    /// However it comes; see the module. Blocks.
    ///
    /// # Errors
    /// When it can't be had; the one before goes on, then.
    pub(super) fn find(config: &Arc<Config>) -> Result<Self, Error> {
        let program = program()?;
        if let Some(kept) = kept() {
            return Self::kept(config, kept, program);
        }
        if env::var_os(SUCCESSOR).is_some_and(|pid| pid == parent().as_str()) {
            return Self::given(config, program);
        }
        let activated = super::listen::activated();
        let root = Lock::take(&config.root)?;
        let state = Lock::take(&config.state)?;
        let socket = Socket::bind(config, activated)?;
        faultpoint::reach_blocking("startup.bound");
        Ok(Self { root, state, socket, program, outcome: None, line: None })
    }

    /// From the supervisor that started this process, once it has let go.
    fn given(config: &Arc<Config>, program: PathBuf) -> Result<Self, Error> {
        let line = Line::of_stdin().map_err(Error::Handover)?;
        super::shim_program(config)?;
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            schema: store::SCHEMA,
            root: config.root.clone(),
            state: config.state.clone(),
        };
        line.send(&Message::Hello(hello), &[]).map_err(Error::Handover)?;
        let (message, fds) = line.receive(DRAIN_PATIENCE).map_err(Error::Handover)?;
        let (Message::Take(take), Ok([root, state, listener])) =
            (message, <[OwnedFd; 3]>::try_from(fds))
        else {
            return Err(Error::Handover(std::io::ErrorKind::InvalidData.into()));
        };
        faultpoint::reach_blocking("upgrade.taken");
        let Take { address, activated, id, old_pid, old_version } = take;
        Ok(Self {
            root: Lock::given(&config.root, root)?,
            state: Lock::given(&config.state, state)?,
            socket: Socket::given(config, &address, listener, activated)?,
            program,
            outcome: Some(Outcome { id, old_pid, old_version, failure: None }),
            line: Some(line),
        })
    }

    fn kept(config: &Arc<Config>, kept: Kept, program: PathBuf) -> Result<Self, Error> {
        let fd = |number| {
            let lost = || Error::Handover(std::io::ErrorKind::NotFound.into());
            handover::started_with(number).ok_or_else(lost)
        };
        // All of them before anything else is opened.
        let (root, state, listener) = (fd(kept.root)?, fd(kept.state)?, fd(kept.listener)?);
        Ok(Self {
            root: Lock::given(&config.root, root)?,
            state: Lock::given(&config.state, state)?,
            socket: Socket::given(config, &kept.address, listener, kept.activated)?,
            program,
            outcome: Some(kept.outcome),
            line: None,
        })
    }

    /// The message for the next one.
    pub(super) fn take(&self, id: &str) -> Message {
        Message::Take(Take {
            address: self.socket.address.clone(),
            activated: self.socket.activated,
            id: id.into(),
            old_pid: std::process::id(),
            old_version: env!("CARGO_PKG_VERSION").into(),
        })
    }

    /// Begins this program anew, in this process, with all that it holds: whatever a generation that
    /// was shut down has left behind is gone with its memory. Answers only when that fails.
    pub(super) fn begin_anew(&self, outcome: Outcome) -> Error {
        let fds = [self.root.as_fd(), self.state.as_fd(), self.socket.as_fd()];
        for fd in fds {
            if let Err(error) = handover::keep_over_exec(fd) {
                return Error::Handover(error);
            }
        }
        let [root, state, listener] = fds.map(|fd| fd.as_raw_fd());
        let kept = Kept {
            pid: std::process::id(),
            root,
            state,
            listener,
            address: self.socket.address.clone(),
            activated: self.socket.activated,
            outcome,
        };
        let kept = serde_json::to_string(&kept).expect("numbers and words");
        // The program as it is, even if its file was replaced meanwhile.
        let mut own = Command::new("/proc/self/exe");
        own.args(env::args_os().skip(1)).env(KEPT, kept).env_remove(SUCCESSOR);
        own.envs(open_files::variable());
        Error::Handover(own.exec())
    }
}

fn kept() -> Option<Kept> {
    let kept: Kept = serde_json::from_str(&env::var(KEPT).ok()?).ok()?;
    (kept.pid == std::process::id()).then_some(kept)
}

fn parent() -> String {
    std::os::unix::process::parent_id().to_string()
}

/// Where the running program was started from: the place to look for the next one.
fn program() -> Result<PathBuf, Error> {
    let exe = env::current_exe()
        .map_err(|source| Error::File { path: "/proc/self/exe".into(), source })?;
    // What the kernel adds when the file was replaced.
    let text = exe.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| exe.clone(), PathBuf::from))
}
