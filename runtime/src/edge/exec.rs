//! `exec`: one more process, by a file or by flags.

use std::path::PathBuf;

use crate::spec::{Process, Spec};

use super::args::Parsed;
use super::commands::Context;
use super::container::{Container, Status};
use super::create::{Holder, preserved_fds, stdio, write_pid};
use super::{CommandError, console, run};
use crate::error::Step;
use crate::sys::foreground::Signals;

pub(crate) fn exec(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let id = flags.id()?;
    let container = Container::load(&context.store, id)?;
    if flags.get("cgroup").is_some() {
        let what = "exec --cgroup".to_owned();
        return Err(CommandError::Exec(crate::Error::Unsupported { what }));
    }
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
    let process = match flags.get("process") {
        Some(path) => read_process(path)?,
        None => process_of_flags(&context.store.config(id)?, flags)?,
    };
    let detach = flags.has("detach");
    let holder = if detach { Holder::Somebody } else { Holder::Us };
    let (stdio, socket) = stdio(Some(&process), flags, holder)?;
    let signals = match detach {
        true => None,
        false => Some(Signals::take().step(|| "take signals")?),
    };
    let preserved = preserved_fds(flags)?;
    let exec =
        crate::flow::exec::exec(task, &process, &stdio, preserved).map_err(CommandError::Exec)?;
    drop(stdio);
    exec.warnings.iter().for_each(|text| context.log.warn(text));
    write_pid(flags, exec.pid)?;
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
        for set in [sets.bounding().clone(), sets.effective().clone(), sets.permitted().clone()] {
            let mut set = set.unwrap_or_default();
            set.insert(capability);
            sets.set_bounding(Some(set.clone()));
            sets.set_effective(Some(set.clone()));
            sets.set_permitted(Some(set));
        }
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}
