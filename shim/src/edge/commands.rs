//! The actions of the command line.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use prost::Message as _;
use wharf_proto::shim::Kept;
use wharf_proto::task::DeleteResponse;

use super::args::{Action, Args, ArgsError};
use super::bootstrap::{Bootstrap, Environment};
use super::handover::{self, ResumeError};
use super::publisher::Publisher;
use super::server::Server;
use super::status::timestamp;
use crate::flow::boot::{Booted, Inherited, boot, boot_as, name_server};
use crate::flow::cleanup::cleanup;
use crate::flow::{Error, Identity, Message, Shim, found_in};
use crate::logic::ids::TaskId;
use crate::sys::journal::{self, Level};
use crate::sys::{SysError, files, pipes, process, rights, sockets};

/// How long a caller may take to write its parameters. One that holds standard input open without
/// a word has none.
const STDIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a keeper may take to send what it has.
const KEPT_PATIENCE: Duration = Duration::from_secs(5);
const MAX_STDIN: usize = 4 << 20;
/// Variable of a supervisor that raised its own limit: what its containers are to have.
const OPEN_FILES: &str = "WHARF_OPEN_FILES";

/// An action that failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("read what was kept")]
    Kept(#[source] prost::DecodeError),
    #[error("find the bundle")]
    Bundle(#[source] std::io::Error),
    #[error("answer on standard output")]
    Answer(#[source] std::io::Error),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error(transparent)]
    Flow(#[from] Error),
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// Runs the program. In the shim itself this returns after `Shutdown`.
pub(crate) fn run(words: impl IntoIterator<Item = String>) -> ExitCode {
    let words: Vec<String> = words.into_iter().collect();
    let result = match words.as_slice() {
        // A logging binary is told by an argument and no flags.
        [word, value] if word == "logger" => {
            crate::flow::logger::run(value).map_err(CommandError::from)
        }
        _ => Args::parse(words).map_err(CommandError::from).and_then(|args| act(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("wharf-shim: {}\n", journal::chain(&error));
            let _ = std::io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn act(args: &Args) -> Result<(), CommandError> {
    match args.action {
        Action::Version | Action::Info => {
            answer(concat!("wharf-shim ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())
        }
        Action::Start => {
            lower_open_files();
            seal();
            start(args)
        }
        Action::Delete => delete(args),
        Action::Check => Ok(handover::check(args.state)?),
        Action::Resume => {
            seal();
            resume(args)
        }
        Action::Adopt => {
            lower_open_files();
            seal();
            adopt(args)
        }
    }
}

/// A container that its children enter can't overwrite this program: it runs from a mount that is
/// read-only. Returns when that is so, after an execve of itself; degraded where it can't be.
fn seal() {
    if let Err(error) = wharf_runtime::run_sealed() {
        let error = journal::chain(&error);
        journal::write(Level::Warn, "program is not sealed", &[("error", &error)]);
    }
}

/// The container has what this process has, which should be what the supervisor was given.
fn lower_open_files() {
    let Some(soft) = std::env::var(OPEN_FILES).ok().and_then(|text| text.parse().ok()) else {
        return;
    };
    if let Err(error) = process::lower_open_files(soft) {
        let error = journal::chain(&error);
        journal::write(Level::Warn, "limit of open files is left", &[("error", &error)]);
    }
}

fn answer(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(CommandError::Answer)
}

fn identity(args: &Args) -> Result<Identity, CommandError> {
    let bundle = match &args.bundle {
        Some(bundle) => std::path::absolute(bundle).map_err(CommandError::Bundle)?,
        None => std::env::current_dir().map_err(CommandError::Bundle)?,
    };
    let id = TaskId::parse(&args.id).map_err(Error::from)?;
    let socket = match &args.socket {
        Some(socket) => PathBuf::from(socket),
        None => sockets::path_for(&bundle, &args.namespace, &args.id),
    };
    Ok(Identity { namespace: args.namespace.clone(), id, bundle, socket })
}

fn start(args: &Args) -> Result<(), CommandError> {
    let environment = Environment {
        ttrpc_address: std::env::var("TTRPC_ADDRESS").ok(),
        max_shim_version: std::env::var("MAX_SHIM_VERSION").ok(),
    };
    let input = pipes::read_stdin(STDIN_PATIENCE, MAX_STDIN);
    let bootstrap = Bootstrap::new(args, &environment, &input);
    let mut identity = identity(args)?;
    if let (Some(folder), None) = (&bootstrap.socket_dir, &args.socket) {
        identity.socket = sockets::path_in(folder.as_ref(), &identity.bundle);
    }
    if bootstrap.debug {
        journal::enable_debug();
    }
    match boot(&identity)? {
        Booted::Parent { address } => answer(&bootstrap.answer(&address)),
        Booted::Server { listener } => serve(identity, listener, &bootstrap),
    }
}

fn serve(
    identity: Identity,
    listener: std::os::unix::net::UnixListener,
    bootstrap: &Bootstrap,
) -> Result<(), CommandError> {
    let socket = identity.socket.clone();
    let signals = process::signals()?;
    let publisher =
        bootstrap.events.as_ref().map(|address| Publisher::new(address, &identity.namespace));
    let mut shim = Shim::new(identity)?;
    shim.events_address.clone_from(&bootstrap.events);
    journal::write(Level::Info, "shim serves", &[("pid", &std::process::id())]);
    finish(Server::new(listener, signals, publisher).run(&mut shim), &socket)
}

fn finish(result: Result<(), SysError>, socket: &std::path::Path) -> Result<(), CommandError> {
    files::remove(socket)?;
    if let Err(error) = &result {
        journal::write(Level::Error, "loop failed", &[("error", &journal::chain(error))]);
    }
    Ok(result?)
}

/// The new program of a shim that was upgraded: same process, same children, same descriptors.
fn resume(args: &Args) -> Result<(), CommandError> {
    let state = handover::resume(args.state)?;
    if state.debug {
        journal::enable_debug();
    }
    name_server(&state.identity);
    let signals = process::signals()?;
    let (identity, events, ticket) = (state.identity.clone(), state.events.clone(), state.ticket);
    let socket = identity.socket.clone();
    let publisher = events.as_ref().map(|address| Publisher::new(address, &identity.namespace));
    let (parts, server) = state.into_parts();
    let mut shim = Shim::resume_from(identity, parts)?;
    shim.events_address = events;
    if publisher.is_some() {
        shim.follow();
    }
    shim.handed_over(ticket);
    let version = env!("CARGO_PKG_VERSION");
    journal::write(Level::Info, "shim was upgraded", &[("version", &version)]);
    let mut server = Server::resume(server, signals, publisher, &shim);
    finish(server.run(&mut shim), &socket)
}

/// Takes the container of a shim that died on.
fn adopt(args: &Args) -> Result<(), CommandError> {
    process::close_all_inherited();
    if args.debug {
        journal::enable_debug();
    }
    let identity = identity(args)?;
    let message = rights::receive_frame(std::io::stdin().as_fd(), KEPT_PATIENCE)?;
    let found = match message {
        Some((bytes, descriptors)) => {
            let kept = Kept::decode(&bytes[..]).map_err(CommandError::Kept)?;
            Message { state: kept.state, descriptors }.open().map_err(Error::from)?
        }
        None => found_in(&identity)?,
    };
    match boot_as(&identity, Inherited::Ours)? {
        Booted::Parent { address } => answer(address.as_bytes()),
        Booted::Server { listener } => {
            let socket = identity.socket.clone();
            let signals = process::signals()?;
            let namespace = identity.namespace.clone();
            let mut shim = match found {
                Some(found) => Shim::adopt(identity, found)?,
                None => Shim::new(identity)?,
            };
            let events = shim.events_address.as_ref();
            let publisher = events.map(|address| Publisher::new(address, &namespace));
            if publisher.is_some() {
                shim.follow();
            }
            if let Err(error) = shim.go_on() {
                let error = journal::chain(&error);
                journal::write(Level::Error, "container is not watched", &[("error", &error)]);
            }
            finish(Server::new(listener, signals, publisher).run(&mut shim), &socket)
        }
    }
}

fn delete(args: &Args) -> Result<(), CommandError> {
    let exit = cleanup(&identity(args)?)?;
    let response = DeleteResponse {
        pid: exit.pid,
        exit_status: exit.exit_code,
        exited_at: Some(timestamp(exit.exited_at_unix_ns)),
    };
    answer(&response.encode_to_vec())
}
