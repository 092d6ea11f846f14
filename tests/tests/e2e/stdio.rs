//! Output arrives whole, input reaches its end, terminals are terminals.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wharf_proto::v1::{
    AttachRequest, AttachStart, CloseStdin, ResizeRequest, StartContainerRequest, Stream,
    WindowSize, attach_request, attach_response, attach_start,
};
use wharf_tests::{
    api::{Api, Outcome, script, sleeper, spec},
    wait::{self, soon},
    world::World,
};

use crate::no_gap;

/// Lines "1" to this number are 8 MiB.
const EIGHT_MIB_OF_LINES: u64 = 1_214_000;

fn all_of(id: &str) -> AttachStart {
    AttachStart {
        container: id.into(),
        stdin: false,
        stdout: true,
        stderr: true,
        from: Some(attach_start::From::HistoryLines(-1)),
        wait_for_start: true,
        ..Default::default()
    }
}

/// An attachment that a test talks to step by step.
pub(crate) struct Session {
    requests: mpsc::Sender<AttachRequest>,
    answers: tonic::Streaming<wharf_proto::v1::AttachResponse>,
    pub(crate) seen: Outcome,
    pub(crate) cursor: String,
}

impl Session {
    pub(crate) async fn open(api: &mut Api, start: AttachStart) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(64);
        let start = AttachRequest { kind: Some(attach_request::Kind::Start(start)) };
        requests.send(start).await?;
        let answers = soon("attached", api.containers.attach(ReceiverStream::new(receiver)));
        let answers = answers.await?.into_inner();
        Ok(Self { requests, answers, seen: Outcome::default(), cursor: String::new() })
    }

    pub(crate) async fn send(&self, kind: attach_request::Kind) -> Result<()> {
        Ok(self.requests.send(AttachRequest { kind: Some(kind) }).await?)
    }

    pub(crate) async fn type_in(&self, text: &str) -> Result<()> {
        self.send(attach_request::Kind::Stdin(text.into())).await
    }

    /// One answer; false at the end of the stream or when the daemon has gone.
    pub(crate) async fn step(&mut self) -> Result<bool> {
        let Ok(Some(answer)) = self.answers.message().await else { return Ok(false) };
        match answer.kind.context("empty answer")? {
            attach_response::Kind::StdinTaken(_) => {}
            attach_response::Kind::Attached(attached) => self.cursor = attached.cursor,
            attach_response::Kind::Output(output) => {
                match output.stream() {
                    Stream::Stderr => self.seen.stderr.extend(&output.data),
                    _ => self.seen.stdout.extend(&output.data),
                }
                self.cursor = output.cursor;
            }
            attach_response::Kind::Exit(exit) => self.seen.exit = Some(exit),
        }
        Ok(true)
    }

    pub(crate) async fn until_out(&mut self, text: &str) -> Result<()> {
        let what = format!("stdout has {text:?}");
        soon(&what, async {
            while !self.seen.out().contains(text) {
                ensure!(self.step().await?, "the stream ended at {:?}", self.seen);
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn finish(&mut self) -> Result<()> {
        soon("the end of the attachment", async {
            while self.step().await? {}
            anyhow::Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn eight_mib_just_before_the_exit_arrive_whole() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let text = format!("seq 1 {EIGHT_MIB_OF_LINES}; echo last words >&2; exit 3");
    let container = api.create(script(&text)).await?;
    let attached = tokio::spawn({
        let (mut api, start) = (api.clone(), all_of(&container.id));
        async move { api.attach(start, &[]).await }
    });
    api.start(&container.id).await?;
    let attached = attached.await??;
    ensure!(attached.stdout.len() > 8 << 20, "{} bytes by attach", attached.stdout.len());
    ensure!(no_gap(&attached.out())? == EIGHT_MIB_OF_LINES);
    ensure!(attached.err() == "last words\n" && attached.code() == 3);
    let logged = soon("the whole log", api.logs(&container.id)).await?;
    ensure!(logged.stdout == attached.stdout, "the log differs from what was attached to");
    ensure!(logged.err() == "last words\n");
    world.finish().await
}

#[tokio::test]
async fn stdin_reaches_its_end() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut cat = script("cat; echo end of input >&2");
    cat.open_stdin = true;
    cat.stdin_once = true;
    let container = api.create(cat).await?;
    let input: Vec<u8> = (1..150_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let attached = tokio::spawn({
        let (mut api, input) = (api.clone(), input.clone());
        let start = AttachStart { stdin: true, ..all_of(&container.id) };
        async move { api.attach(start, &input).await }
    });
    api.start(&container.id).await?;
    let outcome = attached.await??;
    ensure!(outcome.stdout == input, "{} of {} bytes", outcome.stdout.len(), input.len());
    ensure!(outcome.err() == "end of input\n" && outcome.code() == 0, "{:?}", outcome.exit);
    world.finish().await
}

#[tokio::test]
async fn without_open_stdin_there_is_nothing_to_read() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let (_, outcome) = api.run_to_end(script("cat; echo done")).await?;
    ensure!(outcome.out() == "done\n" && outcome.code() == 0, "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn streams_are_apart_and_bytes_are_bytes() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let text = r"printf 'no newline'; printf '\0\377\n\r\n' >&2; printf ' at the end'";
    let (container, outcome) = api.run_to_end(script(text)).await?;
    ensure!(outcome.out() == "no newline at the end", "{outcome:?}");
    ensure!(outcome.stderr == b"\0\xff\n\r\n", "{outcome:?}");
    // Attaching afterwards tells the same.
    let after = AttachStart { wait_for_start: false, ..all_of(&container.id) };
    let attached = api.attach(after, &[]).await?;
    ensure!((attached.stdout, attached.stderr) == (outcome.stdout, outcome.stderr));
    ensure!(attached.exit.is_some_and(|e| e.exit_code == 0));
    world.finish().await
}

#[tokio::test]
async fn a_terminal_has_a_size_and_changes_it() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script(
        "test -t 0 && test -t 1 && test -t 2 && echo yes; stty size; read x; stty size; \
         read x; stty size; exit 6",
    );
    spec.tty = true;
    spec.open_stdin = true;
    let container = api.create(spec).await?;
    let start = AttachStart { stdin: true, ..all_of(&container.id) };
    let mut session = Session::open(&mut api, start).await?;
    let window = WindowSize { width: 100, height: 30 };
    let request = StartContainerRequest { container: container.id.clone(), window: Some(window) };
    api.containers.start(request).await?;
    session.until_out("yes\r\n30 100\r\n").await?;
    let resize = ResizeRequest {
        container: container.id.clone(),
        exec_id: String::new(),
        window: Some(WindowSize { width: 120, height: 40 }),
    };
    api.containers.resize(resize).await?;
    session.type_in("\n").await?;
    session.until_out("40 120\r\n").await?;
    let window = WindowSize { width: 90, height: 20 };
    session.send(attach_request::Kind::Resize(window)).await?;
    session.type_in("\n").await?;
    session.until_out("20 90\r\n").await?;
    session.finish().await?;
    ensure!(session.seen.code() == 6 && session.seen.stderr.is_empty());
    world.finish().await
}

#[tokio::test]
async fn control_c_on_a_terminal_interrupts() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script("trap 'echo caught; exit 8' INT; echo up; while :; do sleep 0.1; done");
    spec.tty = true;
    spec.open_stdin = true;
    let container = api.run(spec).await?;
    let start = AttachStart { stdin: true, ..all_of(&container.id) };
    let mut session = Session::open(&mut api, start).await?;
    session.until_out("up\r\n").await?;
    session.type_in("\u{3}").await?;
    session.until_out("caught").await?;
    session.finish().await?;
    ensure!(session.seen.code() == 8, "{:?}", session.seen);
    world.finish().await
}

#[tokio::test]
async fn attach_with_history_and_without() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script("seq 1 100; while read x; do echo got $x; done; echo bye");
    spec.open_stdin = true;
    let container = api.run(spec).await?;
    wait::until("the first lines", || {
        let (mut api, id) = (api.clone(), container.id.clone());
        async move { Ok(api.logs(&id).await?.out().contains("100\n").then_some(())) }
    })
    .await?;
    let from = Some(attach_start::From::HistoryLines(3));
    let start = AttachStart { stdin: true, from, ..all_of(&container.id) };
    let mut session = Session::open(&mut api, start).await?;
    session.until_out("98\n99\n100\n").await?;
    ensure!(session.seen.out() == "98\n99\n100\n");
    let later = AttachStart { from: None, ..all_of(&container.id) };
    let mut second = Session::open(&mut api, later).await?;
    // Its first answer says that it is there; what comes from now on it must see.
    ensure!(soon("attached", second.step()).await?);
    session.type_in("one\n").await?;
    session.until_out("got one\n").await?;
    second.until_out("got one\n").await?;
    ensure!(second.seen.out() == "got one\n", "{:?}", second.seen);
    session.send(attach_request::Kind::CloseStdin(CloseStdin {})).await?;
    session.finish().await?;
    second.finish().await?;
    for session in [session, second] {
        ensure!(session.seen.out().ends_with("got one\nbye\n"));
        ensure!(session.seen.code() == 0);
    }
    world.finish().await
}

#[tokio::test]
async fn an_attacher_that_does_not_read_blocks_nobody() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.create(script(&format!("seq 1 {EIGHT_MIB_OF_LINES}"))).await?;
    let mut asleep = world.api()?;
    let idle = Session::open(&mut asleep, all_of(&container.id)).await?;
    api.start(&container.id).await?;
    ensure!(api.wait(&container.id).await?.exit_code == 0);
    ensure!(no_gap(&api.logs(&container.id).await?.out())? == EIGHT_MIB_OF_LINES);
    drop(idle);
    world.finish().await
}

#[tokio::test]
async fn leaving_does_not_stop_it() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script("while read x; do echo got $x; done; sleep 1000");
    spec.open_stdin = true;
    let container = api.run(spec).await?;
    for round in 0..3 {
        let start = AttachStart { stdin: true, from: None, ..all_of(&container.id) };
        let mut session = Session::open(&mut api, start).await?;
        ensure!(soon("attached", session.step()).await?);
        session.type_in(&format!("{round}\n")).await?;
        session.until_out(&format!("got {round}\n")).await?;
    }
    ensure!(api.logs(&container.id).await?.out() == "got 0\ngot 1\ngot 2\n");
    world.finish().await
}

#[tokio::test]
async fn attach_waits_for_the_start() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.create(spec(["echo", "first words"])).await?;
    let mut session = Session::open(&mut api, all_of(&container.id)).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    api.start(&container.id).await?;
    session.finish().await?;
    ensure!(session.seen.out() == "first words\n" && session.seen.code() == 0);
    let idle = api.run(sleeper()).await?;
    api.remove(&idle.id).await?;
    world.finish().await
}
