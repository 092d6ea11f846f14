//! What a session has to send: the caller's input, and what is to be told again after a break.
//!
//! Owns the sending half of a session's state; knows nothing of links but their queue.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use wharf_proto::v1::WindowSize;

use crate::{link::Outgoing, session::Input};

/// Inputs of the caller that wait to be sent.
const QUEUE: usize = 16;
/// Input that was sent so shortly before a break may still have been under way.
const UNDER_WAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::Receiver<Input>,
    stdin_closed: bool,
    stdin_at: Option<Instant>,
    window: Option<WindowSize>,
    /// For a new link, before anything else.
    again: Vec<Input>,
    unacknowledged: Option<String>,
}

impl Outbox {
    pub(crate) fn new() -> (mpsc::Sender<Input>, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let outbox = Self {
            queue,
            stdin_closed: false,
            stdin_at: None,
            window: None,
            again: Vec::new(),
            unacknowledged: None,
        };
        (sender, outbox)
    }

    /// Output up to this cursor is here for good. Only the last one of several is told.
    pub(crate) fn acknowledge(&mut self, cursor: String) {
        self.unacknowledged = Some(cursor);
    }

    /// Bytes of stdin were sent so lately, or still wait for room in a link that is full, that some
    /// may have been lost with it.
    pub(crate) fn may_have_lost(&self, link: &mpsc::Sender<Outgoing>, now: Instant) -> bool {
        self.stdin_at.is_some_and(|at| now.duration_since(at) < UNDER_WAY || link.capacity() == 0)
    }

    /// What the peer of a new link does not know.
    pub(crate) fn reopened(&mut self) {
        self.unacknowledged = None;
        self.again.clear();
        if self.stdin_closed {
            self.again.push(Input::CloseStdin);
        }
        self.again.extend(self.window.map(Input::Resize));
    }

    /// Sends one thing when there is one and room for it. Cancelled, it has taken nothing: between
    /// the room, the input and sending it there is no await.
    pub(crate) async fn send_one(&mut self, link: &mpsc::Sender<Outgoing>) {
        let Ok(room) = link.reserve().await else {
            // The link is going down; its other half tells why.
            return std::future::pending().await;
        };
        if let Some(cursor) = self.unacknowledged.take() {
            return room.send(Outgoing::Acknowledged(cursor));
        }
        let input = match self.again.pop() {
            Some(input) => input,
            None => match self.queue.recv().await {
                Some(input) => input,
                None => std::future::pending().await,
            },
        };
        match &input {
            Input::CloseStdin => self.stdin_closed = true,
            Input::Resize(window) => self.window = Some(*window),
            Input::Stdin(_) => self.stdin_at = Some(Instant::now()),
            Input::Signal(_) => {}
        }
        room.send(Outgoing::Input(input));
    }
}
