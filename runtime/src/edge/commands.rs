//! The commands, and the words that lead to them.

use std::io::ErrorKind as IoKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::LinuxNamespaceType;

use super::args::{Order, Parsed};
use super::container::{Container, Status};
use super::flags::{self, GLOBAL};
use super::log::Log;
use super::report::{self, Form};
use super::store::Store;
use super::{CommandError, checkpoint, create, events, exec, restore, signals, update};
use crate::error::{ErrorKind, Step};
use crate::flow::cgroup::Manager;
use crate::flow::hooks::Subject;
use crate::flow::task::Frozen;
use crate::sys::code;

/// Runs one command; gives the process' exit code.
#[must_use]
pub fn command_line(args: &[String]) -> i32 {
    // What has come with the start of the C library.
    code::let_go();
    let mut log = Log::default();
    match dispatch(args, &mut log) {
        Ok(code) => code,
        Err(error) => {
            log.debug(&format!("kind {:?}", error.kind()));
            match error.of_program() {
                // As a shell says it: this is the user's mistake, not the runtime's.
                true if log.file.is_none() => log.plain(&error.to_string()),
                _ => log.error(&error.to_string()),
            }
            // runc's own code for whatever went wrong with an exec.
            let is_exec = args.iter().any(|arg| arg == "exec") && log.command == "exec";
            if is_exec { 255 } else { error.code() }
        }
    }
}

/// What every command has at hand.
pub(crate) struct Context<'a> {
    pub(crate) store: Store,
    pub(crate) log: &'a Log,
    pub(crate) manager: Manager,
    /// `--rootless`, if it was said.
    pub(crate) rootless: Option<bool>,
    pub(crate) criu: PathBuf,
}

fn dispatch(args: &[String], log: &mut Log) -> Result<i32, CommandError> {
    let global = Parsed::parse(GLOBAL, Order::FlagsFirst, args)?;
    log.file = global.text("log").map(PathBuf::from);
    log.json = match global.text("log-format") {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => {
            return Err(CommandError::Usage(format!("invalid log-format: {other:?}")));
        }
    };
    log.debug = global.has("debug");
    if global.has("version") {
        report::version();
        return Ok(0);
    }
    let Some((command, rest)) = global.operands.split_first() else {
        report::print(&flags::usage());
        return Ok(0);
    };
    log.command = command.clone();
    if command == "help" || command == "h" || global.has("help") {
        return help(rest.first().filter(|_| !global.has("help")).map(String::as_str));
    }
    let Some(verb) = flags::verb(command) else {
        let text = format!("No help topic for '{command}'");
        return Err(CommandError::Usage(text));
    };
    // Before its own flags are read: some need a value.
    let own = rest.iter().take_while(|arg| arg.starts_with('-') && *arg != "--");
    if own.clone().any(|arg| matches!(arg.as_str(), "-h" | "--help" | "-help")) {
        return help(Some(command));
    }
    let flags = Parsed::parse(verb.flags, verb.order, rest)?;
    let count = flags.operands.len();
    if count < verb.count.0 || count > verb.count.1 {
        let name = flags::program();
        let wanted = match verb.count {
            (least, most) if least == most => format!("exactly {least} argument(s)"),
            (least, _) if count < least => format!("a minimum of {least} argument(s)"),
            (_, most) => format!("a maximum of {most} argument(s)"),
        };
        return Err(CommandError::Usage(format!("{name}: {command:?} requires {wanted}")));
    }
    let context = Context {
        store: Store::new(global.text("root").map(PathBuf::from)),
        log,
        manager: if global.has("systemd-cgroup") { Manager::Systemd } else { Manager::Files },
        rootless: match global.text("rootless") {
            None | Some("auto") => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => {
                return Err(CommandError::Usage(format!("invalid rootless: {other:?}")));
            }
        },
        criu: PathBuf::from(global.text("criu").unwrap_or("criu")),
    };
    if ["create", "run", "exec", "restore"].contains(&verb.name) {
        // Before a process of ours enters a container, which could write to its program.
        crate::run_sealed()?;
        log.debug("runs from a place that no container can write to");
    }
    let id = || flags.id();
    match verb.name {
        "create" => create::create(&context, &flags),
        "run" => create::foreground(&context, &flags),
        "start" => create::start(&context, id()?),
        "state" => {
            report::state(&Container::load(&context.store, id()?)?);
            Ok(0)
        }
        "kill" => kill(&context, &flags),
        "delete" => delete(&context, &flags),
        "exec" => exec::exec(&context, &flags),
        "ps" => processes(&context, &flags),
        "list" => list(&context, &flags),
        "pause" => pause(&context, id()?),
        "resume" => resume(&context, id()?),
        "update" => update::update(&context, &flags),
        "events" => events::events(&context, &flags),
        "checkpoint" => checkpoint::checkpoint(&context, &flags),
        "restore" => restore::restore(&context, &flags),
        "spec" => {
            let bundle = flags.get("bundle").unwrap_or(".");
            report::write_spec(Path::new(bundle), flags.has("rootless")).map(|()| 0)
        }
        _ => {
            report::features();
            Ok(0)
        }
    }
}

fn help(command: Option<&str>) -> Result<i32, CommandError> {
    let text = match command {
        None => flags::usage(),
        Some(name) => match flags::verb(name) {
            Some(verb) => flags::usage_of(verb),
            None => return Err(CommandError::Usage(format!("No help topic for '{name}'"))),
        },
    };
    report::print(&text);
    Ok(0)
}

fn kill(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let id = flags.id()?;
    let container = Container::load(&context.store, id)?;
    let signal = signals::parse(flags.operands.get(1).map_or("SIGTERM", String::as_str))?;
    let cgroup = container.record.task.cgroup();
    if flags.has("all") {
        // Also when only the init has ended: that is what it is asked for.
        crate::flow::task::signal_all(cgroup, signal)?;
        return Ok(0);
    }
    let kills = signal == crate::sys::sig::SIGKILL;
    if kills && !cgroup.dirs.is_empty() && !owns_pids(context, id) {
        // No namespace's end takes the others along.
        let left = crate::flow::task::pids(cgroup)?;
        if left.is_empty() && container.task.is_none() {
            return Err(not_running());
        }
        crate::flow::task::signal_all(cgroup, signal)?;
        return Ok(0);
    }
    let task = container.running()?;
    match task.signal(signal) {
        Err(crate::Error::Gone { .. }) => return Err(not_running()),
        done => done?,
    }
    if kills && container.status == Status::Paused {
        // Frozen by v1 it would die only when thawed; by v2 it is dead already.
        let _ = crate::flow::task::set_frozen(cgroup, Frozen::No);
    }
    Ok(0)
}

fn not_running() -> CommandError {
    CommandError::State { text: "container not running".to_owned() }
}

/// Whether the container's processes have a pid namespace to themselves.
fn owns_pids(context: &Context<'_>, id: &str) -> bool {
    let Ok(spec) = context.store.config(id) else { return false };
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Pid
            && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty())
    })
}

fn delete(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let id = flags.id()?;
    let force = flags.has("force");
    let container = match Container::load(&context.store, id) {
        Err(CommandError::NoContainer { .. }) if force => {
            // A folder without a state is what a create that was killed leaves.
            return context.store.remove(id).map(|()| 0);
        }
        container => container?,
    };
    match (&container.task, container.status) {
        (None, _) => {}
        (Some(task), Status::Created) => end(task)?,
        (Some(task), _) if force => end(task)?,
        (Some(_), status) => {
            let text =
                format!("cannot delete container {id} that is not stopped: {}", status.name());
            return Err(CommandError::State { text });
        }
    }
    container.record.task.destroy()?;
    forget(context, id)?;
    Ok(0)
}

/// Removes what is kept, and runs the last hooks. Their failure is no reason to keep it.
pub(crate) fn forget(context: &Context<'_>, id: &str) -> Result<(), CommandError> {
    let last = context.store.load(id).and_then(|record| {
        let spec = context.store.config(id)?;
        if record.task.shares_mounts() {
            let root = std::fs::canonicalize(&record.rootfs).unwrap_or(record.rootfs);
            let gone = crate::flow::rootfs::unmount(&root);
            gone.unwrap_or_else(|failure| context.log.warn(&failure.to_string()));
        }
        Ok(Subject::new(&spec, id, &record.bundle))
    });
    context.store.remove(id)?;
    if let Ok(subject) = last {
        subject.poststop().unwrap_or_else(|failure| context.log.warn(&failure.to_string()));
    }
    Ok(())
}

/// Kills a container's processes and waits for the init's end.
pub(crate) fn end(task: &crate::Task) -> Result<(), CommandError> {
    task.signal_all(crate::sys::sig::SIGKILL)?;
    // Without a cgroup only the init is known; the others of its pid namespace go with it.
    let _ = task.signal(crate::sys::sig::SIGKILL);
    let ended = crate::sys::process::pidfd_ended(task.pidfd.as_fd(), Duration::from_secs(10));
    if !ended.step(|| "wait for the init's end")? {
        let text = "it is still there ten seconds after SIGKILL";
        return Err(crate::Failure::new(ErrorKind::Deadline, "kill the container", text).into());
    }
    Ok(())
}

fn form(flags: &Parsed) -> Result<Form, CommandError> {
    match flags.get("format") {
        _ if flags.has("quiet") => Ok(Form::Ids),
        None | Some("table" | "") => Ok(Form::Table),
        Some("json") => Ok(Form::Json),
        Some(other) => Err(CommandError::Usage(format!("invalid format option {other:?}"))),
    }
}

fn processes(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let pids = crate::flow::task::pids(container.record.task.cgroup())?;
    let options = flags.operands.get(1..).unwrap_or(&[]);
    report::processes(&pids, form(flags)?, options).map(|()| 0)
}

fn list(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let form = form(flags)?;
    if let Some(root) = context.store.named_root()
        && let Err(source) = std::fs::read_dir(root)
        && source.kind() == IoKind::NotFound
    {
        // A root that was named and is not there is a mistake; the default one has seen nothing yet.
        let path = root.display().to_string();
        return Err(CommandError::File { action: "open", path, source });
    }
    report::list(&context.store, form, |text| context.log.warn(text)).map(|()| 0)
}

fn pause(context: &Context<'_>, id: &str) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, id)?;
    match container.status {
        Status::Running | Status::Created => Ok(container.running()?.pause().map(|()| 0)?),
        status => Err(CommandError::State {
            text: format!("container not running or created: {}", status.name()),
        }),
    }
}

fn resume(context: &Context<'_>, id: &str) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, id)?;
    match container.status {
        Status::Paused => Ok(container.running()?.resume().map(|()| 0)?),
        _ => Err(CommandError::State { text: "container not paused".to_owned() }),
    }
}
