//! `Checkpoint`, and `Create` from one: by the command of a runtime, which has criu do it.
//!
//! The embedded runtime's containers are told to `wharf-runtime` for it. The shim waits for the
//! command, as the container stands still meanwhile.

use std::path::{Path, PathBuf};

use super::Error;
use super::event;
use super::foreign::Foreign;
use super::shim::{Container, Shim};
use crate::logic::ids::TaskId;
use crate::logic::process::Event;
use crate::sys::files;
use crate::sys::journal::{self, Level};

/// criu's own files, where the request names no folder for them.
const WORK: &str = "criu-work";

/// What criu is to put up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    OpenTcp,
    ExternalUnixSockets,
    Terminal,
    FileLocks,
    KeepRunning,
}

impl Switch {
    /// As a flag of runc's.
    pub(super) const fn flag(self) -> &'static str {
        match self {
            Self::OpenTcp => "--tcp-established",
            Self::ExternalUnixSockets => "--ext-unix-sk",
            Self::Terminal => "--shell-job",
            Self::FileLocks => "--file-locks",
            Self::KeepRunning => "--leave-running",
        }
    }
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) image: PathBuf,
    /// `None`: a folder of the shim's own.
    pub(crate) work: Option<PathBuf>,
    pub(crate) switches: Vec<Switch>,
    pub(crate) empty_namespaces: Vec<String>,
    /// In runc's words; empty: its default.
    pub(crate) cgroups_mode: String,
}

/// The checkpoint that a container is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restore {
    pub(crate) image: PathBuf,
    pub(crate) work: Option<PathBuf>,
}

/// criu's folder, removed after use if it is the shim's own.
pub(super) struct Work<'a> {
    path: PathBuf,
    own_in: Option<&'a Path>,
}

impl<'a> Work<'a> {
    pub(super) fn new(bundle: &'a Path, named: Option<&Path>) -> Self {
        match named {
            Some(path) => Self { path: path.to_owned(), own_in: None },
            None => Self { path: bundle.join(WORK), own_in: Some(bundle) },
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What criu wrote stays for people: `dump.log` as `criu-dump.log`.
    pub(super) fn keep_log(&self, log: &str) {
        if let Some(bundle) = self.own_in {
            // It may not have come so far.
            let _ = std::fs::rename(self.path.join(log), bundle.join(format!("criu-{log}")));
        }
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if self.own_in.is_some() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

impl Shim {
    /// Saves the container; unless it is to go on, it has ended then, by SIGKILL.
    pub(crate) fn checkpoint(&mut self, id: &TaskId, asked: &Checkpoint) -> Result<(), Error> {
        let container = self.container(Some(id))?;
        let init = self.processes.get(&container.init).expect("a container has its init");
        init.state.after(Event::Checkpoint)?;
        let of = container.of();
        match &container.foreign {
            Some(foreign) => foreign.checkpoint(of, asked)?,
            None => by_own_command(container, asked)?,
        }
        journal::write(Level::Info, "container saved", &[("image", &asked.image.display())]);
        self.happened(event::Event::Checkpointed { image: asked.image.clone() });
        // One that ended is on its way here as a SIGCHLD.
        Ok(())
    }
}

fn by_own_command(container: &Container, asked: &Checkpoint) -> Result<(), Error> {
    let of = container.of();
    let foreign = Foreign { criu: container.criu.clone(), ..Foreign::own() };
    let root = foreign.root(of);
    let left = |source| Error::Runtime { step: "tell the container to the command", source };
    // Of one that was interrupted.
    files::remove_folder(&root)?;
    container.hold.task().tell_command(&root, of.id, of.bundle).map_err(left)?;
    let done = foreign.checkpoint(of, asked);
    let removed = files::remove_folder(&root);
    done?;
    Ok(removed?)
}
