//! Attach: the stdio of a container's process.
//!
//! Output is read from the log, where the client asks for it to begin; stdin goes to the shim. The
//! two have nothing to do with each other but for the client that they end with.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use wharf_proto::v1::{self, attach_request, attach_response, attach_start};

use super::QUEUE_LEN;
use crate::{
    api::native::{
        drain::handing_over,
        status::from_fault,
        translate::{exit, output, window},
    },
    drivers::logs::{Entry, cri::Stream},
    ids::Namespace,
    services::{
        containers::{Containers, Error, Feed, Follow, From, NextStart, Piece, record::Record},
        upgrade::Drain,
    },
};

type Sender = mpsc::Sender<Result<v1::AttachResponse, Status>>;
type Answer = Response<ReceiverStream<Result<v1::AttachResponse, Status>>>;

pub(in crate::api::native) async fn serve(
    containers: &Containers,
    drain: &Drain,
    namespace: Namespace,
    mut requests: Streaming<v1::AttachRequest>,
) -> Result<Answer, Status> {
    let first = requests.message().await?;
    let Some(attach_request::Kind::Start(start)) = first.and_then(|r| r.kind) else {
        let error = Error::field("start", "the first message must be `start`");
        return Err(from_fault(&error));
    };
    // Before the client hears of it: it may start the container the moment it does.
    let next = containers.next_start(&namespace, &start.container).map_err(|e| from_fault(&e))?;
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    let session = Session {
        containers: containers.clone(),
        drain: drain.clone(),
        namespace,
        id: next.record.id.to_string(),
        start,
    };
    // Both end with the client.
    tokio::spawn(session.run(next, requests, sender));
    Ok(Response::new(ReceiverStream::new(receiver)))
}

struct Session {
    containers: Containers,
    drain: Drain,
    namespace: Namespace,
    id: String,
    start: v1::AttachStart,
}

impl Session {
    async fn run(
        self,
        mut next: NextStart,
        requests: Streaming<v1::AttachRequest>,
        sender: Sender,
    ) {
        if self.start.wait_for_start {
            let started = tokio::select! {
                started = next.started() => started,
                () = self.drain.clone().begun() => {
                    let _ = sender.send(Err(handing_over())).await;
                    return;
                }
                () = sender.closed() => return,
            };
            if let Err(error) = started {
                let _ = sender.send(Err(from_fault(&error))).await;
                return;
            }
        }
        let record = Arc::clone(&next.record);
        let mut feed = match self.feed().await {
            Ok(feed) => feed,
            Err(error) => {
                let _ = sender.send(Err(from_fault(&error))).await;
                return;
            }
        };
        let cursor = feed.cursor().map(|c| c.to_string()).unwrap_or_default();
        let attached = v1::Attached { tty: record.spec.tty, cursor };
        if send(&sender, attach_response::Kind::Attached(attached)).await.is_err() {
            return;
        }
        tokio::select! {
            () = self.forward_output(&mut feed, &sender) => {}
            () = self.forward_input(&record, requests, &sender) => {}
            () = sender.closed() => {}
        }
        if self.drain.has_begun() {
            // The client comes back to the next supervisor, and its stdin with it.
            return;
        }
        if self.start.stdin && record.spec.stdin_once {
            let closed = self.containers.close_stdin(&self.namespace, &self.id).await;
            if let Err(error) = closed {
                tracing::debug!(container = record.id.short(), %error, "stdin was closed already");
            }
        }
    }

    async fn feed(&self) -> Result<Feed, Error> {
        let from = match &self.start.from {
            None => From::Tail(0),
            Some(attach_start::From::Cursor(cursor)) if cursor.is_empty() => From::Start,
            Some(attach_start::From::Cursor(cursor)) => From::Cursor(cursor.clone()),
            Some(attach_start::From::HistoryLines(lines)) => {
                u64::try_from(*lines).map_or(From::Start, From::Tail)
            }
        };
        self.containers.output(&self.namespace, &self.id, from, Follow::UntilStopped).await
    }

    /// Until the container stops, or the client goes.
    async fn forward_output(&self, feed: &mut Feed, sender: &Sender) {
        loop {
            match feed.next().await {
                Err(error) => {
                    let _ = sender.send(Err(from_fault(&error))).await;
                    return;
                }
                Ok(Piece::End(end)) => {
                    let _ = match end {
                        Some(end) => send(sender, attach_response::Kind::Exit(exit(&end))).await,
                        // It was never started, and is gone.
                        None => {
                            let gone = Error::NotFound(self.id.clone());
                            sender.send(Err(from_fault(&gone))).await.map_err(|_| ())
                        }
                    };
                    return;
                }
                Ok(Piece::Entries(entries)) => {
                    let wanted = |stream| match stream {
                        Stream::Stdout => self.start.stdout,
                        Stream::Stderr => self.start.stderr,
                    };
                    for entry in joined(entries).into_iter().filter(|e| wanted(e.stream)) {
                        let output = attach_response::Kind::Output(output(entry));
                        if send(sender, output).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    async fn tell_stdin(&self, sender: &Sender, bytes: u64, last: bool) {
        if self.start.tells_stdin {
            let taken = v1::StdinTaken { bytes, last };
            // A client that went away is seen by others.
            let _ = send(sender, attach_response::Kind::StdinTaken(taken)).await;
        }
    }

    /// Until the client breaks the connection, or the supervisor hands over: between two messages,
    /// so that it is known what was taken. The end of what the client sends leaves the output going.
    async fn forward_input(
        &self,
        record: &Record,
        mut requests: Streaming<v1::AttachRequest>,
        sender: &Sender,
    ) {
        let mut taken = 0;
        let mut begun = std::pin::pin!(self.drain.clone().begun());
        loop {
            let message = tokio::select! {
                biased;
                () = &mut begun => {
                    self.tell_stdin(sender, taken, true).await;
                    let _ = sender.send(Err(handing_over())).await;
                    return;
                }
                message = requests.message() => message,
            };
            let kind = match message {
                Ok(Some(request)) => request.kind,
                Ok(None) => {
                    (&mut begun).await;
                    let _ = sender.send(Err(handing_over())).await;
                    return;
                }
                Err(_) => return,
            };
            let Some(kind) = kind else { continue };
            let done = match kind {
                attach_request::Kind::Start(_) => {
                    Err(Error::field("start", "only the first message can be `start`"))
                }
                attach_request::Kind::Stdin(data) if self.start.stdin => {
                    taken += data.len() as u64;
                    let written =
                        self.containers.write_stdin(&self.namespace, &self.id, data).await;
                    self.tell_stdin(sender, taken, false).await;
                    written
                }
                attach_request::Kind::CloseStdin(_) if self.start.stdin => {
                    self.containers.close_stdin(&self.namespace, &self.id).await
                }
                attach_request::Kind::Stdin(_) | attach_request::Kind::CloseStdin(_) => Ok(()),
                attach_request::Kind::Resize(size) => {
                    let window = window(Some(size));
                    self.containers.resize(&self.namespace, &self.id, "", window).await
                }
            };
            match done {
                Ok(()) => {}
                // What it says once the container has stopped is lost; the output tells the end.
                Err(Error::State { .. } | Error::Shim { .. } | Error::NotFound(_)) => {
                    tracing::debug!(container = record.id.short(), "input came too late");
                }
                Err(error) => {
                    let _ = sender.send(Err(from_fault(&error))).await;
                    return;
                }
            }
        }
    }
}

/// Neighbours of one stream as one: lines are nothing to a client that is attached.
fn joined(entries: Vec<Entry>) -> Vec<Entry> {
    let mut joined: Vec<Entry> = Vec::new();
    for entry in entries {
        match joined.last_mut() {
            Some(last) if last.stream == entry.stream => {
                last.data.extend_from_slice(&entry.data);
                last.cursor = entry.cursor;
            }
            _ => joined.push(entry),
        }
    }
    joined
}

async fn send(sender: &Sender, kind: attach_response::Kind) -> Result<(), ()> {
    sender.send(Ok(v1::AttachResponse { kind: Some(kind) })).await.map_err(|_| ())
}
