//! The shim as containerd drives it: named pipes, logging programs, events, bootstrap.

mod support;

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use prost::Message as _;
use prost_types::Any;
use support::{Client, Container, LIMIT, Nothing, World, wait_for};
use wharf_proto::containerd::bootstrap::{BootstrapParams, BootstrapResult};
use wharf_proto::containerd::runc::v1::Options as RuncOptions;
use wharf_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use wharf_proto::task;
use wharf_proto::ttrpc::{FrameType, HEADER_LEN, Header, Request, Response, frame};

fn fifo(world: &World, name: &str) -> PathBuf {
    let path = world.bundle.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("fifo");
    path
}

/// Create and start as containerd does it.
fn run(world: &World, client: &mut Client, container: &Container, uris: [&str; 3]) -> u32 {
    world.write_config(container);
    let [stdin, stdout, stderr] = uris.map(str::to_owned);
    let request = task::CreateTaskRequest {
        id: world.id.clone(),
        bundle: world.bundle.display().to_string(),
        terminal: container.terminal,
        stdin,
        stdout,
        stderr,
        options: Some(Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: RuncOptions::default().encode_to_vec(),
        }),
        ..Default::default()
    };
    let created: task::CreateTaskResponse = client.task("Create", &request).expect("created");
    client.start(&world.id, "").expect("started");
    created.pid
}

#[test]
fn named_pipes() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let [stdin, stdout, stderr] = ["in", "out", "err"].map(|name| fifo(&world, name));
    let reader = std::thread::spawn({
        let stdout = stdout.clone();
        move || std::fs::read(stdout).expect("read to the end")
    });
    let writer = std::thread::spawn({
        let stdin = stdin.clone();
        move || {
            let mut file = std::fs::OpenOptions::new().write(true).open(stdin).expect("open");
            file.write_all(&b"0123456789abcdef".repeat(40_000)).expect("taken");
        }
    });
    let uris = [&stdin, &stdout, &stderr].map(|path| path.to_str().expect("text"));
    // Nobody opens stderr: what goes there is held by the pipe and does not hold anyone up.
    run(&world, &mut client, &Container::sh("cat; echo lost >&2; exit 2"), uris);
    writer.join().expect("wrote");
    client.close_stdin(&world.id, "").expect("closed");
    assert_eq!(client.wait_exit("").exit_code, 2);
    client.delete(&world.id, "").expect("deleted");
    assert!(reader.join().expect("read") == b"0123456789abcdef".repeat(40_000));
}

/// Not `Delete` is needed for it, nor a reader that keeps up: this one has stopped for longer than
/// the word of an exit is held up.
#[test]
fn a_slow_reader_sees_all_and_the_end_before_delete() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let stdout = fifo(&world, "out");
    let (go, told) = std::sync::mpsc::channel::<()>();
    let reader = std::thread::spawn({
        let stdout = stdout.clone();
        move || {
            let mut pipe = std::fs::File::open(stdout).expect("open");
            told.recv().expect("told to go on");
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).expect("read to the end");
            bytes
        }
    });
    // More than the named pipe holds, less than it and the pipe of the process.
    let script = "i=0; while [ $i -lt 6000 ]; do echo 0123456789abcd; i=$((i+1)); done; exit 3";
    let uris = ["", stdout.to_str().expect("text"), ""];
    run(&world, &mut client, &Container::sh(script), uris);
    assert_eq!(client.wait_exit("").exit_code, 3);
    go.send(()).expect("it waits");
    assert_eq!(reader.join().expect("read").len(), 90_000);
    client.delete(&world.id, "").expect("deleted");
}

#[test]
fn a_pipe_that_nobody_reads_does_not_hold_up_the_exit() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let stdout = fifo(&world, "out");
    let uris = ["", stdout.to_str().expect("text"), ""];
    run(&world, &mut client, &Container::sh("head -c 100000 /dev/zero; exit 6"), uris);
    assert_eq!(client.wait_exit("").exit_code, 6);
    client.delete(&world.id, "").expect("deleted");
}

#[test]
fn files_and_logging_programs() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let (log, copy) = (world.bundle.join("x/log"), world.bundle.join("copy"));
    let program = world.bundle.join("logger");
    let script = "#!/bin/sh\nexec 5>&-\necho $CONTAINER_NAMESPACE $CONTAINER_ID $1 > $2\ncat <&3 >> $2\ncat <&4 >> $2\n";
    std::fs::write(&program, script).expect("program");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("mode");
    let uri = format!("binary://{}?mine={}", program.display(), copy.display());
    run(&world, &mut client, &Container::sh("echo one; echo two >&2"), ["", &uri, &uri]);
    assert_eq!(client.wait_exit("").exit_code, 0);
    client.delete(&world.id, "").expect("deleted");
    let expected = format!("test {} mine\none\ntwo\n", world.id);
    wait_for("the program to write", || {
        std::fs::read_to_string(&copy).is_ok_and(|text| text == expected)
    });

    let uri = format!("file://{}", log.display());
    run(&world, &mut client, &Container::sh("echo three"), ["", &uri, ""]);
    client.wait_exit("");
    assert_eq!(std::fs::read(&log).expect("log"), b"three\n");
}

/// Answers `Forward` calls; the topics in the order in which they came.
fn serve_events(listener: &UnixListener, refuse_first: bool) -> Vec<String> {
    let mut topics = Vec::new();
    let mut refuse = refuse_first;
    loop {
        let (mut socket, _) = listener.accept().expect("a shim");
        if std::mem::take(&mut refuse) {
            continue;
        }
        socket.set_read_timeout(Some(LIMIT)).expect("timeout");
        while let Some(topic) = answer(&mut socket) {
            topics.push(topic);
            if topics.last().is_some_and(|topic| topic == "/tasks/delete") {
                return topics;
            }
        }
    }
}

fn answer(socket: &mut UnixStream) -> Option<String> {
    let mut head = [0; HEADER_LEN];
    socket.read_exact(&mut head).ok()?;
    let header = Header::decode(head).expect("frame");
    let mut data = vec![0; header.len];
    socket.read_exact(&mut data).ok()?;
    let request = Request::decode(&data[..]).expect("request");
    assert_eq!(request.method, "Forward");
    let envelope =
        ForwardRequest::decode(&request.payload[..]).expect("message").envelope.expect("event");
    assert_eq!(envelope.namespace, "test");
    let bytes = frame(FrameType::Response, header.stream, &Response::default()).expect("fits");
    socket.write_all(&bytes).expect("answered");
    Some(envelope.topic)
}

#[test]
fn events_arrive_in_order_although_the_first_try_fails() {
    need_host!();
    let world = World::without_shim();
    let path = world.bundle.join("events.sock");
    let listener = UnixListener::bind(&path).expect("listens");
    let output = world.command("start").env("TTRPC_ADDRESS", &path).output().expect("spawn");
    assert!(output.status.success(), "{output:?}");
    let server = std::thread::spawn(move || serve_events(&listener, true));
    let mut client = world.client();
    let mut container = Container::new(&["/bin/sleep", "1000"]);
    container.host_pids = true;
    run(&world, &mut client, &container, ["", "", ""]);
    client.add_exec(&world.id, "e", &["/bin/true"], false).expect("added");
    client.start(&world.id, "e").expect("started");
    client.wait_exit("e");
    let pause = task::PauseRequest { id: world.id.clone() };
    client.task::<Nothing>("Pause", &pause).expect("frozen");
    let resume = task::ResumeRequest { id: world.id.clone() };
    client.task::<Nothing>("Resume", &resume).expect("thawed");
    client.kill(&world.id, "", 9, false).expect("killed");
    client.wait_exit("");
    client.delete(&world.id, "").expect("deleted");
    let topics = server.join().expect("served");
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "paused",
        "resumed",
        "exit",
        "delete",
    ];
    assert_eq!(topics, expected.map(|topic| format!("/tasks/{topic}")));
}

#[test]
fn nobody_listens_for_events() {
    need_host!();
    let world = World::without_shim();
    let output =
        world.command("start").env("TTRPC_ADDRESS", "/nowhere.sock").output().expect("spawn");
    assert!(output.status.success(), "{output:?}");
    let mut client = world.client();
    run(&world, &mut client, &Container::sh("exit 1"), ["", "", ""]);
    assert_eq!(client.wait_exit("").exit_code, 1);
}

fn start_with(world: &World, input: &[u8], version: Option<&str>) -> Vec<u8> {
    let mut command = world.command("start");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(version) = version {
        command.env("MAX_SHIM_VERSION", version);
    }
    let mut child = command.spawn().expect("spawn");
    child.stdin.take().expect("piped").write_all(input).expect("taken");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    output.stdout
}

#[test]
fn every_form_of_bootstrap() {
    need_host!();
    let world = World::without_shim();
    let folder = world.bundle.join("s");
    let params = BootstrapParams {
        instance_id: world.id.clone(),
        namespace: "test".into(),
        socket_dir: Some(folder.display().to_string()),
        ..Default::default()
    };
    let answer = start_with(&world, &params.encode_to_vec(), Some("2"));
    let result = BootstrapResult::decode(&answer[..]).expect("message");
    assert_eq!((result.version, &result.protocol[..]), (3, "ttrpc"));
    let socket = result.address.strip_prefix("unix://").expect("unix");
    assert_eq!(Path::new(socket).parent(), Some(folder.as_path()));
    Client::connect(Path::new(socket)).shutdown(&world.id);
    wait_for("the shim to go", || !Path::new(socket).exists());

    let options = Any { type_url: "x".into(), value: vec![1] }.encode_to_vec();
    let answer = start_with(&world, &options, Some("2"));
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("json");
    assert_eq!((&answer["version"], &answer["protocol"]), (&2.into(), &"ttrpc".into()));
    world.client().shutdown(&world.id);
    wait_for("the shim to go", || !world.socket.exists());

    let answer = start_with(&world, b"", None);
    assert_eq!(answer, format!("unix://{}", world.socket.display()).into_bytes());
}

#[test]
fn a_runtime_that_is_not_there_is_named() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.write_config(&Container::sh("true"));
    let options = RuncOptions { binary_name: "/absent/runc".into(), ..Default::default() };
    let request = task::CreateTaskRequest {
        id: world.id.clone(),
        bundle: world.bundle.display().to_string(),
        options: Some(Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.encode_to_vec(),
        }),
        ..Default::default()
    };
    let error = client.task::<Nothing>("Create", &request).expect_err("not there");
    assert_eq!(error.code, 9);
    assert!(error.message.contains("/absent/runc"), "{}", error.message);
}

#[test]
fn a_create_from_no_checkpoint_is_refused() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.write_config(&Container::sh("true"));
    // An image that is not there; a parent, which no caller sends.
    for (checkpoint, parent, code) in [("/absent/image", "", 9), ("", "/absent/parent", 12)] {
        let request = task::CreateTaskRequest {
            id: world.id.clone(),
            bundle: world.bundle.display().to_string(),
            checkpoint: checkpoint.to_owned(),
            parent_checkpoint: parent.to_owned(),
            ..Default::default()
        };
        let refused = client.task::<task::CreateTaskResponse>("Create", &request);
        let refused = refused.expect_err("refused");
        assert_eq!(refused.code, code, "{}", refused.message);
    }
    // Nothing was begun.
    client.shutdown(&world.id);
}
