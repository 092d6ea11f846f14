//! `create`, `start` and `run`: a container from its bundle.

use std::os::fd::AsFd;
use std::path::Path;

use crate::spec::{Process, Spec};

use super::args::Parsed;
use super::commands::Context;
use super::container::{Container, Status};
use super::store::{Record, START_SOCKET, Store, read_spec};
use super::{CommandError, console, run};
use crate::error::Step;
use crate::flow::create::start_through;
use crate::flow::hooks::Subject;
use crate::flow::init::Options;
use crate::sys::channel::{Channel, listen};
use crate::sys::code;
use crate::sys::foreground::{Signals, become_subreaper, keep_newlines};
use crate::{CreateRequest, Created, Rootfs, Stdio};

pub(crate) fn write_pid(flags: &Parsed, pid: i32) -> Result<(), CommandError> {
    let Some(path) = flags.get("pid-file").filter(|path| !path.is_empty()) else { return Ok(()) };
    // Whole or not at all: callers watch for it.
    let new = format!("{path}.new");
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|source| CommandError::File { action: "write", path: path.to_owned(), source })
}

/// Who holds the other end of a process' terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// This command, in the foreground.
    Us,
    Somebody,
}

pub(crate) fn stdio(
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
    pidfd_socket: Option<Channel>,
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
    let pidfd_socket = flags.text("pidfd-socket").map(console::connect).transpose()?;
    let folder = context.store.claim(&id)?;
    // Reading is done.
    code::let_go();
    let made = make_in(context, flags, holder, &id, &bundle, (&spec, &bytes), &folder, stdio);
    match made {
        Ok(created) => Ok(Made { created, socket, pidfd_socket, id }),
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
    let options = Options {
        listener,
        preserved_fds: preserved_fds(flags)?,
        no_pivot: flags.has("no-pivot"),
        lean: true,
        keep_keyring: flags.has("no-new-keyring"),
        manager: context.manager,
        rootless: context.rootless,
    };
    let request = CreateRequest { id, bundle, spec, rootfs: Rootfs::Path(root.path()), stdio };
    context.log.debug("nsexec container setup");
    if let Some(seccomp) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        let flags = crate::logic::seccomp::asked_flags(seccomp);
        context.log.debug(&format!("seccomp filter flags: {flags}"));
    }
    let created = crate::flow::create::create(&request, &options)?;
    context.log.debug("child process in init()");
    context.log.debug("init: closing the pipe to signal completion");
    code::let_go();
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
pub(crate) fn preserved_fds(flags: &Parsed) -> Result<u32, CommandError> {
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

pub(crate) fn create(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let made = make(context, flags, Holder::Somebody)?;
    hand_over(context, &made)?;
    Ok(0)
}

fn hand_over(context: &Context<'_>, made: &Made) -> Result<(), CommandError> {
    let given = match (&made.socket, &made.created.pty) {
        (Some(socket), Some(pty)) => console::give(socket, pty),
        _ => Ok(()),
    };
    let given = given.and_then(|()| match &made.pidfd_socket {
        Some(socket) => console::give_pidfd(socket, &made.created.task.pidfd),
        None => Ok(()),
    });
    given.inspect_err(|_| {
        discard(&made.created);
        let _ = context.store.remove(&made.id);
    })
}

pub(crate) fn start(context: &Context<'_>, id: &str) -> Result<i32, CommandError> {
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
    let task = container.running()?;
    let started = start_through(&gate, task);
    context.store.started(id);
    let started = started.map_err(CommandError::from).and_then(|()| {
        let subject = Subject::new(&context.store.config(id)?, id, &container.record.bundle);
        Ok(subject.poststart(task.pid)?)
    });
    started.inspect_err(|_| {
        // Ended by itself is as good.
        let _ = task.signal(crate::sys::sig::SIGKILL);
    })?;
    Ok(0)
}

/// `run`: all in one, and without `--detach` until the end.
pub(crate) fn foreground(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
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
    if let (Some(pty), None, false) = (&made.created.pty, &made.socket, detach) {
        // Before a byte comes out.
        keep_newlines(pty.as_fd()).step(|| "set the terminal up")?;
    }
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
        code::let_go();
        task.destroy()?;
        super::commands::forget(context, &made.id)?;
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
