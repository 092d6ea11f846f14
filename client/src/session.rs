//! Attach and exec that survive a restart of the supervisor.
//!
//! Owns the position in the output: when the stream breaks, the session opens it again after the
//! last cursor it has seen, so that no byte of output is lost or comes twice.
//!
//! ```text
//!            first answer          break: UNAVAILABLE, transport error, end without Exit
//!   opening ─────────────▶ open ──────────────────────────────────▶ resuming ─┐ pause, again
//!                           ▲ │ Exit, or the server refuses              │ ▲───┘ until patience
//!                           └─┼────── answer after the cursor ───────────┘       is at an end
//!                             ▼
//!                           over
//! ```
//!
//! Input is kept until the supervisor says that the process was given it. When a supervisor hands over
//! to the next one, it says where it stopped, and the rest is sent again; when it was killed, what it
//! had not spoken of may be lost. That stdin was closed, and the window's last size, are told again.

use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tonic::{Status, metadata::AsciiMetadataValue};
use wharf_proto::{
    kind::Kind,
    v1::{AttachStart, ExecStart, Exit, Stream, SubscribeRequest, WindowSize, attach_start},
};

use crate::{
    backoff::Backoff,
    connection::{Client, request_id},
    error::{Error, TransportFailure},
    link::{self, Link, Message},
    outbox::Outbox,
};

/// Exit code of a container whose own is not known.
const LOST: i32 = 255;

/// What a session tells.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Attach: the first event.
    Attached { tty: bool },
    /// Exec: the first event.
    Started { exec_id: String, pid: u32 },
    /// Output in order.
    Output { stream: Stream, data: Vec<u8> },
    /// The supervisor was away so long; the output goes on where it was. `input_lost`: stdin was
    /// being sent at that moment, and some of it may not have arrived.
    Resumed { after: Duration, input_lost: bool },
    /// The last event; all output came before.
    Exit(Exit),
}

/// What a session sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Stdin(Vec<u8>),
    /// After the last byte of stdin.
    CloseStdin,
    Resize(WindowSize),
    /// To an exec's process, by name or number. An attach ignores it: see
    /// [`Client::kill_container`].
    Signal(String),
}

/// The sending half, for any thread or task. A full queue makes it wait.
pub type InputSender = mpsc::Sender<Input>;

/// A stream of Attach or Exec. It lives while [`Session::next`] is polled: that also sends input.
/// Dropping it detaches; the process runs on.
pub struct Session {
    client: Client,
    target: Target,
    link: Option<Link>,
    outbox: Outbox,
    sender: Option<InputSender>,
    backoff: Backoff,
    broken_at: Option<Instant>,
    retry_at: Instant,
    opened_at: SystemTime,
    input_lost: bool,
    /// An exit that says nothing: the journal may know more.
    unsettled: Option<Exit>,
    over: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("target", &self.target).finish_non_exhaustive()
    }
}

/// The opening message, kept up to date so that it can be sent again.
#[derive(Debug, Clone)]
enum Target {
    Attach(AttachStart),
    /// With the request's id, so that it runs once however often it is asked for.
    Exec(ExecStart, AsciiMetadataValue),
}

impl Client {
    /// Attaches to a container's stdio. The first event is [`Event::Attached`].
    ///
    /// # Errors
    /// As any call; a break while opening is not retried.
    pub async fn attach(&self, mut start: AttachStart) -> Result<Session, Error> {
        start.tells_stdin = start.stdin;
        Session::open(self.clone(), Target::Attach(start)).await
    }

    /// Starts one more process in a container. The first event is [`Event::Started`].
    ///
    /// # Errors
    /// As any call; a break while it is started is retried, and it runs once all the same.
    pub async fn exec(&self, mut start: ExecStart) -> Result<Session, Error> {
        // Both streams share one order of messages: see `Target::acknowledges`.
        start.acknowledges = !start.open_stdin && !start.detach;
        start.tells_stdin = start.open_stdin && !start.detach;
        Session::open(self.clone(), Target::Exec(start, request_id())).await
    }
}

impl Session {
    async fn open(client: Client, target: Target) -> Result<Self, Error> {
        let mut backoff = client.backoff();
        let link = loop {
            let asked_at = Instant::now();
            let error = match target.open(&client).await {
                Ok(link) => break link,
                Err(status) => target.error(&client, status),
            };
            // Was anybody there?
            if matches!(error, Error::Connect { .. }) && !backoff.has_failed()
                || matches!(target, Target::Attach(_))
            {
                return Err(error);
            }
            backoff.opened(asked_at);
            backoff.retry(error).await?;
        };
        let (sender, outbox) = Outbox::new();
        backoff.opened(Instant::now());
        Ok(Self {
            client,
            target,
            link: Some(link),
            outbox,
            sender: Some(sender),
            backoff,
            broken_at: None,
            retry_at: Instant::now(),
            opened_at: SystemTime::now(),
            input_lost: false,
            unsettled: None,
            over: false,
        })
    }

    /// A handle to send input with; None once [`Session::without_input`] has been called.
    #[must_use]
    pub fn input(&self) -> Option<InputSender> {
        self.sender.clone()
    }

    /// Gives up the session's own handle, so that dropping the last other one is noticed.
    pub fn without_input(&mut self) {
        self.sender = None;
    }

    /// An attach that waited for the start has seen it: a resumed one must not wait for the next.
    pub fn has_started(&mut self) {
        if let Target::Attach(start) = &mut self.target {
            start.wait_for_start = false;
        }
    }

    /// The next event; None after [`Event::Exit`], or after the first event of a detached exec.
    /// May be dropped at any await and called again: nothing is lost.
    ///
    /// # Errors
    /// The server's refusal, or the last failure when the supervisor stayed away for longer than
    /// the client's patience.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(exit) = self.unsettled.clone() {
                let lost = Exit { exit_code: LOST, reason: "lost".to_owned(), ..exit };
                let exit = self.last_word().await.unwrap_or(lost);
                self.unsettled = None;
                return Ok(Some(Event::Exit(exit)));
            }
            if self.over {
                return Ok(None);
            }
            let Some(link) = &mut self.link else {
                if let Some(event) = self.resume().await? {
                    return Ok(Some(event));
                }
                continue;
            };
            let answer = tokio::select! {
                answer = link.answers.next() => answer,
                () = self.outbox.send_one(&link.requests) => continue,
            };
            match answer {
                Some(Ok(message)) => {
                    if let Some(event) = self.take(message) {
                        return Ok(Some(event));
                    }
                }
                Some(Err(status)) => {
                    let error = self.target.error(&self.client, status);
                    self.broke(error)?;
                }
                None if self.target.is_detached() => self.over = true,
                None => self.broke(Error::Broken {
                    call: self.target.call(),
                    source: TransportFailure {
                        text: "the stream ended without an exit".to_owned(),
                    },
                })?,
            }
        }
    }

    /// None when the event has to be looked into first.
    fn take(&mut self, message: Message) -> Option<Event> {
        if let Some(taken) = message.stdin {
            self.outbox.taken(taken);
        }
        if let Some(cursor) = message.cursor {
            if self.target.acknowledges() {
                self.outbox.acknowledge(cursor.clone());
            }
            self.target.moved_to(cursor);
        }
        let event = message.event?;
        match &event {
            Event::Started { exec_id, .. } => self.target.named(exec_id),
            Event::Exit(exit) => {
                self.over = true;
                self.link = None;
                // That of a container whose record is gone: not known is not 0.
                if exit.finished_at.is_none() && self.target.can_be_removed() {
                    self.unsettled = Some(exit.clone());
                    return None;
                }
            }
            Event::Output { .. } => {
                self.backoff.reset();
                self.has_started();
            }
            Event::Attached { .. } | Event::Resumed { .. } => {}
        }
        Some(event)
    }

    /// Drops the link, or the attempt at one; the error comes back if the session can't go on after
    /// it.
    fn broke(&mut self, error: Error) -> Result<(), Error> {
        let now = Instant::now();
        if let Some(link) = self.link.take() {
            self.input_lost = self.outbox.may_have_lost(&link.requests, now);
        }
        let pause = self.backoff.after_failure(now);
        match pause.filter(|_| error.is_transient() && self.target.can_resume()) {
            Some(pause) => {
                self.retry_at = now + pause;
                self.broken_at.get_or_insert(now);
                Ok(())
            }
            None => {
                self.over = true;
                Err(error)
            }
        }
    }

    /// One attempt. The first message of the new link must come before it counts as open.
    async fn resume(&mut self) -> Result<Option<Event>, Error> {
        tokio::time::sleep_until(self.retry_at.into()).await;
        let attempt = async {
            let mut link = self.target.open(&self.client).await?;
            match link.answers.next().await {
                Some(first) => first.map(|message| (link, message)),
                None => Err(Status::unavailable("the stream ended at once")),
            }
        };
        let (link, message) = match attempt.await {
            Ok(opened) => opened,
            Err(status) => {
                let error = self.target.error(&self.client, status);
                if error.kind() == Kind::NotFound
                    && let Some(exit) = self.last_word().await
                {
                    self.over = true;
                    return Ok(Some(Event::Exit(exit)));
                }
                self.broke(error)?;
                return Ok(None);
            }
        };
        self.backoff.opened(Instant::now());
        self.outbox.reopened();
        self.link = Some(link);
        let after = self.broken_at.take().map(|at| at.elapsed()).unwrap_or_default();
        let greeting =
            matches!(message.event, Some(Event::Attached { .. } | Event::Started { .. }));
        let event = self.take(message);
        let input_lost = std::mem::take(&mut self.input_lost);
        Ok(if greeting { Some(Event::Resumed { after, input_lost }) } else { event })
    }
}

impl Session {
    /// The end of a container that was removed (auto_remove) before we came back: the journal has
    /// it still. Output after our cursor is gone with its log.
    ///
    /// Borrows nothing while it waits, so that a session can be used in a task of its own.
    fn last_word(&self) -> impl Future<Output = Option<Exit>> + Send + use<> {
        let container = match &self.target {
            Target::Attach(start) => Some(start.container.clone()),
            Target::Exec(..) => None,
        };
        last_word(self.client.clone(), container, self.opened_at)
    }
}

async fn last_word(
    client: Client,
    container: Option<String>,
    opened_at: SystemTime,
) -> Option<Exit> {
    let request = SubscribeRequest {
        since: Some(opened_at.into()),
        until: Some(SystemTime::now().into()),
        topics: ["container.exit", "container.oom"].map(str::to_owned).into(),
        container: container?,
        ..SubscribeRequest::default()
    };
    let mut events = client.events(request).await.ok()?;
    let mut last = None;
    let limit = tokio::time::Instant::now() + Duration::from_secs(5);
    while let Ok(Ok(Some(event))) = tokio::time::timeout_at(limit, events.next()).await {
        last = Some(event);
    }
    let event = last?;
    let number = |name: &str| event.attributes.get(name)?.parse().ok();
    Some(Exit {
        exit_code: number("exitCode")?,
        signal: number("signal").unwrap_or(0),
        oom_killed: event.topic == "container.oom",
        reason: event.attributes.get("reason").cloned().unwrap_or_default(),
        message: "the container was removed meanwhile".to_owned(),
        finished_at: event.time,
    })
}

impl Target {
    async fn open(&self, client: &Client) -> Result<Link, Status> {
        match self {
            Self::Attach(start) => link::attach(client, start.clone()).await,
            Self::Exec(start, id) => link::exec(client, start.clone(), id.clone()).await,
        }
    }

    fn call(&self) -> &'static str {
        match self {
            Self::Attach(_) => "Attach",
            Self::Exec(..) => "Exec",
        }
    }

    fn error(&self, client: &Client, status: Status) -> Error {
        client.error(self.call(), status)
    }

    fn moved_to(&mut self, to: String) {
        match self {
            Self::Attach(start) => start.from = Some(attach_start::From::Cursor(to)),
            Self::Exec(start, _) => start.cursor = to,
        }
    }

    fn named(&mut self, id: &str) {
        if let Self::Exec(start, _) = self {
            id.clone_into(&mut start.exec_id);
        }
    }

    /// Not with stdin (see [`Client::exec`]): a process that waits for us to take its output does not read, and what
    /// acknowledges would wait behind the stdin that it does not read.
    fn acknowledges(&self) -> bool {
        matches!(self, Self::Exec(start, _) if start.acknowledges)
    }

    fn can_be_removed(&self) -> bool {
        matches!(self, Self::Attach(_))
    }

    fn is_detached(&self) -> bool {
        matches!(self, Self::Exec(start, _) if start.detach)
    }

    fn can_resume(&self) -> bool {
        match self {
            Self::Attach(_) => true,
            Self::Exec(start, _) => !start.detach || start.exec_id.is_empty(),
        }
    }
}
