//! Exec: one more process, its stdio and its end.

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use wharf_proto::v1::{self, exec_request, exec_response};

use super::QUEUE_LEN;
use crate::{
    api::native::{
        drain::handing_over,
        status::from_fault,
        translate::{exit, signal, stream, window},
    },
    ids::Namespace,
    services::{
        containers::{Containers, Error, ExecRequest, ExecSession},
        upgrade::Drain,
    },
};

type Sender = mpsc::Sender<Result<v1::ExecResponse, Status>>;
type Answer = Response<ReceiverStream<Result<v1::ExecResponse, Status>>>;

pub(in crate::api::native) async fn serve(
    containers: &Containers,
    drain: &Drain,
    namespace: Namespace,
    mut requests: Streaming<v1::ExecRequest>,
) -> Result<Answer, Status> {
    let first = requests.message().await?;
    let Some(exec_request::Kind::Start(start)) = first.and_then(|r| r.kind) else {
        return Err(from_fault(&Error::field("start", "the first message must be `start`")));
    };
    let ways = Ways {
        detach: start.detach,
        acknowledges: start.acknowledges,
        tells_stdin: start.tells_stdin,
    };
    let (session, offset) =
        begin(containers, &namespace, start).await.map_err(|e| from_fault(&e))?;
    let (sender, receiver) = mpsc::channel(QUEUE_LEN);
    // Ends with the client; the process does not.
    tokio::spawn(run(session, offset, ways, drain.clone(), requests, sender));
    Ok(Response::new(ReceiverStream::new(receiver)))
}

/// How the client wants it.
struct Ways {
    detach: bool,
    acknowledges: bool,
    tells_stdin: bool,
}

/// Starts the process, or finds the one that was started before.
async fn begin(
    containers: &Containers,
    namespace: &Namespace,
    start: v1::ExecStart,
) -> Result<(ExecSession, u64), Error> {
    if !start.exec_id.is_empty() {
        let offset = match start.cursor.as_str() {
            "" => 0,
            cursor => cursor.parse().map_err(|_| Error::Cursor(cursor.into()))?,
        };
        let session = containers.resume_exec(namespace, &start.container, &start.exec_id).await?;
        return Ok((session, offset));
    }
    let request = ExecRequest {
        args: start.args,
        env: start.env,
        working_dir: start.working_dir,
        user: start.user,
        tty: start.tty,
        stdin: start.open_stdin,
        detach: start.detach,
        window: window(start.window),
    };
    Ok((containers.exec(namespace, &start.container, request).await?, 0))
}

async fn run(
    session: ExecSession,
    offset: u64,
    ways: Ways,
    drain: Drain,
    requests: Streaming<v1::ExecRequest>,
    sender: Sender,
) {
    let started = v1::ExecStarted { exec_id: session.exec_id().to_owned(), pid: session.pid() };
    let told = send(&sender, exec_response::Kind::Started(started)).await;
    if told.is_err() || ways.detach {
        return;
    }
    let (acknowledge, acknowledged) = watch::channel(offset);
    let acknowledged = ways.acknowledges.then_some(acknowledged);
    let stdin = Stdin { taken: 0, tells: ways.tells_stdin };
    tokio::select! {
        () = forward_output(&session, offset, acknowledged, &sender) => {}
        () = forward_input(&session, requests, stdin, drain, &acknowledge, &sender) => {}
        () = sender.closed() => {}
    }
}

/// How much of it the process was given.
struct Stdin {
    taken: u64,
    tells: bool,
}

impl Stdin {
    async fn tell(&self, sender: &Sender, last: bool) {
        if self.tells {
            let taken = v1::StdinTaken { bytes: self.taken, last };
            // A client that went away is seen by others.
            let _ = send(sender, exec_response::Kind::StdinTaken(taken)).await;
        }
    }
}

/// Bytes that were not acknowledged when the shim last heard of it, from which on it is told as soon
/// as there is more to tell: half of what it keeps.
const TELL_FROM: u64 = 32 << 10;

/// All output, then the end.
async fn forward_output(
    session: &ExecSession,
    mut offset: u64,
    mut acknowledged: Option<watch::Receiver<u64>>,
    sender: &Sender,
) {
    loop {
        let release = acknowledged.as_mut().map(|a| (*a.borrow_and_update()).min(offset));
        let full = release.is_some_and(|released| offset - released >= TELL_FROM);
        let output = tokio::select! {
            output = session.output(offset, release) => output,
            // The shim may have no room until it hears of this.
            () = changed(&mut acknowledged), if full => continue,
        };
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                let _ = sender.send(Err(from_fault(&error))).await;
                return;
            }
        };
        for (from, data) in output.chunks {
            offset += data.len() as u64;
            let message =
                v1::Output { stream: stream(from).into(), data, cursor: offset.to_string() };
            if send(sender, exec_response::Kind::Output(message)).await.is_err() {
                return;
            }
        }
        offset = output.next_offset;
        if output.eof {
            break;
        }
    }
    // Errors are of clients that went away.
    let _ = match session.exit().await {
        Ok(end) => send(sender, exec_response::Kind::Exit(exit(&end))).await,
        Err(error) => sender.send(Err(from_fault(&error))).await.map_err(|_| ()),
    };
}

async fn changed(acknowledged: &mut Option<watch::Receiver<u64>>) {
    let changed = match acknowledged {
        Some(acknowledged) => acknowledged.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

/// Until the client breaks the connection, or the supervisor hands over: between two messages, so
/// that it is known what was taken. The end of what the client sends leaves the output going.
async fn forward_input(
    session: &ExecSession,
    mut requests: Streaming<v1::ExecRequest>,
    mut stdin: Stdin,
    drain: Drain,
    acknowledge: &watch::Sender<u64>,
    sender: &Sender,
) {
    let mut begun = std::pin::pin!(drain.begun());
    loop {
        let message = tokio::select! {
            biased;
            () = &mut begun => {
                stdin.tell(sender, true).await;
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
        let done = match kind {
            None => Ok(()),
            Some(exec_request::Kind::Start(_)) => {
                Err(Error::field("start", "only the first message can be `start`"))
            }
            Some(exec_request::Kind::Stdin(data)) => {
                stdin.taken += data.len() as u64;
                let given = session.stdin(data).await;
                stdin.tell(sender, false).await;
                given
            }
            Some(exec_request::Kind::CloseStdin(_)) => session.close_stdin().await,
            Some(exec_request::Kind::Resize(size)) => session.resize(window(Some(size))).await,
            Some(exec_request::Kind::Acknowledged(cursor)) => match cursor.parse::<u64>() {
                Ok(to) => {
                    // One that goes back is an old one, late.
                    acknowledge.send_if_modified(|now| {
                        let further = to > *now;
                        *now = to.max(*now);
                        further
                    });
                    Ok(())
                }
                Err(_) => Err(Error::Cursor(cursor)),
            },
            Some(exec_request::Kind::Signal(text)) => match signal("signal", &text) {
                Ok(Some(signal)) => session.signal(signal).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            },
        };
        match done {
            // What it says once the process has ended is lost; the output tells the end.
            Ok(()) | Err(Error::Shim { .. }) => {}
            Err(error) => {
                let _ = sender.send(Err(from_fault(&error))).await;
                return;
            }
        }
    }
}

async fn send(sender: &Sender, kind: exec_response::Kind) -> Result<(), ()> {
    sender.send(Ok(v1::ExecResponse { kind: Some(kind) })).await.map_err(|_| ())
}
