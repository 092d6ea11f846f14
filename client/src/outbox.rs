//! What a session has to send: the caller's input, and what is to be told again after a break.
//!
//! Owns the sending half of a session's state; knows nothing of links but their queue.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use wharf_proto::v1::{StdinTaken, WindowSize};

use crate::{link::Outgoing, session::Input};

/// Inputs of the caller that wait to be sent.
const QUEUE: usize = 16;
/// Input that was sent so shortly before a break may still have been under way.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Stdin that was sent and not spoken of, beyond which no more is taken from the caller.
const MAX_UNTAKEN: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: mpsc::Receiver<Input>,
    stdin_closed: bool,
    stdin_at: Option<Instant>,
    window: Option<WindowSize>,
    /// For a new link, before anything else.
    again: Vec<Input>,
    unacknowledged: Option<String>,
    /// Stdin of this link that the supervisor has not spoken of, oldest first.
    untaken: VecDeque<Vec<u8>>,
    untaken_bytes: usize,
    /// What it has spoken of in this link; none: it never did.
    taken_bytes: Option<u64>,
    /// It said that it would take no more.
    taken_last: bool,
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
            untaken: VecDeque::new(),
            untaken_bytes: 0,
            taken_bytes: None,
            taken_last: false,
        };
        (sender, outbox)
    }

    /// Output up to this cursor is here for good. Only the last one of several is told.
    pub(crate) fn acknowledge(&mut self, cursor: String) {
        self.unacknowledged = Some(cursor);
    }

    /// The process was given so much of this link's stdin.
    pub(crate) fn taken(&mut self, taken: StdinTaken) {
        let mut news = taken.bytes.saturating_sub(self.taken_bytes.unwrap_or(0));
        self.taken_bytes = Some(taken.bytes);
        self.taken_last |= taken.last;
        while news > 0
            && let Some(oldest) = self.untaken.front_mut()
        {
            let count = usize::try_from(news).unwrap_or(usize::MAX).min(oldest.len());
            oldest.drain(..count);
            self.untaken_bytes -= count;
            news -= count as u64;
            if oldest.is_empty() {
                self.untaken.pop_front();
            }
        }
    }

    /// Some of the stdin that was sent may have been lost with the link: what the supervisor did not
    /// speak of before it broke; or, if it never does, what was sent lately or still waits for room.
    pub(crate) fn may_have_lost(&self, link: &mpsc::Sender<Outgoing>, now: Instant) -> bool {
        if self.taken_last {
            return false;
        }
        if self.taken_bytes.is_some() {
            return self.untaken_bytes > 0;
        }
        self.stdin_at.is_some_and(|at| now.duration_since(at) < UNDER_WAY || link.capacity() == 0)
    }

    /// What the peer of a new link does not know, the last of it to be sent first.
    pub(crate) fn reopened(&mut self) {
        self.unacknowledged = None;
        self.again.clear();
        if self.stdin_closed {
            self.again.push(Input::CloseStdin);
        }
        // What may have been taken must not come twice.
        let untaken = std::mem::take(&mut self.untaken);
        if std::mem::take(&mut self.taken_last) {
            self.again.extend(untaken.into_iter().rev().map(Input::Stdin));
        }
        self.untaken_bytes = 0;
        self.taken_bytes = None;
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
            None if self.untaken_bytes > MAX_UNTAKEN => std::future::pending().await,
            None => match self.queue.recv().await {
                Some(input) => input,
                None => std::future::pending().await,
            },
        };
        match &input {
            Input::CloseStdin => self.stdin_closed = true,
            Input::Resize(window) => self.window = Some(*window),
            Input::Stdin(data) => {
                self.stdin_at = Some(Instant::now());
                self.untaken_bytes += data.len();
                self.untaken.push_back(data.clone());
            }
            Input::Signal(_) => {}
        }
        room.send(Outgoing::Input(input));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(outbox: &mut Outbox, count: usize) -> String {
        let (link, mut peer) = mpsc::channel(8);
        let mut text = String::new();
        for _ in 0..count {
            outbox.send_one(&link).await;
            match peer.try_recv() {
                Ok(Outgoing::Input(Input::Stdin(data))) => {
                    text += &String::from_utf8(data).expect("text");
                }
                Ok(Outgoing::Input(Input::CloseStdin)) => text += ".",
                other => panic!("{other:?}"),
            }
        }
        text
    }

    #[tokio::test]
    async fn what_was_not_taken_is_sent_again_in_order() {
        let (sender, mut outbox) = Outbox::new();
        for part in ["ab", "cd", "ef"] {
            sender.send(Input::Stdin(part.into())).await.expect("room");
        }
        sender.send(Input::CloseStdin).await.expect("room");
        assert_eq!(sent(&mut outbox, 4).await, "abcdef.");
        outbox.taken(StdinTaken { bytes: 2, last: false });
        outbox.taken(StdinTaken { bytes: 3, last: true });
        let (link, _peer) = mpsc::channel(1);
        assert!(!outbox.may_have_lost(&link, Instant::now()));
        outbox.reopened();
        assert_eq!(sent(&mut outbox, 3).await, "def.");
        // The next link counts anew.
        outbox.taken(StdinTaken { bytes: 3, last: true });
        outbox.reopened();
        assert_eq!(sent(&mut outbox, 1).await, ".");
    }

    #[tokio::test]
    async fn a_kill_loses_what_was_not_spoken_of() {
        let (sender, mut outbox) = Outbox::new();
        sender.send(Input::Stdin(b"ab".to_vec())).await.expect("room");
        assert_eq!(sent(&mut outbox, 1).await, "ab");
        let (link, _peer) = mpsc::channel(1);
        outbox.taken(StdinTaken { bytes: 0, last: false });
        assert!(outbox.may_have_lost(&link, Instant::now()));
        outbox.taken(StdinTaken { bytes: 2, last: false });
        assert!(!outbox.may_have_lost(&link, Instant::now()));
        outbox.reopened();
        sender.send(Input::CloseStdin).await.expect("room");
        assert_eq!(sent(&mut outbox, 1).await, ".");
    }
}
