//! The client's streams over a server that keeps dying: a small fake one, as the real one dies only
//! when it is killed, and not at chosen messages.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wharf_client::{Client, Input, Kind, SessionEvent, v1::Stream as Which, v1::*};
use wharf_proto::v1::containers_server::{Containers, ContainersServer};

type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// How one stream ends before its time.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// UNAVAILABLE after so many messages.
    Status(usize),
    /// The stream's plain end after so many messages.
    End(usize),
    /// The whole server goes, with its connections.
    Death(usize),
}

/// What the server writes, and what it was told: outlives its deaths.
#[derive(Default)]
struct World {
    output: Vec<Vec<u8>>,
    breaks: VecDeque<Break>,
    stdin: Vec<u8>,
    stdin_closes: usize,
    opened: Vec<String>,
    acknowledged: Vec<String>,
    kill: Option<tokio::sync::mpsc::UnboundedSender<()>>,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<World>>);

impl Fake {
    /// Output from a cursor on, up to the next break or the exit. The cursor is the chunk's index.
    fn output<T: Send + 'static>(
        &self,
        cursor: &str,
        first: Option<T>,
        wrap: impl Fn(Output) -> T,
        exit: T,
    ) -> Answers<T> {
        let mut world = self.0.lock().expect("no panics");
        world.opened.push(cursor.to_owned());
        let broken = world.breaks.pop_front();
        let from: usize = cursor.parse().unwrap_or(0);
        let chunk = |(at, data): (usize, &Vec<u8>)| {
            let stream = Which::Stdout.into();
            wrap(Output { stream, data: data.clone(), cursor: (at + 1).to_string() })
        };
        let rest = world.output.iter().enumerate().skip(from).map(chunk);
        let mut messages: Vec<Result<T, Status>> = first.into_iter().chain(rest).map(Ok).collect();
        messages.push(Ok(exit));
        let kill = world.kill.clone();
        let Some(broken) = broken else {
            return Box::pin(futures_util::stream::iter(messages));
        };
        let (after, end): (usize, Answers<T>) = match broken {
            Break::Status(after) => {
                let gone = async { Err(Status::unavailable("going down")) };
                (after, Box::pin(futures_util::stream::once(gone)))
            }
            Break::End(after) => (after, Box::pin(futures_util::stream::empty())),
            Break::Death(after) => (
                after,
                Box::pin(futures_util::stream::once(async move {
                    // Let what was sent leave before the connection goes.
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    kill.expect("set by the host").send(()).expect("the host listens");
                    std::future::pending().await
                })),
            ),
        };
        messages.truncate(after);
        Box::pin(futures_util::stream::iter(messages).chain(end))
    }
}

fn ended() -> Exit {
    let finished_at = Some(std::time::SystemTime::now().into());
    Exit { exit_code: 3, finished_at, ..Exit::default() }
}

/// In the form that async_trait makes of an async fn: it can't look into a macro.
macro_rules! absent {
    ($($method:ident($request:ty) -> $answer:ty;)*) => {
        $(fn $method<'a, 'async_trait>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$answer>, Status>> + Send + 'async_trait>>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented("not in the fake")) })
        })*
    };
}

#[tonic::async_trait]
impl Containers for Fake {
    type ExecStream = Answers<ExecResponse>;
    type AttachStream = Answers<AttachResponse>;
    type LogsStream = Answers<LogsResponse>;
    type StatsStream = Answers<StatsResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        use exec_response::Kind;
        let mut requests = request.into_inner();
        let Some(ExecRequest { kind: Some(exec_request::Kind::Start(start)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("no start"));
        };
        let wrap = |kind| ExecResponse { kind: Some(kind) };
        let started = wrap(Kind::Started(ExecStarted { exec_id: "e1".to_owned(), pid: 7 }));
        let exit = wrap(Kind::Exit(ended()));
        if !start.cursor.is_empty() && start.exec_id != "e1" {
            return Err(Status::invalid_argument("a cursor without the exec's id"));
        }
        assert!(start.acknowledges, "nothing of it goes through stdin");
        let world = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if let Some(exec_request::Kind::Acknowledged(cursor)) = request.kind {
                    world.lock().expect("no panics").acknowledged.push(cursor);
                }
            }
        });
        let output = |output| wrap(Kind::Output(output));
        Ok(Response::new(self.output(&start.cursor, Some(started), output, exit)))
    }

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        use attach_response::Kind;
        let mut requests = request.into_inner();
        let Some(AttachRequest { kind: Some(attach_request::Kind::Start(start)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("no start"));
        };
        let cursor = match start.from {
            Some(attach_start::From::Cursor(cursor)) => cursor,
            _ => String::new(),
        };
        let wrap = |kind| AttachResponse { kind: Some(kind) };
        let attached = wrap(Kind::Attached(Attached { tty: false, cursor: cursor.clone() }));
        let exit = wrap(Kind::Exit(ended()));
        let output = self.output(&cursor, Some(attached), |o| wrap(Kind::Output(o)), exit);
        if !start.stdin {
            return Ok(Response::new(output));
        }
        // With stdin: the output begins when stdin is closed.
        let (sender, answers) = tokio::sync::mpsc::unbounded_channel();
        let world = self.0.clone();
        tokio::spawn(async move {
            let mut output = output;
            if let Some(first) = output.next().await {
                let _ = sender.send(first);
            }
            while let Ok(Some(AttachRequest { kind: Some(kind) })) = requests.message().await {
                let mut world = world.lock().expect("no panics");
                match kind {
                    attach_request::Kind::Stdin(data) => world.stdin.extend(data),
                    attach_request::Kind::CloseStdin(_) => {
                        world.stdin_closes += 1;
                        break;
                    }
                    _ => {}
                }
            }
            while let Some(answer) = output.next().await {
                let _ = sender.send(answer);
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let wrap = |output: Output| {
            let entry =
                LogEntry { data: output.data, cursor: output.cursor, ..LogEntry::default() };
            LogsResponse { entries: vec![entry] }
        };
        let cursor = request.into_inner().cursor;
        Ok(Response::new(self.output(&cursor, None, wrap, LogsResponse::default())))
    }

    absent! {
        create(CreateContainerRequest) -> CreateContainerResponse;
        get(GetContainerRequest) -> GetContainerResponse;
        list(ListContainersRequest) -> ListContainersResponse;
        update(UpdateContainerRequest) -> UpdateContainerResponse;
        delete(DeleteContainerRequest) -> DeleteContainerResponse;
        pause(PauseContainerRequest) -> PauseContainerResponse;
        resume(ResumeContainerRequest) -> ResumeContainerResponse;
        restart(RestartContainerRequest) -> RestartContainerResponse;
        processes(ProcessesRequest) -> ProcessesResponse;
        stats(StatsRequest) -> Answers<StatsResponse>;
        start(StartContainerRequest) -> StartContainerResponse;
        stop(StopContainerRequest) -> StopContainerResponse;
        kill(KillContainerRequest) -> KillContainerResponse;
        wait(WaitContainerRequest) -> WaitContainerResponse;
        run(RunContainerRequest) -> RunContainerResponse;
        resize(ResizeRequest) -> ResizeResponse;
        prune(PruneContainersRequest) -> PruneResponse;
        commit(CommitContainerRequest) -> CommitContainerResponse;
    }
}

/// Runs the fake on a socket, and again after each of its deaths, on a runtime of its own: dropping
/// that is what kills its connections too.
fn host(world: Arc<Mutex<World>>, path: PathBuf) {
    let (kill, mut killed) = tokio::sync::mpsc::unbounded_channel();
    world.lock().expect("no panics").kill = Some(kill);
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        loop {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let fake = Fake(world.clone());
            let _ = std::fs::remove_file(&path);
            let died = runtime.block_on(async {
                let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
                let _ = ready.send(());
                let incoming = futures_util::stream::unfold(listener, async |listener| {
                    Some((listener.accept().await.map(|(stream, _)| stream), listener))
                });
                let server = tonic::transport::Server::builder()
                    .add_service(ContainersServer::new(fake))
                    .serve_with_incoming(incoming);
                tokio::select! {
                    result = server => panic!("{result:?}"),
                    died = killed.recv() => died,
                }
            });
            runtime.shutdown_background();
            if died.is_none() {
                return;
            }
            // Away for a moment.
            let _ = std::fs::remove_file(&path);
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    is_ready.recv().expect("the host started");
}

fn setup(folder: &Path, breaks: &[Break]) -> (Client, Arc<Mutex<World>>, Vec<u8>) {
    let output: Vec<Vec<u8>> = (0..40).map(|n| format!("line {n}\n").into_bytes()).collect();
    let all = output.concat();
    let world = World { output, breaks: breaks.iter().copied().collect(), ..World::default() };
    let world = Arc::new(Mutex::new(world));
    let path = folder.join("s");
    host(world.clone(), path.clone());
    let client = wharf_client::connect(&format!("unix:{}", path.display())).expect("an address");
    (client.with_patience(Duration::from_secs(10)), world, all)
}

const BREAKS: [Break; 6] = [
    Break::Status(5),
    Break::End(1),
    Break::Death(9),
    Break::Status(1),
    Break::Death(1),
    Break::End(12),
];

async fn read(session: &mut wharf_client::Session) -> (Vec<u8>, usize, Option<Exit>) {
    let (mut output, mut resumed, mut exit) = (Vec::new(), 0, None);
    while let Some(event) = session.next().await.expect("goes on") {
        match event {
            SessionEvent::Output { data, .. } => output.extend(data),
            SessionEvent::Resumed { .. } => resumed += 1,
            SessionEvent::Exit(code) => exit = Some(code),
            _ => {}
        }
    }
    (output, resumed, exit)
}

#[tokio::test]
async fn attach_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (client, _, all) = setup(folder.path(), &BREAKS);
    let start = AttachStart { stdout: true, ..AttachStart::default() };
    let mut session = client.attach(start).await.expect("attached");
    let (output, resumed, exit) = read(&mut session).await;
    assert_eq!(String::from_utf8_lossy(&output), String::from_utf8_lossy(&all));
    assert_eq!(resumed, BREAKS.len());
    assert_eq!(exit.map(|exit| exit.exit_code), Some(3));
}

#[tokio::test]
async fn exec_goes_on_by_its_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let (client, world, all) = setup(folder.path(), &BREAKS);
    let mut session = client.exec(ExecStart::default()).await.expect("started");
    let (output, _, exit) = read(&mut session).await;
    assert_eq!(output, all);
    assert_eq!(exit.map(|exit| exit.exit_code), Some(3));
    let world = world.lock().expect("no panics");
    assert_eq!(world.opened.len(), BREAKS.len() + 1);
    assert!(!world.acknowledged.is_empty());
    let cursors: Vec<u32> = world.acknowledged.iter().map(|c| c.parse().expect("ours")).collect();
    assert!(cursors.is_sorted(), "{cursors:?}");
}

#[tokio::test]
async fn an_exec_with_no_id_yet_is_asked_for_again() {
    // Under the same request id, so it runs once: e2e::requests::an_exec_runs_once.
    let folder = tempfile::tempdir().expect("a folder");
    let (client, world, _) = setup(folder.path(), &[Break::End(0)]);
    let mut session = client.exec(ExecStart::default()).await.expect("opened");
    let event = session.next().await.expect("goes on");
    assert!(matches!(event, Some(SessionEvent::Resumed { .. })), "{event:?}");
    assert_eq!(world.lock().expect("no panics").opened.len(), 2);
}

#[tokio::test]
async fn logs_go_on_at_their_cursor() {
    let folder = tempfile::tempdir().expect("a folder");
    let breaks = [Break::Status(3), Break::Death(2), Break::Status(1)];
    let (client, _, all) = setup(folder.path(), &breaks);
    let mut log = client.logs(LogsRequest::default()).await.expect("open");
    let mut output = Vec::new();
    while let Some(entries) = log.next().await.expect("goes on") {
        output.extend(entries.into_iter().flat_map(|entry| entry.data));
    }
    assert_eq!(output, all);
}

#[tokio::test]
async fn closing_stdin_is_told_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (client, world, all) = setup(folder.path(), &[Break::Status(3), Break::Death(4)]);
    let start = AttachStart { stdin: true, stdout: true, ..AttachStart::default() };
    let mut session = client.attach(start).await.expect("attached");
    let input = session.input().expect("takes input");
    input.send(Input::Stdin(b"hello ".to_vec())).await.expect("queued");
    input.send(Input::Stdin(b"there".to_vec())).await.expect("queued");
    input.send(Input::CloseStdin).await.expect("queued");
    let (output, _, exit) = read(&mut session).await;
    assert_eq!(output, all);
    assert!(exit.is_some());
    let world = world.lock().expect("no panics");
    assert_eq!(world.stdin, b"hello there");
    assert_eq!(world.stdin_closes, 3);
}

#[tokio::test]
async fn patience_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (client, _, _) = setup(folder.path(), &[Break::Status(2); 500]);
    let client = client.with_patience(Duration::ZERO);
    let mut session = client.attach(AttachStart::default()).await.expect("attached");
    let error = loop {
        match session.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("no exit was sent"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(session.next().await.expect("over").is_none());
}
