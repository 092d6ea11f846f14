//! `Create`: the bundle becomes a container whose init waits before its execve.

use std::path::{Path, PathBuf};

use wharf_runtime::spec as oci;
use wharf_runtime::{CreateRequest, Rootfs, RootfsMount};

use super::Error;
use super::checkpoint::Restore;
use super::event;
use super::foreign::{self, Foreign, Of};
use super::log::{Log, LogTarget};
use super::process::Process;
use super::records::{StateRecord, StdioRecord};
use super::shim::{Container, Hold, Shim};
use super::stdio::{From, Names, Owner, Plan, To, Uris, Window};
use crate::logic::exit::{Ending, Exit};
use crate::logic::ids::TaskId;
use crate::sys::journal::{self, Level};
use crate::sys::{cgroup, clock, process};

/// A mount for the root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: String,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) options: Vec<String>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct CreateTask {
    pub(crate) id: TaskId,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) terminal: bool,
    pub(crate) uris: Uris,
    /// Wharf's own options; without them the URIs say where streams go.
    pub(crate) options: Option<Options>,
    /// Who is to own the pipes of the init.
    pub(crate) owner: Option<Owner>,
    /// By whose program it is made; `None`: by the embedded runtime.
    pub(crate) foreign: Option<Foreign>,
    /// A checkpoint to make it of; whoever asks for it names the program as well.
    pub(crate) restore: Option<Restore>,
    /// criu's program; empty: the one in PATH.
    pub(crate) criu: PathBuf,
    /// Where the shim itself is to be accounted for; `None`: where it is.
    pub(crate) shim_cgroup: Option<String>,
}

/// Wharf's own options.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `None`: output is thrown away.
    pub(crate) log: Option<LogTarget>,
    pub(crate) open_stdin: bool,
    pub(crate) window: Option<Window>,
}

impl Shim {
    /// Answers with the pid of the init.
    pub(crate) fn create(&mut self, request: &CreateTask) -> Result<i32, Error> {
        if let Some(container) = &self.container {
            return Err(Error::TaskExists(container.id.as_str().to_owned()));
        }
        let spec = load_spec(&request.bundle)?;
        if let Some(path) = &request.shim_cgroup {
            cgroup::enter(path)?;
        }
        let names = Names { id: request.id.as_str(), namespace: &self.identity.namespace };
        let opened = plan(request, &spec)?.open(names)?;
        self.log = match request.options.as_ref().and_then(|options| options.log.as_ref()) {
            Some(target) => Some(Log::open(target)?),
            None => None,
        };
        let mounts = runtime_mounts(&request.rootfs);
        let path = rootfs_path(&request.bundle, &spec);
        let rootfs = if mounts.is_empty() { Rootfs::Path(&path) } else { Rootfs::Mounts(&mounts) };
        let has_private_pids = has_private_pids(&spec);
        let has_poststop = spec
            .hooks()
            .as_ref()
            .and_then(|hooks| hooks.poststop().as_ref())
            .is_some_and(|hooks| !hooks.is_empty());
        let made = match &request.foreign {
            None => embedded(request, &spec, rootfs, opened.stdio),
            Some(foreign) => {
                let of = Of { id: request.id.as_str(), bundle: &request.bundle };
                let rootfs = (!mounts.is_empty()).then_some((&mounts[..], &*path));
                let made = match &request.restore {
                    None => foreign.create(of, rootfs, opened.stdio),
                    Some(restore) => foreign.restore(of, rootfs, opened.stdio, restore),
                };
                made.map(|(task, pty)| (Hold::Found(Box::new(task)), pty))
                    .map_err(foreign::not_started)
            }
        };
        drop(spec);
        self.touch();
        let (hold, pty) = made?;

        let pid = hold.task().pid;
        let ends = match opened.wires.attach(pty) {
            Ok(ends) => ends,
            Err(error) => {
                undo(request, hold.task());
                return Err(error);
            }
        };
        let number = self.next_number();
        let mut init = Process::new(number, None, request.uris.clone(), request.terminal);
        init.pid = pid;
        init.ends = ends;
        self.processes.insert(number, init);
        self.container = Some(Container {
            id: request.id.clone(),
            bundle: request.bundle.clone(),
            hold,
            has_private_pids,
            has_poststop: has_poststop && request.foreign.is_none(),
            foreign: request.foreign.clone(),
            criu: request.criu.clone(),
            is_adopted: false,
            init: number,
        });
        if let Err(error) = self.save_state(Started::No) {
            if let Some(container) = self.container.take() {
                undo(request, container.hold.task());
            }
            self.processes.remove(&number);
            return Err(error);
        }
        self.arm(number);
        self.is_kept_stale = true;
        journal::write(Level::Info, "container created", &[("pid", &pid)]);
        self.happened(event::created(request, pid));
        self.watch_memory(pid);
        Ok(pid)
    }

    /// Writes down who is here, before it is told.
    pub(crate) fn save_state(&self, started: Started) -> Result<(), Error> {
        let Some(container) = &self.container else { return Ok(()) };
        let shim_pid = std::process::id();
        let ticks = i32::try_from(shim_pid).ok().and_then(process::start_ticks);
        let record = StateRecord {
            version: StateRecord::VERSION,
            namespace: self.identity.namespace.clone(),
            id: container.id.as_str().to_owned(),
            socket: self.identity.socket.clone(),
            shim_pid,
            shim_start_ticks: ticks.unwrap_or(0),
            is_started: started == Started::Yes,
            runtime: container.hold.task().state(),
            foreign: container.foreign.clone(),
            stdio: Some(StdioRecord::of(&self.kept(container))),
        };
        record.save(&container.bundle)
    }
}

/// By the runtime that this program has in it.
fn embedded(
    request: &CreateTask,
    spec: &oci::Spec,
    rootfs: Rootfs<'_>,
    stdio: wharf_runtime::Stdio,
) -> Result<(Hold, Option<std::os::fd::OwnedFd>), Error> {
    let mut created = wharf_runtime::create(CreateRequest {
        id: request.id.as_str(),
        bundle: &request.bundle,
        spec,
        rootfs,
        stdio,
    })
    .map_err(|source| not_started(0, source))?;
    for warning in &created.warnings {
        journal::write(Level::Warn, "container is degraded", &[("reason", warning)]);
    }
    let pty = created.pty.take();
    Ok((Hold::Made(Box::new(created)), pty))
}

/// Whether execve was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Started {
    Yes,
    No,
}

/// The shell's code for an entrypoint that could not be started, as an exit record.
pub(crate) fn not_started(pid: i32, source: wharf_runtime::Error) -> Error {
    let pid = u32::try_from(pid).unwrap_or(0);
    let exit = Exit::new(pid, Ending::Code(source.exit_code()), false, clock::unix_ns());
    Error::Start { exit, source }
}

/// Takes back a container that nobody was told of. Goes on after a failure.
fn undo(request: &CreateTask, task: &wharf_runtime::Task) {
    let _ = process::signal(&task.pidfd, libc::SIGKILL);
    process::wait_end(&task.pidfd, std::time::Duration::from_secs(2));
    process::reap(task.pid);
    if let Some(foreign) = &request.foreign {
        let of = Of { id: request.id.as_str(), bundle: &request.bundle };
        if let Err(error) = foreign.delete(of) {
            let error = journal::chain(&error);
            journal::write(Level::Error, "runtime did not delete", &[("error", &error)]);
        }
    }
    if let Err(error) = task.destroy() {
        let error = journal::chain(&error);
        journal::write(Level::Error, "container was not taken back", &[("error", &error)]);
    }
}

pub(super) fn load_spec(bundle: &Path) -> Result<oci::Spec, Error> {
    let path = bundle.join("config.json");
    oci::Spec::load(&path).map_err(|source| Error::Spec { path, source })
}

fn rootfs_path(bundle: &Path, spec: &oci::Spec) -> PathBuf {
    let path = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
    // An absolute one replaces the bundle.
    bundle.join(path)
}

fn runtime_mounts(mounts: &[Mount]) -> Vec<RootfsMount> {
    mounts
        .iter()
        .map(|mount| RootfsMount {
            kind: mount.kind.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect()
}

fn has_private_pids(spec: &oci::Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.is_some_and(|namespaces| {
        namespaces.iter().any(|namespace| {
            namespace.typ() == oci::LinuxNamespaceType::Pid && namespace.path().is_none()
        })
    })
}

fn plan(request: &CreateTask, spec: &oci::Spec) -> Result<Plan, Error> {
    let in_spec = spec.process().as_ref().and_then(oci::Process::console_size).and_then(|size| {
        Some((u16::try_from(size.width()).ok()?, u16::try_from(size.height()).ok()?))
    });
    let Some(options) = &request.options else {
        let plan = Plan::from_uris(&request.uris, request.terminal.then_some(in_spec))?;
        return Ok(Plan { owner: request.owner, ..plan });
    };
    let output = || if options.log.is_some() { To::Log } else { To::Nowhere };
    Ok(Plan {
        stdin: if options.open_stdin { From::Calls } else { From::Nowhere },
        stdout: output(),
        stderr: output(),
        terminal: request.terminal.then_some(options.window.or(in_spec)),
        owner: request.owner,
    })
}
