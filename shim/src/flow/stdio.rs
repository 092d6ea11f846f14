//! Where a process' three streams go, from the request to open descriptors.
//!
//! Owns the making of pipes and the opening of sinks. Moves no bytes: `pump` and `input` do.

use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use wharf_runtime::Stdio;

use super::Error;
use super::input::{Feed, Input};
use super::pump::{Pump, Sink};
use crate::logic::lines::Stream;
use crate::logic::uri::{self, Program, Target};
use crate::sys::{SysError, logger, pipes};

/// Columns and rows.
pub(crate) type Window = (u16, u16);

/// User and group, as numbers.
pub(crate) type Owner = (u32, u32);

/// The URIs of a Task request, kept to be told in `State`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uris {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Where input comes from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum From {
    Nowhere,
    /// `WriteStdin` calls.
    Calls,
    /// A named pipe.
    Fifo(PathBuf),
}

/// Where one stream of output goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum To {
    Nowhere,
    /// The task's log.
    Log,
    /// Held until `ReadOutput` fetches it.
    Held,
    /// A named pipe or a file that exists.
    Path(PathBuf),
    /// A file, made if it is not there.
    File(PathBuf),
    /// A program that takes both streams.
    Program(Program),
}

/// What is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) stdin: From,
    pub(crate) stdout: To,
    pub(crate) stderr: To,
    pub(crate) terminal: Option<Option<Window>>,
    /// Who owns the pipes that the process gets; `None`: whoever the shim runs as.
    pub(crate) owner: Option<Owner>,
}

impl Plan {
    /// As a Task client asks with URIs.
    pub(crate) fn from_uris(uris: &Uris, terminal: Option<Option<Window>>) -> Result<Self, Error> {
        let stdin = match target(&uris.stdin)? {
            To::Path(path) | To::File(path) => From::Fifo(path),
            To::Held => From::Calls,
            To::Nowhere | To::Log | To::Program(_) => From::Nowhere,
        };
        let stdout = target(&uris.stdout)?;
        let stderr = match (&stdout, terminal) {
            // It has both streams, whatever is said of the second.
            (To::Program(_), _) | (_, Some(_)) => To::Nowhere,
            (_, None) => target(&uris.stderr)?,
        };
        if matches!(stderr, To::Program(_)) {
            return Err(Error::Stdio(uris.stderr.clone()));
        }
        Ok(Self { stdin, stdout, stderr, terminal, owner: None })
    }

    fn open_sinks(&self, names: Names<'_>) -> Result<[(Stream, Sink); 2], Error> {
        let (stdout, stderr) = if let To::Program(program) = &self.stdout {
            let logger = logger::start(program, names.id, names.namespace)?;
            (Sink::file(logger.stdout), Sink::file(logger.stderr))
        } else {
            (open_sink(&self.stdout)?, open_sink(&self.stderr)?)
        };
        Ok([(Stream::Stdout, stdout), (Stream::Stderr, stderr)])
    }

    /// Opens everything. Nothing is left open when it fails.
    pub(crate) fn open(self, names: Names<'_>) -> Result<Opened, Error> {
        let sinks = self.open_sinks(names)?;
        let feed = match &self.stdin {
            From::Fifo(path) => {
                let (read, keep) = pipes::open_feed(path)?;
                Some(Feed::new(read, keep))
            }
            From::Nowhere | From::Calls => None,
        };
        let takes_input = self.stdin != From::Nowhere;

        if let Some(window) = self.terminal {
            let [(stream, sink), _] = sinks;
            let pumps = vec![Pump::new(stream, None, sink)];
            let stdio = Stdio::Terminal { size: window };
            return Ok(Opened { stdio, wires: Wires { pumps, input: None, feed, takes_input } });
        }

        let mut input = None;
        let stdin = if takes_input {
            let pipe = pipes::input_pipe()?;
            pipes::give(&pipe.theirs, self.owner)?;
            input = Some(pipe.ours);
            pipe.theirs
        } else {
            pipes::dev_null()?
        };
        let mut pumps = Vec::new();
        let mut ends = Vec::new();
        for (stream, sink) in sinks {
            if matches!(sink, Sink::Discard) {
                ends.push(pipes::dev_null()?);
            } else {
                let pipe = pipes::output_pipe()?;
                pipes::give(&pipe.theirs, self.owner)?;
                pumps.push(Pump::new(stream, Some(pipe.ours), sink));
                ends.push(pipe.theirs);
            }
        }
        let (Some(stderr), Some(stdout)) = (ends.pop(), ends.pop()) else {
            unreachable!("two streams were just opened");
        };
        let stdio = Stdio::Fds { stdin, stdout, stderr };
        Ok(Opened { stdio, wires: Wires { pumps, input, feed, takes_input } })
    }
}

/// What a logging program is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
}

/// The container's side for the runtime, ours for the loop.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stdio: Stdio,
    pub(crate) wires: Wires,
}

/// Our side, complete but for the pty, which the runtime makes.
#[derive(Debug)]
pub(crate) struct Wires {
    pumps: Vec<Pump>,
    input: Option<OwnedFd>,
    feed: Option<Feed>,
    takes_input: bool,
}

/// Our side, complete.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ends {
    pub(crate) pumps: Vec<Pump>,
    pub(crate) input: Option<Input>,
    pub(crate) pty: Option<Pty>,
}

/// A terminal's master, for its size; the peer keeps it from hanging up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pty {
    #[serde(with = "crate::sys::handover::fd")]
    pub(crate) master: OwnedFd,
    #[serde(with = "crate::sys::handover::optional_fd")]
    _peer: Option<OwnedFd>,
}

impl Pty {
    pub(super) fn new(master: OwnedFd, peer: Option<OwnedFd>) -> Self {
        Self { master, _peer: peer }
    }
}

impl Wires {
    /// Once the runtime has made the process.
    pub(crate) fn attach(mut self, pty: Option<OwnedFd>) -> Result<Ends, Error> {
        let Some(master) = pty else {
            let input = self.input.map(|target| Input::new(target, false, self.feed));
            return Ok(Ends { pumps: self.pumps, input, pty: None });
        };
        pipes::set_nonblocking(&master)?;
        let duplicate =
            || master.try_clone().map_err(|source| SysError::new("duplicate", "pty", source));
        let input = match self.takes_input {
            true => Some(Input::new(duplicate()?, true, self.feed)),
            false => None,
        };
        for pump in &mut self.pumps {
            pump.set_source(duplicate()?);
        }
        let peer = pipes::pty_peer(&master);
        Ok(Ends { pumps: self.pumps, input, pty: Some(Pty { master, _peer: peer }) })
    }
}

/// One stdio URI of the protocol.
fn target(text: &str) -> Result<To, Error> {
    Ok(match uri::parse(text).ok_or_else(|| Error::Stdio(text.to_owned()))? {
        Target::Nowhere => To::Nowhere,
        Target::Held => To::Held,
        Target::Path(path) => To::Path(path),
        Target::File(path) => To::File(path),
        Target::Binary(program) => To::Program(program),
    })
}

fn open_sink(to: &To) -> Result<Sink, Error> {
    Ok(match to {
        To::Nowhere => Sink::Discard,
        To::Log => Sink::Log,
        To::Held => Sink::Held,
        To::Path(path) => Sink::file(pipes::open_output(path)?),
        To::File(path) => Sink::file(pipes::create_output(path)?),
        To::Program(_) => unreachable!("a program takes both streams at once"),
    })
}
