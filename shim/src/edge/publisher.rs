//! Events to containerd, over its ttrpc socket.
//!
//! One event is on its way at a time, so that they arrive in the order in which they happened.
//! Nothing waits: a socket that does not answer costs tries, spaced out and counted, then the
//! event is dropped. The queue is bounded; beyond it the oldest go.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prost::Message as _;
use wharf_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use wharf_proto::containerd::types::Envelope;
use wharf_proto::ttrpc::{FrameType, Request, Response, frame};

use super::events::encode;
use super::status::timestamp;
use crate::flow::Happened;
use crate::logic::frames::{Next, Reader};
use crate::sys::clock;
use crate::sys::journal::{self, Level};
use crate::sys::poller::{Interest, Poller, Token};
use crate::sys::sockets::{self, Moved};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
/// Events that may wait.
const MAX_QUEUED: usize = 512;
const MAX_TRIES: u32 = 6;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// After the first failure; doubled with each.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Waiting {
    payload: Vec<u8>,
    topic: &'static str,
    tries: u32,
}

/// What the publisher is at.
#[derive(Debug)]
enum Stage {
    Idle,
    /// Part of the frame may be out.
    Sending {
        frame: Vec<u8>,
        sent: usize,
        until: Instant,
    },
    Awaiting {
        until: Instant,
    },
    Pausing {
        until: Instant,
    },
}

#[derive(Debug)]
pub(crate) struct Publisher {
    address: PathBuf,
    namespace: String,
    queue: VecDeque<Waiting>,
    socket: Option<UnixStream>,
    reader: Reader,
    next_stream: u32,
    stage: Stage,
}

impl Publisher {
    /// `address`: a path, with or without `unix://`.
    pub(crate) fn new(address: &str, namespace: &str) -> Self {
        Self {
            address: address.strip_prefix("unix://").unwrap_or(address).into(),
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            socket: None,
            reader: Reader::default(),
            next_stream: 1,
            stage: Stage::Idle,
        }
    }

    /// Queues an event and sends what can be sent.
    pub(crate) fn publish(&mut self, happened: &Happened, poller: &Poller) {
        let (topic, event) = encode(happened);
        let envelope = Envelope {
            timestamp: Some(timestamp(happened.at_unix_ns)),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event),
        };
        let payload = ForwardRequest { envelope: Some(envelope) }.encode_to_vec();
        if self.queue.len() >= MAX_QUEUED {
            journal::write(Level::Warn, "event is lost", &[("reason", &"queue is full")]);
            // Not the first: it may be on its way.
            self.queue.remove(1);
        }
        self.queue.push_back(Waiting { payload, topic, tries: 0 });
        if matches!(self.stage, Stage::Idle) {
            self.send_next(poller);
        }
    }

    /// When to call [`Publisher::on_time`].
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Idle => None,
            Stage::Sending { until, .. } | Stage::Awaiting { until } | Stage::Pausing { until } => {
                Some(until)
            }
        }
    }

    /// Nothing waits.
    pub(crate) fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn on_time(&mut self, poller: &Poller) {
        if self.wake_at().is_none_or(|at| at > clock::now()) {
            return;
        }
        match self.stage {
            Stage::Pausing { .. } => self.send_next(poller),
            Stage::Sending { .. } | Stage::Awaiting { .. } => {
                self.fail("no answer in time", poller)
            }
            Stage::Idle => {}
        }
    }

    /// The socket is ready.
    pub(crate) fn on_ready(&mut self, poller: &Poller) {
        self.flush(poller);
        self.receive(poller);
    }

    fn send_next(&mut self, poller: &Poller) {
        self.stage = Stage::Idle;
        let Some(first) = self.queue.front() else { return };
        let request = Request {
            service: SERVICE.to_owned(),
            method: "Forward".to_owned(),
            payload: first.payload.clone(),
            timeout_nano: i64::try_from(PATIENCE.as_nanos()).unwrap_or(0),
            metadata: Vec::new(),
        };
        if self.socket.is_none() && !self.connect(poller) {
            self.fail("nobody listens", poller);
            return;
        }
        let Ok(frame) = frame(FrameType::Request, self.next_stream, &request) else {
            self.queue.pop_front();
            return;
        };
        self.next_stream += 2;
        self.stage = Stage::Sending { frame, sent: 0, until: clock::now() + PATIENCE };
        self.flush(poller);
    }

    fn connect(&mut self, poller: &Poller) -> bool {
        let Ok(socket) = sockets::connect(&self.address) else { return false };
        if poller.add(&socket, Token::Publisher, Interest::Read).is_err() {
            return false;
        }
        self.socket = Some(socket);
        self.reader = Reader::default();
        self.next_stream = 1;
        true
    }

    fn flush(&mut self, poller: &Poller) {
        let Some(socket) = &self.socket else { return };
        let Stage::Sending { frame, sent, until } = &mut self.stage else { return };
        while *sent < frame.len() {
            match sockets::send(socket, &frame[*sent..]) {
                Moved::Bytes(count) => *sent += count,
                Moved::Blocked => {
                    let _ = poller.modify(socket, Token::Publisher, Interest::Both);
                    return;
                }
                Moved::Closed => {
                    self.fail("connection broke", poller);
                    return;
                }
            }
        }
        let _ = poller.modify(socket, Token::Publisher, Interest::Read);
        self.stage = Stage::Awaiting { until: *until };
    }

    fn receive(&mut self, poller: &Poller) {
        let mut buffer = [0; 4096];
        loop {
            let Some(socket) = &self.socket else { return };
            match sockets::receive(socket, &mut buffer) {
                Moved::Bytes(count) => self.reader.feed(&buffer[..count]),
                Moved::Blocked => return,
                Moved::Closed => {
                    self.fail("connection broke", poller);
                    return;
                }
            }
            while let (Some(_), Next::Frame(header, data)) = (&self.socket, self.reader.next()) {
                if header.stream.checked_add(2) == Some(self.next_stream) {
                    self.on_answer(&data, poller);
                }
            }
        }
    }

    fn on_answer(&mut self, data: &[u8], poller: &Poller) {
        let refusal = match Response::decode(data) {
            Ok(response) => response.status.filter(|status| status.code != 0),
            Err(_) => None,
        };
        if let Some(status) = refusal {
            self.fail(&status.message, poller);
            return;
        }
        self.queue.pop_front();
        self.send_next(poller);
    }

    /// Tries again later, or gives the event up.
    fn fail(&mut self, reason: &str, poller: &Poller) {
        if let Some(socket) = self.socket.take() {
            poller.remove(&socket);
        }
        let Some(first) = self.queue.front_mut() else {
            self.stage = Stage::Idle;
            return;
        };
        first.tries += 1;
        let mut pause = PAUSE * 2_u32.saturating_pow(first.tries.min(6));
        if first.tries >= MAX_TRIES {
            let fields: &[(&str, &dyn std::fmt::Display)] =
                &[("topic", &first.topic), ("reason", &reason)];
            journal::write(Level::Warn, "event is lost", fields);
            self.queue.pop_front();
            pause = PAUSE;
        }
        self.stage = if self.queue.is_empty() {
            Stage::Idle
        } else {
            Stage::Pausing { until: clock::now() + pause }
        };
    }
}
