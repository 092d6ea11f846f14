//! OCI runtime for Linux: makes one container out of a spec, and is gone when the call returns.
//!
//! Owns namespaces, cgroups, mounts and privileges of a container. It never waits for a container's
//! end, keeps no state of its own, and starts no thread: the caller, which must have one thread
//! only, is the container's parent, reaps it and keeps what [`Task::state`] gives.
//!
//! ```text
//! create ─▶ Created (init waits before execve) ─ start ─▶ running ─▶ the caller reaps ─ destroy
//! ```
#![deny(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

mod edge;
mod error;
mod flow;
#[cfg(any(test, fuzzing))]
#[allow(unreachable_pub, reason = "public under cfg(fuzzing)")]
pub mod fuzzing;
mod logic;
pub mod spec;
#[allow(unsafe_code)]
mod sys;

pub use edge::command_line;
pub use error::{Error, ErrorKind, Failure};

use flow::cgroup::Cgroup;
use flow::hooks::Subject;
use flow::notify::Notify;
use flow::rdt;
use flow::task::Frozen;
use logic::memory_policy::MemoryPolicy;
use logic::seccomp::Filter;
use spec::{LinuxResources, Process, Spec};
use sys::channel::Channel;

/// What [`create`] needs to know.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Names the container's cgroup where the spec does not.
    pub id: &'a str,
    /// Relative paths in the spec start here.
    pub bundle: &'a Path,
    /// The whole spec, resolved: users as numbers, paths inside the container absolute.
    pub spec: &'a Spec,
    /// The root file system.
    pub rootfs: Rootfs<'a>,
    /// The three standard descriptors.
    pub stdio: Stdio,
}

/// Where the root file system comes from.
#[derive(Debug)]
pub enum Rootfs<'a> {
    /// Mounted already; relative to the bundle.
    Path(&'a Path),
    /// To be mounted on the spec's `root.path`, in the container's mount namespace only.
    Mounts(&'a [RootfsMount]),
}

/// One mount, in containerd's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootfsMount {
    /// File system, or `bind`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Below the root; empty for the root itself.
    pub target: String,
    /// As for mount(8).
    pub options: Vec<String>,
}

/// The three standard descriptors of a process.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// These three.
    Fds {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
    /// A new terminal of the container's own devpts, whose master the caller gets.
    Terminal {
        /// Columns and rows.
        size: Option<(u16, u16)>,
    },
}

/// A container whose init waits for [`Created::start`] before its execve. Dropped without it, the
/// init ends; the caller still reaps it.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub task: Task,
    /// The master of its terminal.
    pub pty: Option<OwnedFd>,
    /// What was asked and could not be given in full; for the log.
    pub warnings: Vec<String>,
    gate: Option<Channel>,
    subject: Subject,
}

/// A container that is there.
#[derive(Debug)]
pub struct Task {
    /// Its init, in the caller's pid namespace.
    pub pid: i32,
    /// When the init began, in ticks since boot: with the pid it names the process for good.
    pub start_ticks: u64,
    /// The init.
    pub pidfd: OwnedFd,
    cgroup: Cgroup,
    namespaces: u64,
    seccomp: Option<Filter>,
    notify: Option<Notify>,
    memory_policy: Option<MemoryPolicy>,
    personality: Option<u64>,
    rdt: rdt::Made,
}

/// A process added to a container.
#[derive(Debug)]
pub struct Exec {
    /// In the caller's pid namespace.
    pub pid: i32,
    /// As [`Task::start_ticks`].
    pub start_ticks: u64,
    /// The process.
    pub pidfd: OwnedFd,
    /// The master of its terminal.
    pub pty: Option<OwnedFd>,
    /// As [`Created::warnings`].
    pub warnings: Vec<String>,
}

/// What a [`Task`] can be made of again in another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskState {
    version: u32,
    /// See [`Task::pid`].
    pub pid: i32,
    /// See [`Task::start_ticks`].
    pub start_ticks: u64,
    cgroup: Cgroup,
    namespaces: u64,
    seccomp: Option<Filter>,
    #[serde(default)]
    notify: Option<Notify>,
    #[serde(default)]
    memory_policy: Option<MemoryPolicy>,
    #[serde(default)]
    personality: Option<u64>,
    #[serde(default)]
    rdt: rdt::Made,
}

impl TaskState {
    const VERSION: u32 = 1;

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Whether what is mounted for the container is in the caller's own mount namespace.
    pub(crate) fn shares_mounts(&self) -> bool {
        self.namespaces & sys::process::ns::MOUNT == 0
    }
}

/// Makes a container: namespaces, cgroups, mounts, all done when this returns, and an init that
/// waits before its execve. The init is a child of the calling process, which must have one thread.
/// Blocks until the init is ready, two minutes at most. On failure nothing is left behind.
///
/// # Errors
/// A spec that can't be carried out, or the step that failed, here or in the init.
pub fn create(request: CreateRequest<'_>) -> Result<Created, Error> {
    flow::create::create(&request, &flow::init::Options::default())
}

/// Makes sure that the calling program can't be overwritten through `/proc/self/exe` by a container
/// that its children enter: executes the same program anew, with the same arguments and
/// environment, from a mount that is read-only for everybody (or a sealed copy in memory). Returns
/// when that is so already; to be called first in `main`. The path in `/proc/self/exe` then means
/// nothing, but it can still be opened and executed.
///
/// # Errors
/// When neither way works.
pub fn run_sealed() -> Result<(), Error> {
    use error::Step;
    use std::os::unix::ffi::OsStrExt;
    let args: Vec<_> =
        std::env::args_os().filter_map(|arg| sys::c_str(arg.as_bytes()).ok()).collect();
    let env: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| {
            sys::c_str(&[name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    Ok(sys::sealed::run_sealed(&args, &env).step(|| "run from a sealed copy")?)
}

/// Mounts a root file system at `at`, in the mount namespace of the calling process, which is cut
/// off from the host's first (as a slave): the caller has unshared it.
///
/// # Errors
/// The mount that failed.
pub fn mount_rootfs(mounts: &[RootfsMount], at: &Path) -> Result<(), Error> {
    flow::rootfs::set_propagation(None)?;
    Ok(flow::rootfs::mount_root(mounts, at)?)
}

/// Runs the spec's poststop hooks, as is to be done after the container is destroyed.
///
/// # Errors
/// The first hook that failed; all of them are run.
pub fn run_poststop_hooks(spec: &Spec, id: &str, bundle: &Path) -> Result<(), Error> {
    Ok(Subject::new(spec, id, bundle).poststop()?)
}

impl Created {
    /// Lets the init go on; returns when execve has succeeded.
    ///
    /// # Errors
    /// When the program can't be executed, its listener not be passed on, or a poststart hook
    /// fails; the init is then reaped, and `destroy` is left to do.
    pub fn start(&mut self) -> Result<(), Error> {
        flow::create::start(self)
    }
}

impl Task {
    /// Adds a process, as a child of the calling process, which must have one thread. Returns when
    /// its execve has succeeded.
    ///
    /// # Errors
    /// When the init has ended or is paused, or the step that failed.
    pub fn exec(&self, process: &Process, stdio: Stdio) -> Result<Exec, Error> {
        if self.is_paused() {
            // The process would freeze on entering the cgroup, and this call with it.
            let text = "the container is paused";
            return Err(Failure::new(ErrorKind::Precondition, "exec", text).into());
        }
        flow::exec::exec(self, process, &stdio, &flow::exec::ExecOptions::default())
    }

    /// Signals the init.
    ///
    /// # Errors
    /// [`Error::Gone`] when it has been reaped.
    pub fn signal(&self, signal: i32) -> Result<(), Error> {
        use error::Step;
        match sys::process::pidfd_signal(self.pidfd.as_fd(), signal) {
            Err(e) if e.raw_os_error() == Some(sys::no::ESRCH) => {
                Err(Error::Gone { pid: self.pid })
            }
            done => Ok(done.step(|| format!("send signal {signal} to {}", self.pid))?),
        }
    }

    /// Signals every process in the container's cgroup.
    ///
    /// # Errors
    /// When the cgroup can't be read or frozen.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        Ok(flow::task::signal_all(&self.cgroup, signal)?)
    }

    /// All processes, in the caller's pid namespace, sorted.
    ///
    /// # Errors
    /// When the cgroup can't be read.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        Ok(flow::task::pids(&self.cgroup)?)
    }

    /// Makes all processes stand still; returns when they do.
    ///
    /// # Errors
    /// When the kernel refuses, or takes over ten seconds.
    pub fn pause(&self) -> Result<(), Error> {
        Ok(flow::task::set_frozen(&self.cgroup, Frozen::Yes)?)
    }

    /// Lets all processes go on.
    ///
    /// # Errors
    /// When the kernel refuses, or takes over ten seconds.
    pub fn resume(&self) -> Result<(), Error> {
        Ok(flow::task::set_frozen(&self.cgroup, Frozen::No)?)
    }

    /// Whether the container is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        flow::task::is_frozen(&self.cgroup)
    }

    /// Changes limits; what `resources` does not name stays.
    ///
    /// # Errors
    /// The field that makes no sense, or the value that the kernel refused.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.cgroup.update(resources)
    }

    /// How many processes the kernel has killed in this container for want of memory.
    ///
    /// # Errors
    /// When the cgroup can't be read.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        Ok(flow::cgroup::oom_kills(&self.cgroup)?)
    }

    /// Removes the container's cgroups, killing what is left in them, ten seconds at most. Done
    /// already is fine. The mounts die with the last process.
    ///
    /// # Errors
    /// When a process can't be killed, or a directory not removed.
    pub fn destroy(&self) -> Result<(), Error> {
        flow::task::destroy(&self.cgroup)?;
        Ok(flow::rdt::destroy(&self.rdt)?)
    }

    /// Writes down below `root` what a `wharf-runtime` with that `--root` needs to know of the
    /// container: what only the command does, it then does to this one.
    ///
    /// # Errors
    /// When it can't be written, or the command knows a container of that id.
    pub fn tell_command(&self, root: &Path, id: &str, bundle: &Path) -> Result<(), Error> {
        edge::tell_command(self, root, id, bundle)
    }

    /// What to keep for [`Task::load`].
    #[must_use]
    pub fn state(&self) -> TaskState {
        TaskState {
            version: TaskState::VERSION,
            pid: self.pid,
            start_ticks: self.start_ticks,
            cgroup: self.cgroup.clone(),
            namespaces: self.namespaces,
            seccomp: self.seccomp.clone(),
            notify: self.notify.clone(),
            memory_policy: self.memory_policy.clone(),
            personality: self.personality,
            rdt: self.rdt.clone(),
        }
    }

    /// The task that a state names, if its init is still the same process (a zombie counts).
    ///
    /// # Errors
    /// [`Error::Gone`] when it is not.
    pub fn load(state: TaskState) -> Result<Self, Error> {
        flow::task::load(state)
    }

    /// The container around a process that another runtime made. Cgroups that are the caller's own
    /// too are not the container's. [`Task::exec`] is not for it.
    ///
    /// # Errors
    /// [`Error::Gone`], or what can't be read.
    pub fn of_process(pid: i32) -> Result<Self, Error> {
        flow::task::of_process(pid)
    }

    /// As [`Task::load`], for a caller that has kept the init's pidfd, whether it runs or not.
    ///
    /// # Errors
    /// When the state is of another version.
    pub fn with_pidfd(state: TaskState, pidfd: OwnedFd) -> Result<Self, Error> {
        flow::task::with_pidfd(state, pidfd)
    }
}

impl TaskState {
    /// Like [`Task::destroy`], for a container whose init is gone.
    ///
    /// # Errors
    /// As there.
    pub fn destroy(&self) -> Result<(), Error> {
        flow::task::destroy(&self.cgroup)?;
        Ok(flow::rdt::destroy(&self.rdt)?)
    }
}
