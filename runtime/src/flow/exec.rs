//! One more process in a running container.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::spec::Process;

use super::cgroup::{self, Cgroup};
use super::console::{self, Console};
use super::create::{receive, until_exec};
use super::init::run_child;
use super::process;
use super::task::{kill_and_reap, started};
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::message::Message;
use crate::logic::process_plan::ProcessPlan;
use crate::sys::channel::Channel;
use crate::sys::exec::close_except;
use crate::sys::process::{self as sys_process, Fork, Parent, ns};
use crate::sys::{no, path};
use crate::{Exec, Stdio, Task};

const SET_UP_DEADLINE: Duration = Duration::from_secs(60);

/// What only the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct ExecOptions {
    /// Descriptors from 3 on that the program inherits.
    pub(crate) preserved_fds: u32,
    /// Where the process goes, if not to the container's own cgroups.
    pub(crate) cgroup: Option<Cgroup>,
}

/// See [`Task::exec`].
pub(crate) fn exec(
    task: &Task,
    process: &Process,
    stdio: &Stdio,
    options: &ExecOptions,
) -> Result<Exec, Error> {
    let plan = ProcessPlan::parse(process, "process")?;
    if sys_process::pidfd_ended(task.pidfd.as_fd(), Duration::ZERO).step(|| "look at the init")? {
        return Err(Error::Gone { pid: task.pid });
    }
    if task.namespaces & ns::USER != 0
        && let Some(owner) = host_id_in(task.pid, plan.uid)
    {
        console::give_stdio(stdio, owner);
    }
    let (ours, theirs) = Channel::pair().step(|| "make a channel to the process")?;
    let cgroup = options.cgroup.as_ref().unwrap_or(&task.cgroup);
    // The process is to be our own child and in the container's pid namespace: ours for children is
    // changed around the clone, so no process in between is needed.
    let forked = with_affinity(&plan.affinity.before, || {
        fork_in_pid_namespace(Some(task.pidfd.as_fd()), || fork_into(task, options))
    });
    let forked = forked.map_err(|error| match (error, &options.cgroup) {
        (Error::Step(failure), Some(_)) => {
            let step = "adding pid of the new process to cgroups".to_owned();
            Error::Step(Failure { step, ..failure })
        }
        (error, _) => error,
    })?;
    let (pid, pidfd) = match forked {
        Fork::Child => {
            drop(ours);
            run_child(&theirs, || run(task, cgroup, &plan, stdio, &theirs, options.preserved_fds))
        }
        Fork::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let done = until_running(&ours, task, pid)
        .and_then(|(pty, warnings)| Ok((pty, warnings, started(pid)?)));
    match done {
        Ok((pty, warnings, start_ticks)) => Ok(Exec { pid, start_ticks, pidfd, pty, warnings }),
        Err(error) => Err(kill_and_reap(&pidfd, error)),
    }
}

/// What a user of the container's is on the host, if the kernel tells.
fn host_id_in(pid: i32, id: u32) -> Option<u32> {
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (inside, outside) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let offset = id.checked_sub(inside)?;
        if offset < numbers.next()?.ok()? { outside.checked_add(offset) } else { None }
    })
}

type Running = (Option<std::os::fd::OwnedFd>, Vec<String>);

/// Has a child born on certain processors: it is in the container's cgroup from its birth, or is
/// about to enter it. This process goes on where it was.
fn with_affinity(mask: &[u64], fork: impl FnOnce() -> Result<Fork, Error>) -> Result<Fork, Error> {
    if mask.is_empty() {
        return fork();
    }
    let step = || "process.execCPUAffinity.initial: set it";
    let own = sys_process::affinity().step(step)?;
    sys_process::set_affinity(mask).step(step)?;
    let forked = fork();
    if !matches!(forked, Ok(Fork::Child)) {
        let back = sys_process::set_affinity(&own);
        if let (Err(_), Ok(Fork::Parent { pidfd, .. })) = (&back, &forked) {
            // Nobody will look after this child.
            let _ = sys_process::pidfd_signal(pidfd.as_fd(), crate::sys::sig::SIGKILL);
            let _ = sys_process::reap(pidfd.as_fd());
        }
        back.step(|| "return to our own processors")?;
    }
    forked
}

fn until_running(channel: &Channel, task: &Task, pid: i32) -> Result<Running, Error> {
    let (pty, warnings) = match receive(channel, SET_UP_DEADLINE)? {
        (Message::Ready { warnings }, pty) => (pty, warnings),
        (Message::Failed(failure), _) => return Err(failure.into()),
        _ => {
            let text = "neither ready nor failed";
            return Err(Failure::new(ErrorKind::Internal, "exec", text).into());
        }
    };
    until_exec(channel, task.notify.as_ref(), pid, task.pid, "running")?;
    Ok((pty, warnings))
}

/// Forks with the children's pid namespace set to that of `target` (a pidfd or a namespace), and
/// sets it back.
pub(crate) fn fork_in_pid_namespace(
    target: Option<BorrowedFd<'_>>,
    fork: impl FnOnce() -> std::io::Result<Fork>,
) -> Result<Fork, Error> {
    let step = || "fork the container's process";
    let Some(target) = target else { return Ok(fork().step(step)?) };
    let own = sys_process::open_namespace("/proc/self/ns/pid".as_ref())
        .step(|| "open our pid namespace")?;
    sys_process::setns(target, ns::PID).step(|| "join the container's pid namespace")?;
    let forked = fork();
    if !matches!(forked, Ok(Fork::Child)) {
        // Without this every later child would be born in the container.
        let back = sys_process::setns(own.as_fd(), ns::PID);
        if let (Err(_), Ok(Fork::Parent { pidfd, .. })) = (&back, &forked) {
            // Nobody will look after this child.
            let _ = sys_process::pidfd_signal(pidfd.as_fd(), crate::sys::sig::SIGKILL);
            let _ = sys_process::reap(pidfd.as_fd());
        }
        back.step(|| "return to our own pid namespace")?;
    }
    Ok(forked.step(step)?)
}

/// Forks into the cgroup of v2. A container may have given its own to controllers, which take no
/// process then, or have left it: unless a place was named, its init's is as good.
fn fork_into(task: &Task, options: &ExecOptions) -> std::io::Result<Fork> {
    let fork = |fd: Option<BorrowedFd<'_>>| sys_process::fork(0, fd, Parent::Caller);
    let cgroup = options.cgroup.as_ref().unwrap_or(&task.cgroup);
    let Some(dir) = cgroup.unified() else { return fork(None) };
    let forked = path::open_host(&dir.path).and_then(|fd| fork(Some(fd.as_fd())));
    match forked {
        Err(e)
            if options.cgroup.is_none()
                && matches!(e.raw_os_error(), Some(no::EBUSY | no::ENOENT | no::EOPNOTSUPP)) =>
        {
            let Some(place) = cgroup::unified_place_of(task.pid, &dir.mount) else {
                return Err(e);
            };
            path::open_host(&place).and_then(|fd| fork(Some(fd.as_fd())))
        }
        forked => forked,
    }
}

fn run(
    task: &Task,
    cgroup: &Cgroup,
    plan: &ProcessPlan,
    stdio: &Stdio,
    channel: &Channel,
    preserved_fds: u32,
) -> Result<Infallible, Failure> {
    let mut warnings = Vec::new();
    sys_process::setsid().step(|| "start a session")?;
    process::leave_keyring(&mut warnings);
    cgroup.enter()?;
    match (plan.affinity.before.is_empty(), plan.affinity.after.is_empty()) {
        (_, false) => sys_process::set_affinity(&plan.affinity.after)
            .step(|| "process.execCPUAffinity.final: set it")?,
        // What it was born with is what was asked.
        (false, true) => {}
        (true, true) => sys_process::reset_affinity(),
    }
    process::set_memory_policy(task.memory_policy.as_ref())?;
    process::set_oom_score(plan, &mut warnings)?;
    process::set_labels(plan)?;
    // Without a mount namespace the root does not come with it.
    let own_root = match task.namespaces & ns::MOUNT {
        0 => Some(
            path::open_host(std::path::Path::new(&format!("/proc/{}/root", task.pid)))
                .step(|| "open the container's root")?,
        ),
        _ => None,
    };
    // The container's processes are about to see this one: no ptrace, no /proc/<pid>/fd
    // (CVE-2016-9962). One with CAP_SYS_PTRACE may look all the same, so nothing of the caller's is
    // left to be seen.
    sys_process::hide_from_neighbours().step(|| "hide from the container")?;
    let mut kept = vec![channel.fd(), task.pidfd.as_fd()];
    if let Stdio::Fds { stdin, stdout, stderr } = stdio {
        kept.extend([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    }
    kept.extend(own_root.as_ref().map(|root| root.as_fd()));
    close_except(3 + preserved_fds.cast_signed(), &kept)
        .step(|| "close the caller's descriptors")?;
    let all = ns::MOUNT | ns::UTS | ns::IPC | ns::NET | ns::CGROUP;
    let kinds = all | task.namespaces & (ns::USER | ns::TIME);
    sys_process::setns(task.pidfd.as_fd(), kinds & !ns::PID)
        .step(|| "join the container's namespaces")?;
    let mapped = task.namespaces & ns::USER != 0;
    if mapped {
        crate::sys::cred::become_user(0, 0, None).step(|| "become root of the user namespace")?;
    }
    let groups = process::groups(mapped);
    if let Some(own) = own_root {
        path::change_directory(own.as_fd()).step(|| "change to the container's root")?;
        crate::sys::mount::change_root_here().step(|| "chroot to the container's root")?;
    }
    let root = path::open_root().step(|| "open the container's root")?;
    let pty = console::connect(stdio, root.as_fd(), plan, Console::Exec)?;
    let seccomp = task.seccomp.as_ref();
    process::set_personality(task.personality)?;
    process::prepare(plan, seccomp, groups, &mut warnings)?;
    let program = process::find_program(plan)?;
    channel
        .send(&Message::Ready { warnings }.encode(), pty.as_ref().map(|pty| pty.as_fd()))
        .step(|| "say that the process is ready")?;
    drop(pty);
    Err(process::become_program(plan, &program, seccomp, preserved_fds, channel, None))
}
