//! What another shim needs to go on with the container should this one be killed.
//!
//! Goes to whoever keeps it (with descriptors), and into the bundle (without). The form is
//! versioned, and read by every later version: see `tests/states`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wharf_runtime::TaskState;

use super::foreign::Foreign;
use super::shim::{Container, Identity, Shim};
use super::stdio::Uris;
use crate::logic::ids::TaskId;
use crate::logic::lines::{Format, Stream};
use crate::logic::process::State;
use crate::sys::SysError;
use crate::sys::handover::{collect, optional_fd};

/// Of [`Kept`]'s form.
const VERSION: u32 = 1;

/// A container and its init, as far as they outlive a shim. `F`: a descriptor, ours while it is
/// written, owned once it is read; absent where it could not be passed on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "F: AsFd", deserialize = "F: From<OwnedFd>"))]
pub(crate) struct Kept<F> {
    pub(super) version: u32,
    pub(super) id: TaskId,
    pub(super) bundle: PathBuf,
    /// Where events go.
    pub(super) events: Option<String>,
    pub(super) has_private_pids: bool,
    pub(super) has_poststop: bool,
    pub(super) number: u32,
    pub(super) state: State,
    pub(super) was_started: bool,
    pub(super) uris: Uris,
    pub(super) terminal: bool,
    #[serde(with = "optional_fd")]
    pub(super) pidfd: Option<F>,
    #[serde(with = "optional_fd")]
    pub(super) stdin: Option<F>,
    #[serde(with = "optional_fd")]
    pub(super) pty: Option<F>,
    pub(super) outputs: Vec<KeptOutput<F>>,
    pub(super) log: Option<KeptLog>,
    #[serde(default)]
    pub(super) foreign: Option<Foreign>,
}

/// One stream of output that had not ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "F: AsFd", deserialize = "F: From<OwnedFd>"))]
pub(crate) struct KeptOutput<F> {
    pub(super) stream: Stream,
    #[serde(with = "optional_fd")]
    pub(super) source: Option<F>,
    pub(super) is_logged: bool,
    /// Where it goes instead.
    #[serde(with = "optional_fd")]
    pub(super) sink: Option<F>,
}

/// The log, by name: what was written to it is there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptLog {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) max_bytes: u64,
    pub(super) max_files: u32,
    pub(super) drops_when_full: bool,
    pub(super) dropped: u64,
}

/// As it goes to a keeper: bytes, and the descriptors that they name, in order.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) state: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// [`Message::state`].
#[derive(Serialize, Deserialize)]
struct Body {
    /// What the descriptors were called where the state was written.
    numbers: Vec<i32>,
    runtime: TaskState,
    kept: serde_json::Value,
}

/// What an adopting shim begins with.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) runtime: TaskState,
    pub(crate) kept: Kept<OwnedFd>,
}

/// A state that is not understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error("state has version {0}, this program reads version {VERSION}")]
    Version(u64),
    #[error("state is not valid")]
    Json(#[from] serde_json::Error),
    #[error("state names {named} descriptors, {given} came with it")]
    Descriptors { named: usize, given: usize },
}

impl Shim {
    /// For a keeper. Empty when there is nothing to keep.
    pub(crate) fn keep(&self) -> Result<Message, SysError> {
        let Some(container) = &self.container else { return Ok(Message::default()) };
        let failed = |source: serde_json::Error| SysError::new("write", "state", source);
        let (kept, numbers) = collect(|| serde_json::to_value(self.kept(container)));
        let body =
            Body { numbers, runtime: container.hold.task().state(), kept: kept.map_err(failed)? };
        let descriptors = body
            .numbers
            .iter()
            .map(|&number| crate::sys::handover::duplicate(number))
            .collect::<Result<_, _>>()?;
        Ok(Message { state: serde_json::to_vec(&body).map_err(failed)?, descriptors })
    }

    /// What is kept, without the runtime's part.
    pub(super) fn kept<'a>(&'a self, container: &'a Container) -> Kept<BorrowedFd<'a>> {
        let init = self.processes.get(&container.init).expect("a container has its init");
        let outputs = init.ends.pumps.iter().filter_map(super::pump::Pump::kept).collect();
        Kept {
            version: VERSION,
            id: container.id.clone(),
            bundle: container.bundle.clone(),
            events: self.events_address.clone(),
            has_private_pids: container.has_private_pids,
            has_poststop: container.has_poststop,
            number: container.init,
            state: init.state,
            was_started: init.was_started,
            uris: init.uris.clone(),
            terminal: init.terminal,
            pidfd: Some(container.hold.task().pidfd.as_fd()),
            stdin: init.ends.input.as_ref().and_then(super::input::Input::kept),
            pty: init.ends.pty.as_ref().map(|pty| pty.master.as_fd()),
            outputs,
            log: self.log.as_ref().map(super::log::Log::kept),
            foreign: container.foreign.clone(),
        }
    }
}

impl Message {
    /// In an adopting shim: what came from the keeper. `None`: there is nothing to go on with.
    pub(crate) fn open(self) -> Result<Option<Found>, KeptError> {
        if self.state.is_empty() {
            return Ok(None);
        }
        let body: Body = serde_json::from_slice(&self.state)?;
        let (named, given) = (body.numbers.len(), self.descriptors.len());
        if named != given {
            return Err(KeptError::Descriptors { named, given });
        }
        let given = body.numbers.into_iter().zip(self.descriptors).collect();
        let kept = read(body.kept, given)?;
        Ok(Some(Found { runtime: body.runtime, kept }))
    }
}

/// The state behind a JSON value, with the descriptors that its numbers mean.
pub(super) fn read(
    value: serde_json::Value,
    given: std::collections::BTreeMap<i32, OwnedFd>,
) -> Result<Kept<OwnedFd>, KeptError> {
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        version => return Err(KeptError::Version(version.unwrap_or(0))),
    }
    Ok(crate::sys::handover::with_given(given, || serde_json::from_value(value))?)
}

/// Who is in a bundle, for the command line.
pub(crate) fn found_in(identity: &Identity) -> Result<Option<Found>, super::Error> {
    super::records::StateRecord::load(&identity.bundle)?
        .map(super::records::StateRecord::found)
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::{KeptError, Message};

    /// The form of each released version, which every later program reads. Never edited.
    const RELEASED: [&str; 1] = [include_str!("../../tests/states/kept-v1.json")];

    fn with(text: &str, count: usize) -> Message {
        let null = || std::fs::File::open("/dev/null").expect("open").into();
        Message { state: text.into(), descriptors: (0..count).map(|_| null()).collect() }
    }

    #[test]
    fn released_forms_are_read() {
        for text in RELEASED {
            let found = with(text, 4).open().expect("understood").expect("something");
            assert_eq!(found.runtime.pid, 31_153);
            assert!(found.kept.pidfd.is_some() && found.kept.stdin.is_some());
            assert_eq!(found.kept.outputs.len(), 2);
            assert!(found.kept.outputs.iter().all(|output| output.source.is_some()));
            assert_eq!(found.kept.events.as_deref(), Some("/run/c.ttrpc"));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let [text] = RELEASED;
        let error = with(text, 3).open().expect_err("one is missing");
        assert!(matches!(error, KeptError::Descriptors { named: 4, given: 3 }), "{error}");
        let newer = text.replace("\"version\":1,\"was_started\"", "\"version\":2,\"was_started\"");
        let error = with(&newer, 4).open().expect_err("newer");
        assert!(matches!(error, KeptError::Version(2)), "{error}");
        assert!(with("", 0).open().expect("nothing").is_none());
    }
}
