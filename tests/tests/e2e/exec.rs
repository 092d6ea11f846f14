//! More processes in a running container.

use anyhow::{Context as _, Result, ensure};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use wharf_proto::v1::{
    ExecRequest, ExecStart, ExecStarted, Output, WindowSize, exec_request, exec_response,
};
use wharf_tests::{
    api::{script, sleeper, spec, state_in_the_way},
    wait::{self, soon},
    world::World,
};

use crate::{no_gap, refused};

pub(crate) fn shell(id: &str, text: &str) -> ExecStart {
    ExecStart {
        container: id.into(),
        args: ["sh", "-c", text].map(String::from).to_vec(),
        ..Default::default()
    }
}

#[tokio::test]
async fn code_output_and_streams() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let outcome = api.exec(shell(&id, "echo out; echo err >&2; exit 42"), &[]).await?;
    ensure!(outcome.out() == "out\n" && outcome.err() == "err\n", "{outcome:?}");
    ensure!(outcome.code() == 42, "{outcome:?}");
    // It is in the container: same pid namespace, same root.
    let outcome =
        api.exec(shell(&id, "for p in 1 self; do readlink /proc/$p/ns/pid; done"), &[]).await?;
    let text = outcome.out();
    let lines: Vec<_> = text.lines().collect();
    ensure!(lines.len() == 2 && lines[0] == lines[1], "{outcome:?}");
    let outcome = api.exec(shell(&id, "kill -9 $$"), &[]).await?;
    let exit = outcome.exit.context("no exit")?;
    ensure!(exit.exit_code == 137 && exit.signal == 9, "{exit:?}");
    world.finish().await
}

#[tokio::test]
async fn stdin_and_large_output() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let input: Vec<u8> = (1..60_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let cat = ExecStart { open_stdin: true, ..shell(&id, "cat; echo end >&2") };
    let outcome = api.exec(cat, &input).await?;
    ensure!(outcome.stdout == input, "{} of {} bytes", outcome.stdout.len(), input.len());
    ensure!(outcome.err() == "end\n" && outcome.code() == 0);
    let outcome = api.exec(shell(&id, "seq 1 600000"), &[]).await?;
    ensure!(no_gap(&outcome.out())? == 600_000);
    let outcome = api.exec(shell(&id, "cat"), &[]).await?;
    ensure!(outcome.code() == 0 && outcome.stdout.is_empty(), "stdin is not empty");
    world.finish().await
}

#[tokio::test]
async fn user_environment_and_folder() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut container = sleeper();
    container.env = vec!["MINE=container".into(), "KEPT=yes".into()];
    let id = api.run(container).await?.id;
    let start = ExecStart {
        env: vec!["MINE=exec".into()],
        working_dir: "/home/bob".into(),
        user: "bob".into(),
        ..shell(&id, "id -un; id -g; pwd; echo $MINE $KEPT $FROM_IMAGE; cat note")
    };
    let outcome = api.exec(start, &[]).await?;
    ensure!(outcome.out() == "bob\n1000\n/home/bob\nexec yes yes\nbob's\n", "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn on_a_terminal() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let start = ExecStart {
        tty: true,
        window: Some(WindowSize { width: 132, height: 43 }),
        ..shell(&id, "tty; stty size")
    };
    let outcome = api.exec(start, &[]).await?;
    ensure!(outcome.out() == "/dev/pts/0\r\n43 132\r\n", "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn detached_it_goes_on_alone() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let start = ExecStart { detach: true, ..shell(&id, "sleep 0.2; echo x > /done") };
    let request = ExecRequest { kind: Some(exec_request::Kind::Start(start)) };
    let answers = api.containers.exec(tokio_stream::iter([request])).await?;
    let mut answers = answers.into_inner();
    let first = soon("started", answers.message()).await?.context("no answer")?;
    ensure!(matches!(first.kind, Some(exec_response::Kind::Started(_))), "{first:?}");
    ensure!(soon("the end of the call", answers.message()).await?.is_none());
    wait::until("the detached exec has written", || {
        let (mut api, id) = (api.clone(), id.clone());
        async move {
            let outcome = api.exec(shell(&id, "cat /done"), &[]).await?;
            Ok((outcome.code() == 0).then_some(()))
        }
    })
    .await?;
    world.finish().await
}

#[tokio::test]
async fn it_ends_with_its_container() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let exec = tokio::spawn({
        let (mut api, start) = (api.clone(), shell(&id, "touch /up; sleep 1000"));
        async move { api.exec(start, &[]).await }
    });
    wait::until("the exec runs", || {
        let (mut api, id) = (api.clone(), id.clone());
        async move {
            let outcome = api.exec(shell(&id, "test -e /up"), &[]).await?;
            Ok((outcome.code() == 0).then_some(()))
        }
    })
    .await?;
    let kill = wharf_proto::v1::KillContainerRequest { container: id, signal: "KILL".into() };
    api.containers.kill(kill).await?;
    let outcome = exec.await??;
    ensure!(outcome.code() == 137, "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn programs_that_cannot_run() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    for (program, code, reason) in [
        ("/no/such", 127, "NOT_FOUND"),
        ("no-such", 127, "NOT_FOUND"),
        ("/bin/not-executable", 126, "NOT_EXECUTABLE"),
    ] {
        let start =
            ExecStart { container: id.clone(), args: vec![program.into()], ..Default::default() };
        let error = match api.exec(start, &[]).await {
            Ok(outcome) => anyhow::bail!("{program}: {outcome:?} ({code} was expected)"),
            Err(error) => error.downcast::<tonic::Status>()?,
        };
        ensure!(error.code() == Code::FailedPrecondition, "{error:?}");
        ensure!(wharf_tests::api::reason(&error).ends_with(reason), "{error:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn needs_a_running_container() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let created = api.create(spec(["true"])).await?;
    let (stopped, _) = api.run_to_end(script("exit 0")).await?;
    for (id, state) in [(created.id, "created"), (stopped.id, "stopped")] {
        let error = api.exec(shell(&id, "true"), &[]).await.err().context("it ran")?;
        let status = error.downcast::<tonic::Status>()?;
        let status = refused(Err::<(), _>(status), Code::FailedPrecondition)?;
        let blamed = state_in_the_way(&status).unwrap_or_default();
        ensure!(blamed.to_lowercase().contains(state), "{blamed}: {status:?}");
    }
    world.finish().await
}

/// An exec whose caller can lose its supervisor.
pub(crate) struct Call {
    pub(crate) started: ExecStarted,
    pub(crate) cursor: String,
    pub(crate) out: Vec<u8>,
    pub(crate) code: Option<i32>,
    requests: mpsc::Sender<ExecRequest>,
    answers: tonic::Streaming<wharf_proto::v1::ExecResponse>,
}

impl Call {
    pub(crate) async fn open(api: &mut wharf_tests::api::Api, start: ExecStart) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(8);
        let first = ExecRequest { kind: Some(exec_request::Kind::Start(start)) };
        requests.send(first).await?;
        let answers = soon("exec", api.containers.exec(ReceiverStream::new(receiver))).await?;
        let mut answers = answers.into_inner();
        let first = soon("started", answers.message()).await?.context("no answer")?;
        let Some(exec_response::Kind::Started(started)) = first.kind else {
            anyhow::bail!("not started: {first:?}");
        };
        let (cursor, out) = (String::new(), Vec::new());
        Ok(Self { started, cursor, out, code: None, requests, answers })
    }

    /// One answer; false when the call is over.
    pub(crate) async fn step(&mut self) -> Result<bool> {
        let Ok(Some(answer)) = self.answers.message().await else { return Ok(false) };
        match answer.kind.context("empty answer")? {
            exec_response::Kind::StdinTaken(_) => {}
            exec_response::Kind::Started(_) => {}
            exec_response::Kind::Output(Output { data, cursor, .. }) => {
                self.out.extend(data);
                self.cursor = cursor;
            }
            exec_response::Kind::Exit(exit) => self.code = Some(exit.exit_code),
        }
        Ok(true)
    }

    pub(crate) async fn type_in(&self, text: &str) -> Result<()> {
        let kind = exec_request::Kind::Stdin(text.into());
        Ok(self.requests.send(ExecRequest { kind: Some(kind) }).await?)
    }
}
