//! Attached: moves bytes, sizes and signals between the caller and a session until one of them ends.
//!
//! With a terminal the caller's keys are the container's, and a signal to this program ends it (the
//! container runs on). Without one, signals are passed on.

use std::{collections::VecDeque, time::Duration};

use anyhow::{Result, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};
use wharf_client::{
    Client, Input, InputSender, Session, SessionEvent,
    v1::{Exit, WindowSize},
};

use crate::cli::{
    debug::debug,
    output,
    parse::keys::Detacher,
    stdio::{self, Chunk, Writer},
    terminal::{self, RawMode},
};

/// How the caller is attached.
#[derive(Debug)]
pub(crate) struct Options {
    /// The container has a terminal.
    pub(crate) tty: bool,
    /// Standard input goes to the container.
    pub(crate) stdin: bool,
    pub(crate) detach_keys: Vec<u8>,
    pub(crate) signals: Signals,
}

/// Where signals to this program go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Signals {
    /// They end this program; the container runs on.
    EndUs,
    /// To the container of this id.
    ToContainer(String),
    /// To the process of the session's exec.
    ToExec,
}

/// How it ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Exited(Exit),
    /// By the detach keys.
    Detached,
    /// By a signal to this program.
    Signalled(i32),
}

impl Ended {
    /// This program's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            // Codes of processes have eight bits; a lost one is Wharf's own failure.
            Self::Exited(exit) => u8::try_from(exit.exit_code & 0xff).unwrap_or(125),
            Self::Detached => 0,
            Self::Signalled(number) => u8::try_from(128 + number).unwrap_or(255),
        }
    }
}

/// The caller's side, taken hold of before the container starts: from here on signals are caught
/// and the terminal is raw.
#[derive(Debug)]
pub(crate) struct Caller {
    options: Options,
    caught: mpsc::Receiver<i32>,
    raw: Option<RawMode>,
}

impl Caller {
    pub(crate) fn prepare(options: Options) -> Result<Self> {
        let caught = catch(&options)?;
        let raw = (options.tty && options.stdin).then(RawMode::enter).transpose()?;
        Ok(Self { options, caught, raw })
    }

    /// Runs until the process has ended or the caller has left.
    pub(crate) async fn run(self, client: &Client, session: Session) -> Result<Ended> {
        let (Self { options, caught, raw }, mut session) = (self, session);
        let Some(input) = session.input() else { bail!("the session takes no input") };
        session.without_input();
        let detached = options.stdin.then(|| {
            let keys = if options.tty { options.detach_keys.clone() } else { Vec::new() };
            stdio::read(input.clone(), Detacher::new(keys))
        });
        let mut state = Loop {
            client,
            signals: options.signals,
            raw: raw.as_ref(),
            outbox: VecDeque::new(),
            terminations: 0,
        };
        let ended = state.run(session, input, caught, detached, options.tty).await;
        drop(raw);
        if matches!(ended, Ok(Ended::Detached)) {
            output::complain("read escape sequence");
        }
        ended
    }
}

struct Loop<'a> {
    client: &'a Client,
    signals: Signals,
    raw: Option<&'a RawMode>,
    /// For the session, as soon as it has room.
    outbox: VecDeque<Input>,
    terminations: u32,
}

impl Loop<'_> {
    async fn run(
        &mut self,
        session: Session,
        input: InputSender,
        mut caught: mpsc::Receiver<i32>,
        detached: Option<oneshot::Receiver<()>>,
        tty: bool,
    ) -> Result<Ended> {
        let writer = Writer::start();
        let ended = match self.pump(session, input, &writer, &mut caught, detached, tty).await {
            Ok(Some(ended @ Ended::Signalled(_))) => return Ok(ended),
            other => other,
        };
        let mut finish = std::pin::pin!(writer.finish());
        loop {
            tokio::select! {
                written = &mut finish => match ended? {
                    Some(ended) => return written.map(|()| ended),
                    None => {
                        written?;
                        bail!("the output ended and no exit code came");
                    }
                },
                // A reader that has stopped reading must not keep us from being ended.
                Some(number) = caught.recv() => if is_ending(number) {
                    return Ok(Ended::Signalled(number));
                },
            }
        }
    }

    /// Until one side ends; none when the output can't be written or ends without an exit.
    async fn pump(
        &mut self,
        mut session: Session,
        input: InputSender,
        writer: &Writer,
        caught: &mut mpsc::Receiver<i32>,
        mut detached: Option<oneshot::Receiver<()>>,
        tty: bool,
    ) -> Result<Option<Ended>> {
        let mut pending: Option<Chunk> = None;
        loop {
            tokio::select! {
                event = session.next(), if pending.is_none() => match event? {
                    Some(SessionEvent::Output { stream, data }) => pending = Some((stream, data)),
                    Some(SessionEvent::Exit(exit)) => return Ok(Some(Ended::Exited(exit))),
                    Some(SessionEvent::Resumed { after, input_lost }) => {
                        debug!("the supervisor was away for {} ms", after.as_millis());
                        if input_lost && !tty {
                            output::complain(INPUT_LOST);
                        }
                    }
                    Some(_) => {}
                    None => return Ok(None),
                },
                room = writer.room(), if pending.is_some() => match (room, pending.take()) {
                    (Ok(room), Some(chunk)) => room.send(chunk),
                    _ => return Ok(None),
                },
                room = input.reserve(), if !self.outbox.is_empty() => {
                    if let (Ok(room), Some(next)) = (room, self.outbox.pop_front()) {
                        room.send(next);
                    }
                }
                Some(number) = caught.recv() => if let Some(ended) = self.signal(number, tty)? {
                    return Ok(Some(ended));
                },
                keys = async { match &mut detached {
                    Some(detached) => detached.await,
                    None => std::future::pending().await,
                } } => {
                    detached = None;
                    if keys.is_ok() {
                        // What was typed before the keys is still in the queue.
                        let sent = drain(&mut session, &input);
                        let _ = tokio::time::timeout(DRAIN_LIMIT, sent).await;
                        return Ok(Some(Ended::Detached));
                    }
                }
            }
        }
    }

    fn signal(&mut self, number: i32, tty: bool) -> Result<Option<Ended>> {
        if number == SignalKind::window_change().as_raw_value() {
            if tty {
                self.outbox.extend(terminal::window().map(Input::Resize));
            }
            return Ok(None);
        }
        if number == CONTINUED {
            self.raw.map_or(Ok(()), RawMode::again)?;
            return Ok(None);
        }
        let name = signal_name(number);
        match &self.signals {
            Signals::EndUs => return Ok(Some(Ended::Signalled(number))),
            Signals::ToContainer(id) => {
                tokio::spawn(pass_on(self.client.clone(), id.clone(), name));
            }
            Signals::ToExec => self.outbox.push_back(Input::Signal(name.to_owned())),
        }
        if number == SignalKind::interrupt().as_raw_value()
            || number == SignalKind::terminate().as_raw_value()
        {
            self.terminations += 1;
            if self.terminations == 3 {
                output::complain(
                    "wharf: got three SIGINT or SIGTERM, leaving; the container runs on",
                );
                return Ok(Some(Ended::Signalled(number)));
            }
        }
        Ok(None)
    }
}

/// Lets the session send what is queued.
async fn drain(session: &mut Session, input: &InputSender) {
    while input.capacity() < input.max_capacity() {
        if tokio::time::timeout(Duration::from_millis(5), session.next())
            .await
            .is_ok_and(|e| e.is_err())
        {
            return;
        }
    }
}

/// A signal that meets a supervisor on its way up is sent again; one that meets a container that
/// has just ended needs no word.
async fn pass_on(client: Client, id: String, name: &'static str) {
    for _ in 0..40 {
        match client.kill_container(&id, name).await {
            Err(error @ wharf_client::Error::Connect { .. }) => {
                debug!("signal {name}: {error}");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Err(error) => return debug!("signal {name}: {error}"),
            Ok(()) => return,
        }
    }
}

const INPUT_LOST: &str = "wharf: the supervisor was restarted while input was being sent: some of it \
                          may be lost";
/// For input that was typed before the detach keys.
const DRAIN_LIMIT: Duration = Duration::from_millis(100);
/// SIGCONT, on all of Linux's common architectures.
const CONTINUED: i32 = 18;

/// Signals that are passed on, with their names.
const PASSED: [(i32, &str); 8] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (29, "IO"),
];

fn signal_name(number: i32) -> &'static str {
    PASSED.iter().find(|(n, _)| *n == number).map_or("TERM", |(_, name)| name)
}

fn is_ending(number: i32) -> bool {
    matches!(number, 1 | 2 | 3 | 15)
}

/// Catches what this way of being attached has a use for.
fn catch(options: &Options) -> Result<mpsc::Receiver<i32>> {
    let mut numbers = vec![SignalKind::window_change().as_raw_value(), CONTINUED];
    let passes = options.signals != Signals::EndUs;
    numbers.extend(PASSED.iter().map(|(n, _)| *n).filter(|n| passes || is_ending(*n)));
    let (sender, caught) = mpsc::channel(16);
    for number in numbers {
        let mut stream = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(number).await.is_ok() {}
        });
    }
    Ok(caught)
}

/// The size for a container that gets a terminal.
pub(crate) fn window(tty: bool) -> Option<WindowSize> {
    tty.then(terminal::window).flatten()
}
