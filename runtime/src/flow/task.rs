//! What may be done to a container that is there: signals, pause, limits, the end.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::cgroup::{Cgroup, Dir, pids_in, put};
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::sys::process;
use crate::sys::sig;
use crate::{Task, TaskState};

/// How long the kernel may take to freeze, and processes to go once killed.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at what the kernel gives no event for.
const PAUSE: Duration = Duration::from_millis(1);

/// When a process began; a process that is gone already is an error.
pub(crate) fn started(pid: i32) -> Result<u64, Error> {
    let ticks = process::start_ticks(pid).step(|| format!("read /proc/{pid}/stat"))?;
    ticks.ok_or(Error::Gone { pid })
}

/// Ends a child that failed on its way; tells how it had ended if it did so by itself.
pub(crate) fn kill_and_reap(pidfd: &OwnedFd, error: Error) -> Error {
    // It may be gone already, which is as good.
    let _ = process::pidfd_signal(pidfd.as_fd(), sig::SIGKILL);
    let ended = process::reap(pidfd.as_fd());
    match (error, ended) {
        (Error::InitDied { .. }, Ok((number, true))) => {
            Error::InitDied { how: format!("signal {number}") }
        }
        (Error::InitDied { .. }, Ok((number, false))) => {
            Error::InitDied { how: format!("exit code {number}") }
        }
        (error, _) => error,
    }
}

/// All processes of the container.
pub(crate) fn pids(cgroup: &Cgroup) -> Result<Vec<i32>, Failure> {
    let Some(dir) = listing(cgroup) else { return Ok(Vec::new()) };
    let mut all = pids_in(&dir.path).step(|| format!("read {}", dir.path.display()))?;
    all.sort_unstable();
    Ok(all)
}

/// The hierarchy to ask for processes: v2's, where none can hide in a thread's own cgroup.
fn listing(cgroup: &Cgroup) -> Option<&Dir> {
    cgroup.unified().or_else(|| cgroup.with("devices")).or_else(|| cgroup.dirs.first())
}

/// Signals every process of the container.
pub(crate) fn signal_all(cgroup: &Cgroup, signal: i32) -> Result<(), Failure> {
    if signal == sig::SIGKILL
        && let Some(dir) = cgroup.unified()
        && put(&dir.path.join("cgroup.kill"), "1").is_ok()
    {
        // Frozen by v1 they would die only when thawed.
        return set_frozen(cgroup, Frozen::No);
    }
    // Frozen, none can fork away from the list. Where nothing can freeze, look again until no new
    // one turns up.
    let frozen = set_frozen(cgroup, Frozen::Yes).is_ok();
    let mut seen = Vec::new();
    loop {
        let new: Vec<i32> = pids(cgroup)?.into_iter().filter(|pid| !seen.contains(pid)).collect();
        for pid in &new {
            // Gone meanwhile is as good.
            let _ = process::signal_pid(*pid, signal);
        }
        let again = !frozen && signal == sig::SIGKILL && !new.is_empty();
        seen.extend(new);
        if !again {
            break;
        }
    }
    if frozen { set_frozen(cgroup, Frozen::No) } else { Ok(()) }
}

/// Whether processes are to stand still.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frozen {
    Yes,
    No,
}

/// Freezes or thaws; returns when it is so.
pub(crate) fn set_frozen(cgroup: &Cgroup, frozen: Frozen) -> Result<(), Failure> {
    if let Some(dir) = cgroup.with("freezer") {
        return freeze_v1(&dir.path, frozen);
    }
    let Some(dir) = cgroup.unified() else {
        let text = "the container has no cgroup that can";
        return Err(Failure::new(ErrorKind::Unsupported, "freeze or thaw", text));
    };
    let (value, wanted) = if frozen == Frozen::Yes { ("1", "frozen 1") } else { ("0", "frozen 0") };
    let file = dir.path.join("cgroup.freeze");
    match put(&file, value) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && frozen == Frozen::No => return Ok(()),
        done => done.step(|| format!("write {value} to {}", file.display()))?,
    }
    let events = dir.path.join("cgroup.events");
    until(|| {
        let text = fs::read_to_string(&events).step(|| format!("read {}", events.display()))?;
        Ok(text.lines().any(|line| line == wanted))
    })
}

fn freeze_v1(dir: &Path, frozen: Frozen) -> Result<(), Failure> {
    let file = dir.join("freezer.state");
    let wanted = if frozen == Frozen::Yes { "FROZEN" } else { "THAWED" };
    until(|| {
        match put(&file, wanted) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && frozen == Frozen::No => {
                return Ok(true);
            }
            done => done.step(|| format!("write {wanted} to {}", file.display()))?,
        }
        let text = fs::read_to_string(&file).step(|| format!("read {}", file.display()))?;
        // FREEZING can last while a process forks: writing again is what helps.
        Ok(text.trim() == wanted)
    })
}

fn until(mut done: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let end = Instant::now() + DEADLINE;
    while !done()? {
        if Instant::now() > end {
            let text = "the kernel did not get there in time";
            return Err(Failure::new(ErrorKind::Deadline, "freeze or thaw", text));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether the container stands still.
pub(crate) fn is_frozen(cgroup: &Cgroup) -> bool {
    let read = |dir: &Dir, file: &str| fs::read_to_string(dir.path.join(file)).unwrap_or_default();
    match (cgroup.with("freezer"), cgroup.unified()) {
        (Some(dir), _) => read(dir, "freezer.state").trim() != "THAWED",
        (None, Some(dir)) => read(dir, "cgroup.freeze").trim() == "1",
        (None, None) => false,
    }
}

/// Removes the cgroups, killing what is left in them. Gone already is fine.
pub(crate) fn destroy(cgroup: &Cgroup) -> Result<(), Failure> {
    cgroup.stop_unit()?;
    let end = Instant::now() + DEADLINE;
    let mut killed = false;
    loop {
        let Err(error) = cgroup.remove() else { return Ok(()) };
        if error.raw_os_error() != Some(crate::sys::no::EBUSY) || Instant::now() > end {
            return Err(error).step(|| "remove the container's cgroups");
        }
        if !killed {
            // What can't be killed keeps the cgroup busy until the deadline says so.
            let _ = signal_all(cgroup, sig::SIGKILL);
            killed = true;
        }
        std::thread::sleep(PAUSE);
    }
}

/// See [`Task::load`].
pub(crate) fn load(state: TaskState) -> Result<Task, Error> {
    let gone = || Error::Gone { pid: state.pid };
    // First the descriptor, then the look: the number can't come to mean another in between.
    let pidfd = process::pidfd_open(state.pid).map_err(|_| gone())?;
    let now = process::start_ticks(state.pid).step(|| format!("read /proc/{}/stat", state.pid))?;
    if now != Some(state.start_ticks) {
        return Err(gone());
    }
    with_pidfd(state, pidfd)
}

/// See [`Task::of_process`].
pub(crate) fn of_process(pid: i32) -> Result<Task, Error> {
    let pidfd = process::pidfd_open(pid).map_err(|_| Error::Gone { pid })?;
    Ok(Task {
        pid,
        start_ticks: started(pid)?,
        pidfd,
        cgroup: Cgroup::of(pid)?,
        namespaces: 0,
        seccomp: None,
        notify: None,
        memory_policy: None,
        personality: None,
        rdt: Vec::new(),
    })
}

/// See [`Task::with_pidfd`].
pub(crate) fn with_pidfd(state: TaskState, pidfd: OwnedFd) -> Result<Task, Error> {
    if state.version != TaskState::VERSION {
        let text = format!("is of version {}, not {}", state.version, TaskState::VERSION);
        return Err(Failure::new(ErrorKind::Corrupt, "read a task's state", text).into());
    }
    Ok(Task {
        pid: state.pid,
        start_ticks: state.start_ticks,
        pidfd,
        cgroup: state.cgroup,
        namespaces: state.namespaces,
        seccomp: state.seccomp,
        notify: state.notify,
        memory_policy: state.memory_policy,
        personality: state.personality,
        rdt: state.rdt,
    })
}
