//! One two-way stream of Attach or Exec in a form that both share.
//!
//! Knows the messages of both calls and nothing about breaking and resuming: see `session`.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, metadata::AsciiMetadataValue};
use wharf_proto::v1::{
    AttachRequest, AttachResponse, AttachStart, CloseStdin, ExecRequest, ExecResponse, ExecStart,
    REQUEST_ID_KEY, StdinTaken, attach_request, attach_response, exec_request, exec_response,
};

use crate::{
    connection::Client,
    session::{Event, Input},
};

/// Messages to the server that wait for room in the connection.
const QUEUE: usize = 4;

/// What the server sent, and where the output stands after it.
#[derive(Debug)]
pub(crate) struct Message {
    /// None for what only the session itself has to know.
    pub(crate) event: Option<Event>,
    pub(crate) cursor: Option<String>,
    /// How much of stdin has arrived.
    pub(crate) stdin: Option<StdinTaken>,
}

impl From<Event> for Message {
    fn from(event: Event) -> Self {
        Self { event: Some(event), cursor: None, stdin: None }
    }
}

impl From<StdinTaken> for Message {
    fn from(taken: StdinTaken) -> Self {
        Self { event: None, cursor: None, stdin: Some(taken) }
    }
}

/// What goes to the server after the opening message.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Input(Input),
    /// An exec's output up to this cursor is here for good.
    Acknowledged(String),
}

/// An open stream. Dropping it ends the call.
pub(crate) struct Link {
    pub(crate) requests: mpsc::Sender<Outgoing>,
    pub(crate) answers: Answers,
}

pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

pub(crate) async fn attach(client: &Client, start: AttachStart) -> Result<Link, Status> {
    let (requests, queue) = mpsc::channel(QUEUE);
    let first = AttachRequest { kind: Some(attach_request::Kind::Start(start)) };
    let rest = ReceiverStream::new(queue).filter_map(async |sent| attach_request(sent));
    let outgoing = futures_util::stream::once(async { first }).chain(rest);
    let answers = client.containers().attach(outgoing).await?.into_inner();
    let answers = answers.filter_map(async |answer| answer.map(from_attach).transpose());
    Ok(Link { requests, answers: Box::pin(answers) })
}

pub(crate) async fn exec(
    client: &Client,
    start: ExecStart,
    request_id: AsciiMetadataValue,
) -> Result<Link, Status> {
    let (requests, queue) = mpsc::channel(QUEUE);
    let first = ExecRequest { kind: Some(exec_request::Kind::Start(start)) };
    let rest = ReceiverStream::new(queue).map(exec_request);
    let outgoing = futures_util::stream::once(async { first }).chain(rest);
    let mut outgoing = Request::new(outgoing);
    outgoing.metadata_mut().insert(REQUEST_ID_KEY, request_id);
    let answers = client.containers().exec(outgoing).await?.into_inner();
    let answers = answers.filter_map(async |answer| answer.map(from_exec).transpose());
    Ok(Link { requests, answers: Box::pin(answers) })
}

/// None for a signal: a container's goes by a call of its own; and for an acknowledgement: a log
/// keeps its output anyway.
fn attach_request(sent: Outgoing) -> Option<AttachRequest> {
    use attach_request::Kind;
    let Outgoing::Input(input) = sent else { return None };
    let kind = match input {
        Input::Stdin(data) => Kind::Stdin(data),
        Input::CloseStdin => Kind::CloseStdin(CloseStdin {}),
        Input::Resize(window) => Kind::Resize(window),
        Input::Signal(_) => return None,
    };
    Some(AttachRequest { kind: Some(kind) })
}

fn exec_request(sent: Outgoing) -> ExecRequest {
    use exec_request::Kind;
    let kind = match sent {
        Outgoing::Input(Input::Stdin(data)) => Kind::Stdin(data),
        Outgoing::Input(Input::CloseStdin) => Kind::CloseStdin(CloseStdin {}),
        Outgoing::Input(Input::Resize(window)) => Kind::Resize(window),
        Outgoing::Input(Input::Signal(signal)) => Kind::Signal(signal),
        Outgoing::Acknowledged(cursor) => Kind::Acknowledged(cursor),
    };
    ExecRequest { kind: Some(kind) }
}

/// None for a message of a later version of the API.
fn from_attach(answer: AttachResponse) -> Option<Message> {
    use attach_response::Kind;
    Some(match answer.kind? {
        Kind::Attached(attached) => Message {
            cursor: Some(attached.cursor).filter(|cursor| !cursor.is_empty()),
            ..Event::Attached { tty: attached.tty }.into()
        },
        Kind::Output(output) => from_output(output),
        Kind::Exit(exit) => Event::Exit(exit).into(),
        Kind::StdinTaken(taken) => taken.into(),
    })
}

fn from_exec(answer: ExecResponse) -> Option<Message> {
    use exec_response::Kind;
    Some(match answer.kind? {
        Kind::Started(started) => {
            Event::Started { exec_id: started.exec_id, pid: started.pid }.into()
        }
        Kind::Output(output) => from_output(output),
        Kind::Exit(exit) => Event::Exit(exit).into(),
        Kind::StdinTaken(taken) => taken.into(),
    })
}

fn from_output(output: wharf_proto::v1::Output) -> Message {
    let stream = output.stream();
    Message {
        cursor: Some(output.cursor).filter(|cursor| !cursor.is_empty()),
        ..Event::Output { stream, data: output.data }.into()
    }
}
