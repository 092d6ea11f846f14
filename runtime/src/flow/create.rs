//! `create` and `start`: the parent's side.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::LinuxIdMapping;

use super::cgroup::{self, Cgroup};
use super::hooks::{self, Subject};
use super::init::{Init, Options, run_child};
use super::task::{kill_and_reap, started};
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::message::Message;
use crate::logic::plan::Plan;
use crate::sys::channel::{Channel, Received};
use crate::sys::process::{self, Fork, Parent, ns};
use crate::{CreateRequest, Created, Rootfs, Task};

/// How long a child may take with what it does before it is ready: mounts of remote file systems
/// are in it.
const SET_UP_DEADLINE: Duration = Duration::from_secs(120);
/// How long from the word to execve.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// See [`crate::create`].
pub(crate) fn create(request: &CreateRequest<'_>, options: &Options) -> Result<Created, Error> {
    let plan = Plan::parse(request.spec, request.id, request.bundle)?;
    hooks::check(request.spec)?;
    let subject = Subject::new(request.spec, request.id, request.bundle);
    let root_path = root_path(request)?;
    let joins = open_joins(&plan)?;
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
    let mut made = fork_init(request, options, &plan, &subject, &root_path, &joins, &cgroup);
    drop(new.holder);
    if let Ok(created) = &mut made {
        created.warnings.extend(new.warnings);
    }
    if made.is_err() {
        // The first failure is the one to report; a cgroup that stays is found by `destroy`.
        let _ = super::task::destroy(&cgroup);
    }
    made
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

fn open_joins(plan: &Plan<'_>) -> Result<Vec<(u64, OwnedFd)>, Failure> {
    plan.namespaces
        .join
        .iter()
        .map(|(kind, path)| {
            process::open_namespace(path)
                .map(|fd| (*kind, fd))
                .step(|| format!("linux.namespaces: open {}", path.display()))
        })
        .collect()
}

fn fork_init(
    request: &CreateRequest<'_>,
    options: &Options,
    plan: &Plan<'_>,
    subject: &Subject,
    root_path: &Path,
    joins: &[(u64, OwnedFd)],
    cgroup: &Cgroup,
) -> Result<Created, Error> {
    let (ours, theirs) = Channel::pair().step(|| "make a channel to the container's init")?;
    let birthplace = cgroup.birthplace()?;
    let doors = match plan.namespaces.has(ns::USER) {
        true => Some(cgroup.doors()?),
        false => None,
    };
    // A cgroup namespace has to wait until the process is in its cgroups.
    let new = plan.namespaces.new & !ns::CGROUP;
    let joined_pid = joins.iter().find(|(kind, _)| *kind == ns::PID).map(|(_, fd)| fd.as_fd());
    let forked = super::exec::fork_in_pid_namespace(joined_pid, || {
        process::fork(new, birthplace.as_ref().map(|fd| fd.as_fd()), Parent::Caller)
    })?;
    let (pid, pidfd) = match forked {
        Fork::Child => {
            // Or the parent's end would seem alive for ever.
            drop(ours);
            let init = Init {
                plan,
                rootfs: &request.rootfs,
                root_path,
                stdio: &request.stdio,
                channel: &theirs,
                cgroup,
                joins,
                doors: Cell::new(doors),
                options,
                subject,
            };
            run_child(&theirs, || init.run())
        }
        Fork::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let ready = when_ready(&ours, pid, plan, subject);
    let ready = ready.and_then(|(pty, warnings)| Ok((pty, warnings, started(pid)?)));
    match ready {
        Ok((pty, warnings, start_ticks)) => Ok(Created {
            task: Task {
                pid,
                start_ticks,
                pidfd,
                cgroup: cgroup.clone(),
                namespaces: plan.namespaces.own(),
                seccomp: plan.seccomp.clone(),
            },
            pty,
            warnings,
            gate: options.listener.is_none().then_some(ours),
            subject: subject.clone(),
        }),
        Err(error) => Err(kill_and_reap(&pidfd, error)),
    }
}

/// Waits for a child's word that it is ready; gives its terminal and warnings.
fn when_ready(
    channel: &Channel,
    pid: i32,
    plan: &Plan<'_>,
    subject: &Subject,
) -> Result<(Option<OwnedFd>, Vec<String>), Error> {
    loop {
        match receive(channel, SET_UP_DEADLINE)? {
            (Message::Ready { warnings }, fd) => return Ok((fd, warnings)),
            (Message::MapMe, _) => {
                write_maps(pid, plan)?;
                channel.send(&Message::Go.encode(), None).step(|| "answer the init")?;
            }
            (Message::Hooks, _) => {
                subject.create_runtime(pid)?;
                let go = Message::GoAs { pid };
                channel.send(&go.encode(), None).step(|| "answer the init")?;
            }
            (Message::Failed(failure), _) => return Err(failure.into()),
            (Message::Go | Message::GoAs { .. }, _) => {
                return Err(
                    Failure::new(ErrorKind::Internal, "wait for the init", "said Go").into()
                );
            }
        }
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

fn write_maps(pid: i32, plan: &Plan<'_>) -> Result<(), Failure> {
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
    write("gid_map", &text(plan.gid_map))?;
    write("uid_map", &text(plan.uid_map))
}

/// See [`Created::start`].
pub(crate) fn start(created: &mut Created) -> Result<(), Error> {
    let Some(gate) = created.gate.take() else {
        return Err(Failure::new(ErrorKind::Precondition, "start", "was started already").into());
    };
    let started = start_through(&gate);
    started.map_err(|error| kill_and_reap(&created.task.pidfd, error))?;
    if let Err(failure) = created.subject.poststart(created.task.pid) {
        // The program runs; the spec wants this said and nothing undone.
        created.warnings.push(failure.to_string());
    }
    Ok(())
}

/// Tells a waiting init to go on, by its channel or by the socket at which it listens.
pub(crate) fn start_through(gate: &Channel) -> Result<(), Error> {
    gate.send(&Message::Go.encode(), None)
        .step(|| "tell the container's init to start")
        .map_err(Error::from)
        .and_then(|()| until_exec(gate))
}

/// Waits until execve has closed the child's end.
pub(crate) fn until_exec(channel: &Channel) -> Result<(), Error> {
    match receive(channel, START_DEADLINE) {
        Err(Error::InitDied { .. }) => Ok(()),
        Ok((Message::Failed(failure), _)) => Err(failure.into()),
        Ok(_) => {
            let text = "said something else than a failure";
            Err(Failure::new(ErrorKind::Internal, "start", text).into())
        }
        Err(error) => Err(error),
    }
}
