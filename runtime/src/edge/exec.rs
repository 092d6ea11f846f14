//! `exec`: one more process, by a file or by flags.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::spec::{Capability, Process, Spec};

use super::args::Parsed;
use super::commands::Context;
use super::container::{Container, Status};
use super::create::{Holder, preserved_fds, stdio, write_pid};
use super::{CommandError, console, run};
use crate::error::Step;
use crate::flow::cgroup::SubCgroup;
use crate::flow::exec::ExecOptions;
use crate::sys::foreground::{Signals, become_subreaper};

pub(crate) fn exec(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let id = flags.id()?;
    let container = Container::load(&context.store, id)?;
    let task = match container.status {
        Status::Paused if !flags.has("ignore-paused") => {
            let text = "cannot exec in a paused container (use --ignore-paused to override)";
            return Err(CommandError::State { text: text.to_owned() });
        }
        Status::Stopped => {
            let text = "cannot exec in a stopped container".to_owned();
            return Err(CommandError::State { text });
        }
        _ => container.running()?,
    };
    let spec = context.store.config(id)?;
    let process = match flags.get("process") {
        Some(path) => inherit(read_process(path)?, &spec),
        None => process_of_flags(&spec, flags)?,
    };
    let process = over_by_flags(process, flags);
    let mut places = Vec::new();
    for text in flags.all("cgroup") {
        places.extend(SubCgroup::parse(&text)?);
    }
    let detach = flags.has("detach");
    let holder = if detach { Holder::Somebody } else { Holder::Us };
    let (stdio, socket) = stdio(Some(&process), flags, holder)?;
    let pidfd_socket = flags.text("pidfd-socket").map(console::connect).transpose()?;
    let signals = match detach {
        true => None,
        false => Some(Signals::take().step(|| "take signals")?),
    };
    if !detach && !flags.has("no-subreaper") {
        become_subreaper().step(|| "become subreaper")?;
    }
    let options = ExecOptions {
        preserved_fds: preserved_fds(flags)?,
        cgroup: match places.is_empty() {
            true => None,
            false => Some(task.cgroup.below(&places)?),
        },
    };
    context.log.debug("nsexec container setup");
    if let Some(mask) = affinity_mask(&process) {
        context.log.debug(&format!("nsexec: affinity: {mask:#x}"));
    }
    let exec =
        crate::flow::exec::exec(task, &process, &stdio, &options).map_err(CommandError::Exec)?;
    context.log.debug("child process in init()");
    context.log.debug("setns_init: about to exec");
    drop(stdio);
    exec.warnings.iter().for_each(|text| context.log.warn(text));
    if let Err(error) = write_pid(flags, exec.pid) {
        let _ = crate::sys::process::pidfd_signal(exec.pidfd.as_fd(), crate::sys::sig::SIGKILL);
        let _ = crate::sys::process::reap(exec.pidfd.as_fd());
        return Err(error);
    }
    if let Some(socket) = &pidfd_socket {
        console::give_pidfd(socket, &exec.pidfd)?;
    }
    let pty = match (&socket, exec.pty) {
        (Some(socket), Some(pty)) => {
            console::give(socket, &pty)?;
            None
        }
        (_, pty) => pty,
    };
    match signals {
        None => Ok(0),
        Some(signals) => run::wait(exec.pid, &exec.pidfd, pty, &signals),
    }
}

/// The processors that an exec begins on, of the first 64.
fn affinity_mask(process: &Process) -> Option<u64> {
    let text = process.exec_cpu_affinity().as_ref()?.initial().as_ref()?;
    crate::logic::number_list::parse(text).ok()?.first().copied().filter(|mask| *mask != 0)
}

/// What a process.json leaves out is as it is for the container's own process.
fn inherit(mut process: Process, spec: &Spec) -> Process {
    let Some(own) = spec.process() else { return process };
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.no_new_privileges().is_none() {
        process.set_no_new_privileges(own.no_new_privileges());
    }
    if process.apparmor_profile().as_ref().is_none_or(String::is_empty) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if process.selinux_label().as_ref().is_none_or(String::is_empty) {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(own.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
    process
}

/// Flags that count with a file as well.
fn over_by_flags(mut process: Process, flags: &Parsed) -> Process {
    if flags.has("tty") {
        process.set_terminal(Some(true));
    }
    if let Some(label) = flags.text("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if let Some(profile) = flags.text("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    process
}

fn read_process(path: &str) -> Result<Process, CommandError> {
    let bytes = std::fs::read(path).map_err(|source| CommandError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    Process::parse(&bytes).map_err(CommandError::Exec)
}

fn process_of_flags(spec: &Spec, flags: &Parsed) -> Result<Process, CommandError> {
    let usage = |text: String| CommandError::Usage(text);
    let mut process = spec.process().clone().unwrap_or_default();
    let args = flags.operands.get(1..).unwrap_or(&[]).to_vec();
    if args.is_empty() {
        return Err(usage("process args cannot be empty".to_owned()));
    }
    process.set_args(Some(args));
    process.set_terminal(Some(flags.has("tty")));
    if let Some(cwd) = flags.get("cwd") {
        process.set_cwd(PathBuf::from(cwd));
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(flags.all("env"));
    process.set_env(Some(env));
    if flags.has("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    let mut user = process.user().clone();
    if let Some(text) = flags.get("user") {
        let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
        let number = |text: &str| text.parse().map_err(|_| usage(format!("{text:?} is no id")));
        user.set_uid(number(uid)?);
        if let Some(gid) = gid {
            user.set_gid(number(gid)?);
        }
    }
    let more = flags.all("additional-gids");
    if !more.is_empty() {
        let ids =
            more.iter().map(|text| text.parse().map_err(|_| usage(format!("{text:?} is no id"))));
        user.set_additional_gids(Some(ids.collect::<Result<_, _>>()?));
    }
    process.set_user(user);
    for name in flags.all("cap") {
        let capability = serde_json::from_value(serde_json::Value::String(name.clone()))
            .map_err(|_| usage(format!("unknown capability {name:?}")))?;
        let mut sets = process.capabilities().clone().unwrap_or_default();
        let with = |set: &Option<HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        sets.set_bounding(with(sets.bounding()));
        sets.set_effective(with(sets.effective()));
        sets.set_permitted(with(sets.permitted()));
        // What is not inheritable can't be ambient, and nobody asked for it to be inherited.
        if sets.inheritable().as_ref().is_some_and(|set| set.contains(&capability)) {
            sets.set_ambient(with(sets.ambient()));
        }
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}
