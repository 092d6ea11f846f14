//! Logs: entries of the log, from a place on.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use wharf_proto::v1;

use super::QUEUE_LEN;
use crate::{
    api::native::{
        status::from_fault,
        translate::{stream, timestamp, unix_ns},
    },
    drivers::logs::{Entry, cri::Stream},
    ids::Namespace,
    services::containers::{Containers, Feed, Follow, From, Piece},
};

struct Wanted {
    stdout: bool,
    stderr: bool,
    since: i64,
    until: i64,
}

impl Wanted {
    fn lets(&self, entry: &Entry) -> bool {
        let stream = match entry.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream && (self.since..=self.until).contains(&entry.time_unix_ns)
    }
}

pub(in crate::api::native) async fn serve(
    containers: &Containers,
    namespace: &Namespace,
    request: v1::LogsRequest,
) -> Result<Response<ReceiverStream<Result<v1::LogsResponse, Status>>>, Status> {
    let from = match (request.cursor.as_str(), request.tail) {
        ("", None) => From::Oldest,
        ("", Some(lines)) => u64::try_from(lines).map_or(From::Oldest, From::Tail),
        (cursor, _) => From::Cursor(cursor.into()),
    };
    let follow = if request.follow { Follow::UntilStopped } else { Follow::No };
    let neither = !request.stdout && !request.stderr;
    let wanted = Wanted {
        stdout: request.stdout || neither,
        stderr: request.stderr || neither,
        since: request.since.map_or(i64::MIN, unix_ns),
        until: request.until.map_or(i64::MAX, unix_ns),
    };
    containers.check_log_is_kept(namespace, &request.container).map_err(|e| from_fault(&e))?;
    let feed = containers
        .output(namespace, &request.container, from, follow)
        .await
        .map_err(|e| from_fault(&e))?;
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    // Ends with the client.
    tokio::spawn(forward(feed, wanted, sender));
    Ok(Response::new(ReceiverStream::new(receiver)))
}

async fn forward(
    mut feed: Feed,
    wanted: Wanted,
    sender: mpsc::Sender<Result<v1::LogsResponse, Status>>,
) {
    loop {
        let piece = tokio::select! {
            piece = feed.next() => piece,
            () = sender.closed() => return,
        };
        let answer = match piece {
            Ok(Piece::End(_)) => return,
            Ok(Piece::Entries(entries)) => {
                let over = entries.last().is_some_and(|e| e.time_unix_ns > wanted.until);
                let entries: Vec<_> =
                    entries.into_iter().filter(|e| wanted.lets(e)).map(entry).collect();
                if !entries.is_empty()
                    && sender.send(Ok(v1::LogsResponse { entries })).await.is_err()
                {
                    return;
                }
                if over {
                    return;
                }
                continue;
            }
            Err(error) => Err(from_fault(&error)),
        };
        let _ = sender.send(answer).await;
        return;
    }
}

fn entry(entry: Entry) -> v1::LogEntry {
    v1::LogEntry {
        time: Some(timestamp(entry.time_unix_ns)),
        stream: stream(entry.stream).into(),
        data: entry.data,
        partial: entry.partial,
        cursor: entry.cursor.to_string(),
    }
}
