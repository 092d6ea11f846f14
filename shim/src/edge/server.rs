//! The loop of the shim: everything that happens, happens here, one thing after the other.
//!
//! Calls on one connection are independent: a `Wait` stays open while others are answered. A
//! caller that breaks the protocol or does not read its answers loses its connection, and nobody
//! else notices.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use prost::Message as _;
use wharf_proto::google::rpc::Status;
use wharf_proto::ttrpc::{FLAG_REMOTE_OPEN, FrameType, Header, Request, Response, frame};
use wharf_proto::{shim, task};

use super::connection::{Connection, Peer};
use super::handover;
use super::publisher::Publisher;
use super::status::{EdgeError, status};
use super::{shim_service, task_service};
use crate::flow::{Completion, Error, Message, Shim, Ticket};
use crate::logic::frames::Next;
use crate::sys::journal::{self, Level};
use crate::sys::poller::{Interest, Ready, Token};
use crate::sys::{SysError, clock, sockets};

const MAX_CONNECTIONS: usize = 256;
const MAX_OPEN_CALLS: usize = 1024;
/// How long last answers may take to go out.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a call comes to.
#[derive(Debug)]
pub(crate) enum Reply {
    Now(Vec<u8>),
    /// With this form, when it is there.
    Later(Form),
    /// Not at all: the stream stays open, and what is to be kept goes out on it.
    Keep,
}

/// The message that a late answer becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Form {
    Empty,
    Wait,
    WaitExit,
    Output,
}

/// A late call.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    asked: String,
    form: Form,
}

/// The server without what a program makes anew.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerParts {
    #[serde(with = "crate::sys::handover::fd")]
    listener: UnixListener,
    connections: BTreeMap<u32, Connection>,
    pending: Vec<(Ticket, Pending)>,
    next_connection: u32,
}

#[derive(Debug)]
pub(crate) struct Server {
    listener: UnixListener,
    signals: SignalFd,
    connections: BTreeMap<u32, Connection>,
    pending: BTreeMap<Ticket, Pending>,
    next_connection: u32,
    publisher: Option<Publisher>,
}

impl Server {
    pub(crate) fn new(
        listener: UnixListener,
        signals: SignalFd,
        publisher: Option<Publisher>,
    ) -> Self {
        Self {
            listener,
            signals,
            connections: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_connection: 0,
            publisher,
        }
    }

    /// In a new program, from what the old one left.
    pub(crate) fn resume(
        parts: ServerParts,
        signals: SignalFd,
        publisher: Option<Publisher>,
        shim: &Shim,
    ) -> Self {
        let mut server = Self::new(parts.listener, signals, publisher);
        server.connections = parts.connections;
        server.pending = parts.pending.into_iter().collect();
        server.next_connection = parts.next_connection;
        server.connections.retain(|_, connection| {
            connection.watch(shim.poller()).is_ok()
                && connection.flush(shim.poller()) == Peer::There
        });
        server
    }

    /// Becomes another program. Returns when that failed: then everything is as it was.
    fn upgrade(&mut self, binary: &Path, ticket: Ticket, shim: &mut Shim) {
        let is_quiet = self.publisher.as_ref().is_none_or(Publisher::is_done) && !shim.has_events();
        let may = if is_quiet {
            shim.may_hand_over()
        } else {
            Err(Error::NotHandedOver("telling events"))
        };
        if let Err(error) = may {
            shim.not_handed_over(ticket, error);
            return;
        }
        let Ok(listener) = self.listener.try_clone() else { return };
        let mut handover = handover::State::new(
            shim,
            ServerParts {
                listener,
                connections: std::mem::take(&mut self.connections),
                pending: std::mem::take(&mut self.pending).into_iter().collect(),
                next_connection: self.next_connection,
            },
            ticket,
        );
        let error = handover.hand_to(binary);
        let (parts, server) = handover.into_parts();
        shim.put_back(parts);
        self.connections = server.connections;
        self.pending = server.pending.into_iter().collect();
        journal::write(Level::Error, "upgrade failed", &[("error", &journal::chain(&error))]);
        shim.not_handed_over(ticket, error.into());
        self.deliver(shim);
    }

    /// Serves until `Shutdown`.
    pub(crate) fn run(&mut self, shim: &mut Shim) -> Result<(), SysError> {
        shim.poller().add(&self.listener, Token::Listener, Interest::Read)?;
        shim.poller().add(&self.signals, Token::Signals, Interest::Read)?;
        if self.publisher.is_some() {
            shim.follow();
        }
        let mut leave_at: Option<Instant> = None;
        // Children may have ended while one program became another.
        shim.on_children();
        loop {
            let wake = self.publisher.as_ref().and_then(Publisher::wake_at);
            let rest = |at: Instant| at.saturating_duration_since(clock::now());
            let timeouts = [shim.timeout(), leave_at.map(rest), wake.map(rest)];
            let timeout = timeouts.into_iter().flatten().min();
            for ready in shim.poller().wait(timeout)? {
                self.on_ready(ready, shim);
            }
            shim.on_time();
            self.tell_keepers(shim);
            self.deliver(shim);
            self.publish(shim);
            if let Some((binary, ticket)) = shim.upgrade.take() {
                self.upgrade(&binary, ticket, shim);
                self.deliver(shim);
            }
            if shim.is_stopping() {
                let at = *leave_at.get_or_insert_with(|| clock::now() + FAREWELL);
                let is_flushed = self.connections.values().all(Connection::is_flushed)
                    && self.publisher.as_ref().is_none_or(Publisher::is_done);
                if is_flushed || at <= clock::now() {
                    return Ok(());
                }
            }
        }
    }

    fn on_ready(&mut self, ready: Ready, shim: &mut Shim) {
        match ready.token {
            Token::Listener => self.on_caller(shim),
            Token::Signals => self.on_signals(shim),
            Token::Connection(number) => self.on_connection(number, ready, shim),
            Token::Publisher => {
                if let Some(publisher) = &mut self.publisher {
                    publisher.on_ready(shim.poller());
                }
            }
            token => shim.on_ready(token),
        }
    }

    fn on_caller(&mut self, shim: &mut Shim) {
        let socket = match sockets::accept(&self.listener) {
            Ok(Some(socket)) => socket,
            Ok(None) => return,
            Err(error) => {
                journal::write(Level::Warn, "caller lost", &[("error", &journal::chain(&error))]);
                return;
            }
        };
        if self.connections.len() >= MAX_CONNECTIONS {
            journal::write(Level::Warn, "too many callers", &[("limit", &MAX_CONNECTIONS)]);
            return;
        }
        self.next_connection = self.next_connection.wrapping_add(1);
        let connection = Connection::new(self.next_connection, socket);
        if connection.watch(shim.poller()).is_ok() {
            self.connections.insert(self.next_connection, connection);
        }
    }

    fn on_signals(&mut self, shim: &mut Shim) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if i32::try_from(info.ssi_signo) != Ok(libc::SIGCHLD) {
                // The container is not to notice what happens to its supervisor or the session.
                journal::write(Level::Info, "signal ignored", &[("signal", &info.ssi_signo)]);
            }
        }
        shim.on_children();
    }

    fn on_connection(&mut self, number: u32, ready: Ready, shim: &mut Shim) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if ready.writable && connection.flush(shim.poller()) == Peer::Gone {
            self.close(number, shim);
            return;
        }
        // What a caller sent before it left is carried out.
        let peer = connection.receive();
        let mut peer = self.serve_frames(number, shim).min_of(peer);
        if peer == Peer::There && !self.connections.contains_key(&number) {
            peer = Peer::Gone;
        }
        if peer == Peer::Gone {
            self.close(number, shim);
        }
    }

    fn serve_frames(&mut self, number: u32, shim: &mut Shim) -> Peer {
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return Peer::Gone };
            let (stream, result) = match connection.next() {
                Next::Wait => return Peer::There,
                Next::Broken(error) => {
                    let error = error.to_string();
                    journal::write(Level::Warn, "caller breaks the protocol", &[("error", &error)]);
                    return Peer::Gone;
                }
                Next::TooLong { stream, error } => (stream, Err(status("call", &error.into()))),
                Next::Frame(header, data) => match self.on_frame(number, header, &data, shim) {
                    Some(result) => (header.stream, result),
                    None => continue,
                },
            };
            self.tell_keepers(shim);
            if self.answer(number, stream, result, shim) == Peer::Gone {
                return Peer::Gone;
            }
        }
    }

    /// `None`: nothing is to be answered now.
    fn on_frame(
        &mut self,
        number: u32,
        header: Header,
        data: &[u8],
        shim: &mut Shim,
    ) -> Option<Result<Vec<u8>, Status>> {
        if header.frame_type != FrameType::Request {
            // Of a stream that was refused, or of nothing.
            return None;
        }
        let connection = self.connections.get_mut(&number)?;
        let (stream, last) = (header.stream, connection.last_stream);
        if stream % 2 == 0 || stream <= last {
            return Some(Err(status("call", &EdgeError::Stream { stream, last })));
        }
        connection.last_stream = stream;
        let request = match Request::decode(data) {
            Ok(request) => request,
            Err(error) => return Some(Err(status("call", &error.into()))),
        };
        let asked = request.method.clone();
        if connection.open_calls >= MAX_OPEN_CALLS {
            return Some(Err(status(&asked, &EdgeError::TooManyCalls(MAX_OPEN_CALLS))));
        }
        let ticket = Ticket { connection: number, stream };
        let reply = if header.flags & FLAG_REMOTE_OPEN != 0 {
            Err(EdgeError::Streaming)
        } else {
            dispatch(&request, ticket, shim)
        };
        match reply {
            Ok(Reply::Now(payload)) => Some(Ok(payload)),
            Ok(Reply::Later(form)) => {
                connection.open_calls += 1;
                self.pending.insert(ticket, Pending { asked, form });
                None
            }
            Ok(Reply::Keep) => {
                connection.keeps = Some(stream);
                None
            }
            Err(error) => Some(Err(status(&asked, &error))),
        }
    }

    /// Late answers that are ready.
    fn deliver(&mut self, shim: &mut Shim) {
        for (ticket, result) in shim.take_completions() {
            self.complete((ticket, result), shim);
        }
    }

    /// What happened goes to whoever follows.
    fn publish(&mut self, shim: &mut Shim) {
        let Some(publisher) = &mut self.publisher else { return };
        for happened in shim.take_events() {
            publisher.publish(&happened, shim.poller());
        }
        publisher.on_time(shim.poller());
    }

    /// Those who keep have what there is to keep, before anybody is told of it.
    fn tell_keepers(&mut self, shim: &mut Shim) {
        if !std::mem::take(&mut shim.is_kept_stale) {
            return;
        }
        let keepers: Vec<(u32, u32)> = self
            .connections
            .iter()
            .filter_map(|(&number, connection)| Some((number, connection.keeps?)))
            .collect();
        for (number, stream) in keepers {
            let frame = shim.keep().and_then(|Message { state, descriptors }| {
                let count = u32::try_from(descriptors.len()).unwrap_or(0);
                let kept = shim::Kept { state, descriptors: count };
                let frame = frame(FrameType::Data, stream, &kept);
                let frame = frame.map_err(|error| {
                    SysError::new("keep", "state", std::io::Error::other(error))
                })?;
                Ok((frame, descriptors))
            });
            let (frame, descriptors) = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    let error = journal::chain(&error);
                    journal::write(Level::Error, "nothing is kept", &[("error", &error)]);
                    continue;
                }
            };
            let Some(connection) = self.connections.get_mut(&number) else { continue };
            if connection.send_kept(frame, descriptors, shim.poller()) == Peer::Gone {
                self.close(number, shim);
            }
        }
    }

    fn complete(&mut self, (ticket, result): Completion, shim: &mut Shim) {
        let Some(pending) = self.pending.remove(&ticket) else { return };
        let Some(connection) = self.connections.get_mut(&ticket.connection) else { return };
        connection.open_calls -= 1;
        let result = result
            .map(|outcome| shim_service::encode(pending.form, outcome))
            .map_err(|error| status(&pending.asked, &error.into()));
        if self.answer(ticket.connection, ticket.stream, result, shim) == Peer::Gone {
            self.close(ticket.connection, shim);
        }
    }

    fn answer(
        &mut self,
        number: u32,
        stream: u32,
        result: Result<Vec<u8>, Status>,
        shim: &Shim,
    ) -> Peer {
        let Some(connection) = self.connections.get_mut(&number) else { return Peer::Gone };
        let response = match result {
            Ok(payload) => Response { status: None, payload },
            Err(status) => Response { status: Some(status), payload: Vec::new() },
        };
        let bytes = frame(FrameType::Response, stream, &response).or_else(|error| {
            let status = Some(status("answer", &error.into()));
            frame(FrameType::Response, stream, &Response { status, payload: Vec::new() })
        });
        match bytes {
            Ok(bytes) => connection.send(bytes, shim.poller()),
            Err(_) => Peer::Gone,
        }
    }

    fn close(&mut self, number: u32, shim: &mut Shim) {
        let Some(connection) = self.connections.remove(&number) else { return };
        connection.unwatch(shim.poller());
        self.pending.retain(|ticket, _| ticket.connection != number);
        shim.forget(number);
        shim.touch();
    }
}

impl Peer {
    fn min_of(self, other: Self) -> Self {
        if self == Self::Gone { self } else { other }
    }
}

fn dispatch(request: &Request, ticket: Ticket, shim: &mut Shim) -> Result<Reply, EdgeError> {
    match request.service.as_str() {
        task::SERVICE_V2 | task::SERVICE_V3 => task_service::call(request, ticket, shim),
        shim::SERVICE => shim_service::call(request, ticket, shim),
        other => Err(EdgeError::Service(other.to_owned())),
    }
}
