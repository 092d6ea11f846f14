//! The commands, one function each, and the words that lead to them.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxResources, Process, Spec};

use super::args::{Flag, Parsed, switch, value};
use super::container::{Container, Status};
use super::log::Log;
use super::report::{self, Form};
use super::store::{Record, START_SOCKET, Store, read_spec};
use super::{CommandError, console, run, signals};
use crate::error::{ErrorKind, Step};
use crate::flow::create::start_through;
use crate::flow::hooks::Subject;
use crate::flow::init::Options;
use crate::sys::channel::{Channel, listen};
use crate::sys::foreground::{Signals, become_subreaper};
use crate::{CreateRequest, Created, Rootfs, Stdio};

const GLOBAL: [Flag; 9] = [
    value(&["root"]),
    value(&["log"]),
    value(&["log-format"]),
    switch(&["systemd-cgroup"]),
    switch(&["debug"]),
    value(&["rootless"]),
    value(&["criu"]),
    switch(&["version", "v"]),
    switch(&["help", "h"]),
];
const CREATE: [Flag; 9] = [
    value(&["bundle", "b"]),
    value(&["console-socket"]),
    value(&["pid-file"]),
    value(&["preserve-fds"]),
    switch(&["no-pivot"]),
    switch(&["no-new-keyring"]),
    switch(&["detach", "d"]),
    switch(&["no-subreaper"]),
    switch(&["keep"]),
];
const EXEC: [Flag; 17] = [
    value(&["process", "p"]),
    value(&["console-socket"]),
    value(&["pid-file"]),
    value(&["cwd"]),
    value(&["env", "e"]),
    value(&["user", "u"]),
    value(&["additional-gids", "g"]),
    value(&["cap", "c"]),
    value(&["preserve-fds"]),
    value(&["process-label"]),
    value(&["apparmor"]),
    value(&["cgroup"]),
    switch(&["tty", "t"]),
    switch(&["detach", "d"]),
    switch(&["no-new-privs"]),
    switch(&["ignore-paused"]),
    switch(&["no-subreaper"]),
];
const UPDATE: [Flag; 14] = [
    value(&["resources", "r"]),
    value(&["memory"]),
    value(&["memory-reservation"]),
    value(&["memory-swap"]),
    value(&["kernel-memory"]),
    value(&["cpu-shares", "cpu-share"]),
    value(&["cpu-quota"]),
    value(&["cpu-period"]),
    value(&["cpu-burst"]),
    value(&["cpu-idle"]),
    value(&["cpuset-cpus"]),
    value(&["cpuset-mems"]),
    value(&["pids-limit"]),
    value(&["blkio-weight"]),
];

const USAGE: &str =
    "wharf-runtime [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND

create   --bundle DIR [--console-socket S] [--pid-file F] [--preserve-fds N] [--no-pivot] ID
start    ID
run      [--detach] and the flags of create, ID
state    ID
kill     [--all] ID [SIGNAL]
delete   [--force] ID
exec     [--process FILE | --cwd D -e K=V -u UID[:GID]] [--tty] [--detach] ID [ARG...]
ps       [--format table|json] ID [ps's own options]
list     [--format table|json] [--quiet]
pause    ID
resume   ID
update   [--resources FILE|-] [--memory N] [--cpu-shares N] [--pids-limit N] ... ID
events   [--stats] [--interval DURATION] ID
spec     [--bundle DIR] [--rootless]
features";

/// Runs one command; gives the process' exit code.
#[must_use]
pub fn command_line(args: &[String]) -> i32 {
    let mut log = Log::default();
    match dispatch(args, &mut log) {
        Ok(code) => code,
        Err(error) => {
            log.debug(&format!("kind {:?}", error.kind()));
            log.error(&error.to_string());
            error.code()
        }
    }
}

/// What every command has at hand.
struct Context<'a> {
    store: Store,
    log: &'a Log,
}

fn dispatch(args: &[String], log: &mut Log) -> Result<i32, CommandError> {
    let global = Parsed::parse(&GLOBAL, args)?;
    log.file = global.get("log").filter(|path| !path.is_empty()).map(PathBuf::from);
    log.json = global.get("log-format") == Some("json");
    log.debug = global.has("debug");
    if global.has("version") {
        report::print(&format!("wharf-runtime version {}\nspec: 1.2.0", env!("CARGO_PKG_VERSION")));
        return Ok(0);
    }
    let Some((command, rest)) = global.operands.split_first().filter(|_| !global.has("help"))
    else {
        report::print(USAGE);
        return Ok(0);
    };
    let root = global.get("root").map_or_else(default_root, PathBuf::from);
    let context = Context { store: Store::new(root), log };
    let one = |flags: &[Flag]| Parsed::parse(flags, rest);
    if global.has("systemd-cgroup") && ["create", "run"].contains(&command.as_str()) {
        let text = "--systemd-cgroup: this runtime writes cgroups itself";
        return Err(CommandError::Usage(text.to_owned()));
    }
    if ["create", "run", "exec"].contains(&command.as_str()) {
        seal()?;
    }
    match command.as_str() {
        "create" => create(&context, &one(&CREATE)?),
        "run" => foreground(&context, &one(&CREATE)?),
        "start" => start(&context, one(&[])?.id()?),
        "state" => {
            report::state(&Container::load(&context.store, one(&[])?.id()?)?);
            Ok(0)
        }
        "kill" => kill(&context, &one(&[switch(&["all", "a"])])?),
        "delete" => delete(&context, &one(&[switch(&["force", "f"])])?),
        "exec" => exec(&context, &one(&EXEC)?),
        "ps" => processes(&context, &one(&[value(&["format", "f"])])?),
        "list" => list(&context, &one(&[value(&["format", "f"]), switch(&["quiet", "q"])])?),
        "pause" => pause(&context, one(&[])?.id()?),
        "resume" => resume(&context, one(&[])?.id()?),
        "update" => update(&context, &one(&UPDATE)?),
        "events" => events(&context, &one(&[switch(&["stats"]), value(&["interval"])])?),
        "spec" => {
            let flags = one(&[value(&["bundle", "b"]), switch(&["rootless"])])?;
            let bundle = flags.get("bundle").unwrap_or(".");
            report::write_spec(Path::new(bundle), flags.has("rootless")).map(|()| 0)
        }
        "features" => {
            report::features();
            Ok(0)
        }
        "checkpoint" | "restore" => {
            Err(crate::Error::Unsupported { what: format!("{command}: it needs criu") }.into())
        }
        "help" => {
            report::print(USAGE);
            Ok(0)
        }
        other => Err(CommandError::Usage(format!("unknown command {other:?}"))),
    }
}

/// Before a process of ours enters a container, which could write to its program.
fn seal() -> Result<(), CommandError> {
    use std::os::unix::ffi::OsStrExt;
    let args: Vec<_> =
        std::env::args_os().filter_map(|arg| crate::sys::c_str(arg.as_bytes()).ok()).collect();
    let env: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| {
            crate::sys::c_str(&[name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    crate::sys::sealed::run_sealed(&args, &env).step(|| "run from a sealed copy")?;
    Ok(())
}

fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if crate::sys::cred::own_uid() != 0 => Path::new(&dir).join("wharf-runtime"),
        _ => PathBuf::from("/run/wharf-runtime"),
    }
}

fn write_pid(flags: &Parsed, pid: i32) -> Result<(), CommandError> {
    let Some(path) = flags.get("pid-file").filter(|path| !path.is_empty()) else { return Ok(()) };
    // Whole or not at all: callers watch for it.
    let new = format!("{path}.new");
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|source| CommandError::File { action: "write", path: path.to_owned(), source })
}

/// Who holds the other end of a process' terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// This command, in the foreground.
    Us,
    Somebody,
}

fn stdio(
    process: Option<&Process>,
    flags: &Parsed,
    holder: Holder,
) -> Result<(Stdio, Option<Channel>), CommandError> {
    let terminal = process.and_then(Process::terminal).unwrap_or(false);
    let socket = flags.get("console-socket").filter(|path| !path.is_empty());
    let refuse = |text: &str| Err(CommandError::Usage(text.to_owned()));
    match (terminal, socket, holder) {
        (false, Some(_), _) => {
            refuse("cannot use console socket if runc will not detach or allocate tty")
        }
        (true, None, Holder::Somebody) => {
            refuse("cannot allocate tty if runc will detach without setting console socket")
        }
        (false, None, _) => Ok((Stdio::Inherit, None)),
        (true, socket, _) => {
            let asked = process.and_then(Process::console_size);
            let size = asked.map(|size| (size.width() as u16, size.height() as u16));
            let socket = socket.map(console::connect).transpose()?;
            Ok((Stdio::Terminal { size: size.filter(|(cols, _)| *cols != 0) }, socket))
        }
    }
}

/// A container that was made, with all that is kept of it.
struct Made {
    created: Created,
    socket: Option<Channel>,
    id: String,
}

fn make(context: &Context<'_>, flags: &Parsed, holder: Holder) -> Result<Made, CommandError> {
    let id = flags.id()?.to_owned();
    let given = flags.get("bundle").unwrap_or(".");
    let file =
        |source| CommandError::File { action: "open bundle", path: given.to_owned(), source };
    let bundle = std::fs::canonicalize(given).map_err(file)?;
    let (spec, bytes) = read_spec(&bundle.join("config.json"))?;
    let (stdio, socket) = stdio(spec.process().as_ref(), flags, holder)?;
    let folder = context.store.claim(&id)?;
    let made = make_in(context, flags, holder, &id, &bundle, (&spec, &bytes), &folder, stdio);
    match made {
        Ok(created) => Ok(Made { created, socket, id }),
        Err(error) => {
            // The id is free again; the first failure is the one to report.
            let _ = context.store.remove(&id);
            Err(error)
        }
    }
}

#[allow(clippy::too_many_arguments)] // the one place where all of them meet
fn make_in(
    context: &Context<'_>,
    flags: &Parsed,
    holder: Holder,
    id: &str,
    bundle: &Path,
    (spec, bytes): (&Spec, &[u8]),
    folder: &Path,
    stdio: Stdio,
) -> Result<Created, CommandError> {
    let listener = match holder {
        Holder::Us => None,
        Holder::Somebody => {
            let dir = Store::open_folder(folder)?;
            Some(listen(dir.as_fd(), START_SOCKET).step(|| "listen for start")?)
        }
    };
    let root = spec.root().as_ref().ok_or_else(|| {
        let reason = "is needed".to_owned();
        crate::Error::Spec { field: "root".to_owned(), reason }
    })?;
    let options =
        Options { listener, preserved_fds: preserved_fds(flags)?, no_pivot: flags.has("no-pivot") };
    let request = CreateRequest { id, bundle, spec, rootfs: Rootfs::Path(root.path()), stdio };
    let created = crate::flow::create::create(&request, &options)?;
    created.warnings.iter().for_each(|text| context.log.warn(text));
    let record = Record::new(id, bundle, spec, created.task.state());
    let kept = context
        .store
        .save(folder, &record, bytes)
        .and_then(|()| write_pid(flags, created.task.pid));
    if let Err(error) = kept {
        discard(&created);
        return Err(error);
    }
    Ok(created)
}

/// Preserved descriptors: those asked for, and those that systemd passed.
fn preserved_fds(flags: &Parsed) -> Result<u32, CommandError> {
    let asked = flags.number("preserve-fds")?.unwrap_or(0);
    let passed = std::env::var("LISTEN_FDS").ok().and_then(|text| text.parse::<u32>().ok());
    Ok(asked + passed.unwrap_or(0))
}

/// Undoes a container that can't be kept; what fails here is left to the caller's error.
fn discard(created: &Created) {
    let _ = created.task.signal_all(crate::sys::sig::SIGKILL);
    let _ = crate::sys::process::reap(created.task.pidfd.as_fd());
    let _ = created.task.destroy();
}

fn create(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let made = make(context, flags, Holder::Somebody)?;
    hand_over(context, &made)?;
    Ok(0)
}

fn hand_over(context: &Context<'_>, made: &Made) -> Result<(), CommandError> {
    let (Some(socket), Some(pty)) = (&made.socket, &made.created.pty) else { return Ok(()) };
    console::give(socket, pty).inspect_err(|_| {
        discard(&made.created);
        let _ = context.store.remove(&made.id);
    })
}

fn start(context: &Context<'_>, id: &str) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, id)?;
    if container.status != Status::Created {
        let text = match container.status {
            Status::Stopped => "cannot start a container that has stopped".to_owned(),
            _ => format!(
                "cannot start an already running container (it is {})",
                container.status.name()
            ),
        };
        return Err(CommandError::State { text });
    }
    let folder = Store::open_folder(&context.store.folder(id))?;
    let gate =
        Channel::connect(folder.as_fd(), START_SOCKET).step(|| "reach the container's init")?;
    let started = start_through(&gate);
    context.store.started(id);
    started?;
    if let Ok(spec) = context.store.config(id) {
        let subject = Subject::new(&spec, id, &container.record.bundle);
        let pid = container.running()?.pid;
        subject.poststart(pid).unwrap_or_else(|failure| context.log.warn(&failure.to_string()));
    }
    Ok(0)
}

/// `run`: all in one, and without `--detach` until the end.
fn foreground(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let detach = flags.has("detach");
    let signals = match detach {
        true => None,
        // Before anything is made, so that none is lost.
        false => Some(Signals::take().step(|| "take signals")?),
    };
    if !detach && !flags.has("no-subreaper") {
        become_subreaper().step(|| "become subreaper")?;
    }
    let mut made = make_run(context, flags, detach)?;
    hand_over(context, &made)?;
    if let Err(error) = made.created.start() {
        let _ = made.created.task.destroy();
        let _ = context.store.remove(&made.id);
        return Err(error.into());
    }
    let Some(signals) = signals else { return Ok(0) };
    let task = &made.created.task;
    let pty = made.created.pty.take().filter(|_| made.socket.is_none());
    let code = run::wait(task.pid, &task.pidfd, pty, &signals)?;
    if !flags.has("keep") {
        task.destroy()?;
        forget(context, &made.id)?;
    }
    Ok(code)
}

fn make_run(context: &Context<'_>, flags: &Parsed, detach: bool) -> Result<Made, CommandError> {
    if detach && flags.get("console-socket").is_none() {
        let path = Path::new(flags.get("bundle").unwrap_or(".")).join("config.json");
        let (spec, _) = read_spec(&path)?;
        stdio(spec.process().as_ref(), flags, Holder::Somebody)?;
    }
    make(context, flags, Holder::Us)
}

fn kill(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let signal = signals::parse(flags.operands.get(1).map_or("SIGTERM", String::as_str))?;
    if flags.has("all") {
        // Also when only the init has ended: that is what it is asked for.
        crate::flow::task::signal_all(container.record.task.cgroup(), signal)?;
        return Ok(0);
    }
    let task = container.running()?;
    match task.signal(signal) {
        Err(crate::Error::Gone { .. }) => {
            Err(CommandError::State { text: "container not running".to_owned() })
        }
        done => Ok(done.map(|()| 0)?),
    }
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
fn forget(context: &Context<'_>, id: &str) -> Result<(), CommandError> {
    let last = context.store.load(id).and_then(|record| {
        let spec = context.store.config(id)?;
        Ok(Subject::new(&spec, id, &record.bundle))
    });
    context.store.remove(id)?;
    if let Ok(subject) = last {
        subject.poststop().unwrap_or_else(|failure| context.log.warn(&failure.to_string()));
    }
    Ok(())
}

/// Kills a container's processes and waits for the init's end.
fn end(task: &crate::Task) -> Result<(), CommandError> {
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

fn exec(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
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
    serde_json::from_slice(&bytes)
        .map_err(|e| CommandError::Content { path: path.to_owned(), text: e.to_string() })
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
    report::list(&context.store, form(flags)?, |text| context.log.warn(text)).map(|()| 0)
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

fn update(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let task = container.running()?;
    let content = |text: String| CommandError::Content { path: "resources".to_owned(), text };
    let resources: LinuxResources = match flags.get("resources") {
        Some(path) => {
            let mut text = String::new();
            let read = if path == "-" {
                std::io::stdin().read_to_string(&mut text)
            } else {
                std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
            };
            read.map_err(|source| CommandError::File {
                action: "read",
                path: path.to_owned(),
                source,
            })?;
            serde_json::from_str(&text).map_err(|e| content(e.to_string()))?
        }
        None => {
            let json = serde_json::json!({
                "memory": {
                    "limit": flags.number::<i64>("memory")?,
                    "reservation": flags.number::<i64>("memory-reservation")?,
                    "swap": flags.number::<i64>("memory-swap")?,
                },
                "cpu": {
                    "shares": flags.number::<u64>("cpu-shares")?,
                    "quota": flags.number::<i64>("cpu-quota")?,
                    "period": flags.number::<u64>("cpu-period")?,
                    "burst": flags.number::<u64>("cpu-burst")?,
                    "idle": flags.number::<i64>("cpu-idle")?,
                    "cpus": flags.get("cpuset-cpus"),
                    "mems": flags.get("cpuset-mems"),
                },
                "pids": flags.number::<i64>("pids-limit")?.map(|n| serde_json::json!({"limit": n})),
                "blockIO": {"weight": flags.number::<u16>("blkio-weight")?},
            });
            serde_json::from_value(json).map_err(|e| content(e.to_string()))?
        }
    };
    task.update(&resources)?;
    Ok(0)
}

fn events(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let container = Container::load(&context.store, flags.id()?)?;
    let task = container.running()?;
    let id = &container.record.id;
    let print = || report::print(&report::stats(id, container.record.task.cgroup()).to_string());
    if flags.has("stats") {
        print();
        return Ok(0);
    }
    let text = flags.get("interval").unwrap_or("5s");
    let interval =
        seconds(text).ok_or_else(|| CommandError::Usage(format!("invalid interval {text:?}")))?;
    let mut kills = task.oom_kills()?;
    let mut next = Instant::now() + interval;
    // OOM kills are looked for more often than figures are printed.
    while !crate::sys::process::pidfd_ended(task.pidfd.as_fd(), Duration::from_millis(200))
        .step(|| "wait for the container")?
    {
        let now = task.oom_kills()?;
        if now > kills {
            report::print(&serde_json::json!({"type": "oom", "id": id}).to_string());
            kills = now;
        }
        if Instant::now() >= next {
            print();
            next += interval;
        }
    }
    Ok(0)
}

fn seconds(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let number: f64 = number.parse().ok()?;
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let duration = Duration::try_from_secs_f64(number * factor).ok()?;
    (!duration.is_zero()).then_some(duration)
}
