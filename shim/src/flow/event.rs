//! What happened to a task, for whoever follows it. The order of the list is the order in which
//! it happened: start before exit, exit before delete.

use std::path::PathBuf;

use super::create::{CreateTask, Mount};
use super::process::Process;
use super::shim::Shim;
use super::stdio::Uris;
use crate::logic::exit::Exit;

/// One event.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Created(Box<Created>),
    Started {
        pid: i32,
    },
    ExecAdded {
        exec: String,
    },
    ExecStarted {
        exec: String,
        pid: i32,
    },
    /// `exec` is `None` for the init.
    Exited {
        exec: Option<String>,
        exit: Exit,
    },
    Deleted {
        exec: Option<String>,
        exit: Exit,
    },
    OutOfMemory,
    Paused,
    Resumed,
}

/// Of a task that is there.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) uris: Uris,
    pub(crate) terminal: bool,
    pub(crate) pid: i32,
}

/// An event with its container and time.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub(crate) container: String,
    pub(crate) at_unix_ns: i64,
    pub(crate) event: Event,
}

impl Shim {
    /// Remembers an event for those who follow, if anybody does.
    pub(crate) fn happened(&mut self, event: Event) {
        if !self.has_followers {
            return;
        }
        let container =
            self.container.as_ref().map_or(&self.identity.id, |container| &container.id);
        let container = container.as_str().to_owned();
        self.events.push(Happened { container, at_unix_ns: crate::sys::clock::unix_ns(), event });
    }

    /// Events since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.events)
    }

    /// From here on events are kept for [`Shim::take_events`].
    pub(crate) fn follow(&mut self) {
        self.has_followers = true;
    }
}

pub(crate) fn created(request: &CreateTask, pid: i32) -> Event {
    Event::Created(Box::new(Created {
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        uris: request.uris.clone(),
        terminal: request.terminal,
        pid,
    }))
}

/// The exec's id; `None` for the init.
pub(crate) fn exec_of(process: &Process) -> Option<String> {
    process.exec.as_ref().map(|exec| exec.as_str().to_owned())
}
