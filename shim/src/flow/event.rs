//! What happened to a task, for whoever follows it. The order of the list is the order in which
//! it happened: start before exit, exit before delete.

use std::path::PathBuf;

use super::create::{CreateTask, Mount};
use super::process::Process;
use super::shim::Shim;
use super::stdio::Uris;
use crate::logic::exit::Exit;
use crate::sys::cgroup::{Cgroup, MemoryWatch};
use crate::sys::journal::{self, Level};
use crate::sys::poller::{Interest, Token};

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
    Checkpointed {
        image: PathBuf,
    },
}

/// Of a task that is there.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) uris: Uris,
    pub(crate) terminal: bool,
    pub(crate) pid: i32,
    /// The checkpoint that it was made of.
    pub(crate) checkpoint: Option<PathBuf>,
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

    /// Asks the kernel for word when memory runs out. Best effort: an exit tells of it in any case.
    pub(crate) fn watch_memory(&mut self, pid: i32) {
        if !self.has_followers {
            return;
        }
        let watch = Cgroup::of(pid).and_then(|cgroup| MemoryWatch::new(&cgroup));
        match watch.and_then(|watch| {
            self.poller.add(&watch, Token::Memory, Interest::Read)?;
            Ok(watch)
        }) {
            Ok(watch) => self.memory = Some(watch),
            Err(error) => {
                let error = journal::chain(&error);
                journal::write(Level::Debug, "memory is not watched", &[("error", &error)]);
            }
        }
    }

    /// The kernel has said something of memory, or a process has ended.
    pub(crate) fn on_memory(&mut self) {
        if let Some(watch) = &self.memory {
            watch.clear();
        }
        let kills = self.oom_kills();
        if kills > self.oom_kills_told {
            self.oom_kills_told = kills;
            self.happened(Event::OutOfMemory);
        }
    }

    /// No more word of memory is wanted.
    pub(crate) fn unwatch_memory(&mut self) {
        if let Some(watch) = self.memory.take() {
            self.poller.remove(&watch);
        }
        self.oom_kills_told = 0;
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
        checkpoint: request.restore.as_ref().map(|restore| restore.image.clone()),
    }))
}

/// The exec's id; `None` for the init.
pub(crate) fn exec_of(process: &Process) -> Option<String> {
    process.exec.as_ref().map(|exec| exec.as_str().to_owned())
}
