//! `create` and `start`: the parent's side.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::LinuxIdMapping;

use super::cgroup::{self, Cgroup};
use super::hooks::{self, Subject};
use super::idmap::{self, Mapped};
use super::init::{Init, Options, run_child};
use super::mapped_root;
use super::notify::Notify;
use super::task::{kill_and_reap, started};
use super::{console, network, process as child, rdt};
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::message::Message;
use crate::logic::plan::{MountKind, Plan};
use crate::logic::seccomp::Filter;
use crate::sys::channel::{Channel, Received};
use crate::sys::code;
use crate::sys::netlink::Netlink;
use crate::sys::process::{self, Fork, Parent, ns};
use crate::{CreateRequest, Created, Rootfs, Stdio, Task};

/// How long a child may take with what it does before it is ready: mounts of remote file systems
/// are in it.
const SET_UP_DEADLINE: Duration = Duration::from_secs(120);
/// How long from the word to execve.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// See [`crate::create`].
pub(crate) fn create(request: &CreateRequest<'_>, options: &Options) -> Result<Created, Error> {
    let mut plan =
        Plan::parse_with(request.spec, request.id, request.bundle, &super::filters::filter_of)?;
    hooks::check(request.spec)?;
    let_go(options);
    let subject = Subject::new(request.spec, request.id, request.bundle);
    let root_path = root_path(request)?;
    plan.adopt_root(&root_path);
    check_host(&plan)?;
    let seccomp = request.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let asks = plan.seccomp.as_ref().is_some_and(Filter::asks);
    let notify = Notify::new(seccomp, asks, subject.head());
    notify.as_ref().map_or(Ok(()), Notify::check)?;
    let resctrl = plan.rdt.as_ref().map(|_| rdt::find()).transpose()?;
    let joins = open_joins(&plan)?;
    let mapped = idmap::take(&plan)?;
    let tree = mapped_root::take(&plan, &request.rootfs, &root_path)?;
    if plan.namespaces.has(ns::USER) {
        own_stdio(&request.stdio, &plan);
    }
    let hierarchies = cgroup::host()?;
    let new = Cgroup::create(
        &hierarchies,
        &cgroup::Request {
            spec: request.spec,
            id: request.id,
            relative: &plan.cgroup,
            resources: plan.resources,
            rules: &plan.device_rules,
            manager: options.manager,
            rootless: options.rootless,
        },
    )?;
    let cgroup = new.cgroup;
    let parts = Parts {
        request,
        options,
        plan: &plan,
        subject: &subject,
        root_path: &root_path,
        joins: &joins,
        mapped: &mapped,
        tree: tree.as_ref(),
        cgroup: &cgroup,
        resctrl: resctrl.as_deref(),
    };
    let_go(options);
    let mut made = parts.fork_init(notify);
    drop(new.holder);
    if let Ok(created) = &mut made {
        created.warnings.extend(new.warnings);
    }
    if made.is_err() {
        // The first failure is the one to report; a cgroup that stays is found by `destroy`.
        let _ = super::task::destroy(&cgroup);
        if !plan.namespaces.has(ns::MOUNT) {
            let _ = super::rootfs::unmount(&root_path);
        }
        if subject.has_begun() {
            let _ = subject.poststop();
        }
    }
    made
}

/// The user must be able to reopen its own pipes (`/dev/stdout`), and from inside of a user namespace
/// nobody can give it what is the host's.
fn own_stdio(stdio: &Stdio, plan: &Plan<'_>) {
    if let Some(owner) = host_id(plan.uid_map, plan.process.uid) {
        console::give_stdio(stdio, owner);
    }
}

/// What an id of the container is on the host.
pub(super) fn host_id(map: &[LinuxIdMapping], id: u32) -> Option<u32> {
    map.iter().find_map(|one| {
        let offset = id.checked_sub(one.container_id())?;
        if offset < one.size() { one.host_id().checked_add(offset) } else { None }
    })
}

/// Between two parts of the work.
fn let_go(options: &Options) {
    if options.lean {
        code::let_go();
    }
}

/// What can be seen to be missing on this host before anything is made.
fn check_host(plan: &Plan<'_>) -> Result<(), Error> {
    for (index, one) in plan.mounts.iter().enumerate() {
        if one.kind == MountKind::Bind && one.own_source.is_none() {
            std::fs::metadata(&one.source)
                .map(drop)
                .step(|| format!("mounts[{index}].source: open source {}", one.source.display()))?;
        }
    }
    if plan.time_offsets.is_some() && process::kernel_version() < (6, 1) {
        // Before, a process came into a new time namespace by birth alone.
        let what = "linux.timeOffsets before Linux 6.1".to_owned();
        return Err(Error::Unsupported { what });
    }
    if plan.mount_label.is_some() && !Path::new("/sys/fs/selinux/enforce").exists() {
        let what = "linux.mountLabel: this host has no SELinux".to_owned();
        return Err(Error::Unsupported { what });
    }
    Ok(())
}

fn root_path(request: &CreateRequest<'_>) -> Result<PathBuf, Error> {
    let path = match (&request.rootfs, request.spec.root()) {
        (Rootfs::Path(path), _) => request.bundle.join(path),
        (Rootfs::Mounts(_), Some(root)) => request.bundle.join(root.path()),
        (Rootfs::Mounts(_), None) => request.bundle.join("rootfs"),
    };
    // The host's own links are followed here, once; what is below belongs to the container.
    let real =
        std::fs::canonicalize(&path).step(|| format!("root.path: open {}", path.display()))?;
    if real == Path::new("/") {
        let reason = "is the host's root".to_owned();
        return Err(Error::Spec { field: "root.path".to_owned(), reason });
    }
    Ok(real)
}

fn open_joins(plan: &Plan<'_>) -> Result<Vec<(u64, OwnedFd)>, Error> {
    plan.namespaces
        .join
        .iter()
        .map(|(kind, path)| {
            let field = "linux.namespaces";
            let fd = process::open_namespace(path)
                .step(|| format!("{field}: open {}", path.display()))?;
            if process::namespace_kind(fd.as_fd()).ok() != Some(*kind) {
                let reason = format!("{} is a namespace of another type", path.display());
                return Err(Error::Spec { field: field.to_owned(), reason });
            }
            Ok((*kind, fd))
        })
        .collect()
}

/// All that the parent has when the container's process is to be born.
struct Parts<'a> {
    request: &'a CreateRequest<'a>,
    options: &'a Options,
    plan: &'a Plan<'a>,
    subject: &'a Subject,
    root_path: &'a Path,
    joins: &'a [(u64, OwnedFd)],
    mapped: &'a Mapped,
    tree: Option<&'a OwnedFd>,
    cgroup: &'a Cgroup,
    /// Where resctrl is, if it is used.
    resctrl: Option<&'a Path>,
}

/// What a child said on its way to being ready.
#[derive(Default)]
struct Ready {
    pty: Option<OwnedFd>,
    warnings: Vec<String>,
    rdt: rdt::Made,
}

impl Parts<'_> {
    fn fork_init(&self, notify: Option<Notify>) -> Result<Created, Error> {
        let plan = self.plan;
        let (ours, theirs) = Channel::pair().step(|| "make a channel to the container's init")?;
        let birthplace = self.cgroup.birthplace()?;
        let doors = match plan.namespaces.has(ns::USER) {
            true => Some(self.cgroup.doors()?),
            false => None,
        };
        // Clocks are set before anybody is in their namespace; a cgroup namespace has to wait until
        // the process is in its cgroups.
        let late = if plan.time_offsets.is_some() { ns::CGROUP | ns::TIME } else { ns::CGROUP };
        let new = plan.namespaces.new & !late;
        let joined = |wanted: u64| self.joins.iter().find(|(kind, _)| *kind == wanted);
        let through_user = joined(ns::USER).is_some();
        let birthplace = birthplace.as_ref().map(|fd| fd.as_fd());
        let forked = match through_user {
            true => process::fork(0, birthplace, Parent::Caller)
                .step(|| "fork the container's process")?,
            false => {
                let pid = joined(ns::PID).map(|(_, fd)| fd.as_fd());
                super::exec::fork_in_pid_namespace(pid, || {
                    process::fork(new, birthplace, Parent::Caller)
                })?
            }
        };
        let (pid, pidfd) = match forked {
            Fork::Child => {
                // Or the parent's end would seem alive for ever.
                drop(ours);
                let init = Init {
                    plan,
                    rootfs: &self.request.rootfs,
                    root_path: self.root_path,
                    stdio: &self.request.stdio,
                    channel: &theirs,
                    cgroup: self.cgroup,
                    joins: self.joins,
                    mapped: self.mapped,
                    tree: self.tree,
                    doors: Cell::new(doors),
                    options: self.options,
                    subject: self.subject,
                };
                run_child(
                    &theirs,
                    || if through_user { init.be_born_again(new) } else { init.run() },
                )
            }
            Fork::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(theirs);
        let (pid, pidfd) = if through_user { second_birth(&ours, pidfd)? } else { (pid, pidfd) };
        let_go(self.options);
        let mut ready = Ready { warnings: plan.left_out.clone(), ..Ready::default() };
        let done = self.until_ready(&ours, pid, &mut ready);
        match done.and_then(|()| started(pid)) {
            Ok(start_ticks) => Ok(Created {
                task: Task {
                    pid,
                    start_ticks,
                    pidfd,
                    cgroup: self.cgroup.clone(),
                    namespaces: plan.namespaces.own(),
                    seccomp: plan.seccomp.clone(),
                    notify,
                    memory_policy: plan.memory_policy.clone(),
                    personality: plan.personality,
                    rdt: ready.rdt,
                },
                pty: ready.pty,
                warnings: ready.warnings,
                gate: self.options.listener.is_none().then_some(ours),
                subject: self.subject.clone(),
            }),
            Err(error) => {
                let error = kill_and_reap(&pidfd, error);
                // The first failure is the one to report.
                let _ = rdt::remove(&ready.rdt);
                Err(error)
            }
        }
    }

    /// Serves a child until it says that it is ready.
    fn until_ready(&self, channel: &Channel, pid: i32, ready: &mut Ready) -> Result<(), Error> {
        let plan = self.plan;
        if plan.namespaces.has(ns::USER) {
            child::set_oom_score_of(&pid.to_string(), &plan.process, &mut ready.warnings)?;
        }
        if let (Some(rdt), Some(top)) = (&plan.rdt, self.resctrl) {
            ready.rdt = rdt::enter(top, rdt, self.request.id, pid)?;
        }
        let go = || channel.send(&Message::Go.encode(), None).step(|| "answer the init");
        loop {
            match receive(channel, SET_UP_DEADLINE)? {
                (Message::Ready { warnings }, fd) => {
                    ready.warnings.extend(warnings);
                    ready.pty = fd;
                    return Ok(());
                }
                (Message::MapMe, _) => {
                    write_maps(pid, plan.uid_map, plan.gid_map)?;
                    go()?;
                }
                (Message::Devices, Some(socket)) => {
                    network::move_in(&plan.net_devices, pid, &Netlink::over(socket))?;
                    go()?;
                }
                (Message::Hooks, _) => {
                    self.subject.create_runtime(pid)?;
                    let go = Message::GoAs { pid };
                    channel.send(&go.encode(), None).step(|| "answer the init")?;
                }
                (Message::Failed(failure), _) => return Err(failure.into()),
                (
                    Message::Go
                    | Message::GoAs { .. }
                    | Message::Born { .. }
                    | Message::Devices
                    | Message::Listener,
                    _,
                ) => return Err(unexpected("wait for the init")),
            }
        }
    }
}

fn unexpected(step: &str) -> Error {
    Failure::new(ErrorKind::Internal, step, "it said what is not its turn to say").into()
}

/// A process between this one and the container's joined the user namespace, had the container's
/// process born there as our child, and ended.
fn second_birth(channel: &Channel, between: OwnedFd) -> Result<(i32, OwnedFd), Error> {
    let born = match receive(channel, SET_UP_DEADLINE) {
        Ok((Message::Born { pid }, Some(pidfd))) => Ok((pid, pidfd)),
        Ok((Message::Failed(failure), _)) => Err(failure.into()),
        Ok(_) => Err(unexpected("wait for the container's process")),
        Err(error) => Err(error),
    };
    match born {
        Ok(born) => {
            process::reap(between.as_fd()).step(|| "reap a process in between")?;
            let go = channel.send(&Message::Go.encode(), None).step(|| "answer the init");
            match go {
                Ok(()) => Ok(born),
                Err(failure) => Err(kill_and_reap(&born.1, failure.into())),
            }
        }
        Err(error) => Err(kill_and_reap(&between, error)),
    }
}

/// One message of a child that is being set up.
pub(crate) fn receive(
    channel: &Channel,
    within: Duration,
) -> Result<(Message, Option<OwnedFd>), Error> {
    let step = || "wait for the container's process";
    match channel.receive(Some(within)).step(step)? {
        Received::Message { bytes, fd } => match Message::decode(&bytes) {
            Some(message) => Ok((message, fd)),
            None => Err(Failure::new(ErrorKind::Internal, step(), "an unknown word").into()),
        },
        // How it ended is filled in by who reaps it.
        Received::Closed => Err(Error::InitDied { how: String::new() }),
    }
}

pub(crate) fn write_maps(
    pid: i32,
    uid_map: &[LinuxIdMapping],
    gid_map: &[LinuxIdMapping],
) -> Result<(), Failure> {
    let text = |map: &[LinuxIdMapping]| {
        map.iter()
            .map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size()))
            .collect::<String>()
    };
    let write = |file: &str, text: &str| {
        std::fs::write(format!("/proc/{pid}/{file}"), text)
            .step(|| format!("linux.uidMappings: write {file}"))
    };
    if crate::sys::cred::own_uid() != 0 {
        // An ordinary user may map itself only after giving up setgroups.
        write("setgroups", "deny")?;
    }
    write("gid_map", &text(gid_map))?;
    write("uid_map", &text(uid_map))
}

/// See [`Created::start`].
pub(crate) fn start(created: &mut Created) -> Result<(), Error> {
    let Some(gate) = created.gate.take() else {
        return Err(Failure::new(ErrorKind::Precondition, "start", "was started already").into());
    };
    let task = &created.task;
    let started = start_through(&gate, task);
    let started = started.and_then(|()| Ok(created.subject.poststart(task.pid)?));
    started.map_err(|error| kill_and_reap(&task.pidfd, error))
}

/// Tells a waiting init to go on, by its channel or by the socket at which it listens.
pub(crate) fn start_through(gate: &Channel, task: &Task) -> Result<(), Error> {
    gate.send(&Message::Go.encode(), None).step(|| "tell the container's init to start")?;
    until_exec(gate, task.notify.as_ref(), task.pid, task.pid, "created")
}

/// Waits until execve has closed the child's end; passes its seccomp listener on before.
pub(crate) fn until_exec(
    channel: &Channel,
    notify: Option<&Notify>,
    pid: i32,
    init: i32,
    status: &str,
) -> Result<(), Error> {
    loop {
        match (receive(channel, START_DEADLINE), notify) {
            (Err(Error::InitDied { .. }), _) => return Ok(()),
            (Ok((Message::Failed(failure), _)), _) => return Err(failure.into()),
            (Ok((Message::Listener, Some(listener))), Some(notify)) => {
                notify.pass(&listener, pid, init, status)?;
            }
            (Ok(_), _) => return Err(unexpected("start")),
            (Err(error), _) => return Err(error),
        }
    }
}
