//! A world for one test: a bundle, a shim in it, a ttrpc client. All of it goes on drop.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(
    clippy::print_stderr,
    reason = "a test says why it skips, and shows the log when it fails"
)]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};
use wharf_proto::google::rpc::Status;
use wharf_proto::shim as wharf;
use wharf_proto::task;
use wharf_proto::ttrpc::{FrameType, HEADER_LEN, Header, Request, Response, frame};

/// The longest that anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "/usr/bin/busybox";

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Says why a test does nothing here. `None`: it can run.
pub(crate) fn skip_reason() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return Some("needs Debian's busybox-static");
    }
    None
}

/// Returns from a test that cannot run here.
#[macro_export]
macro_rules! need_host {
    () => {
        if let Some(reason) = support::skip_reason() {
            eprintln!("SKIP {}: {reason}", module_path!());
            return;
        }
    };
}

/// What a container is to be.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) args: Vec<String>,
    pub(crate) terminal: bool,
    pub(crate) open_stdin: bool,
    pub(crate) memory: Option<i64>,
    pub(crate) log_max_bytes: u64,
    pub(crate) format: wharf::log_target::Format,
    pub(crate) host_pids: bool,
    /// Another OCI runtime.
    pub(crate) runtime: String,
    pub(crate) when_full: wharf::log_target::WhenFull,
    /// Elsewhere than usual.
    pub(crate) log_path: Option<PathBuf>,
}

impl Container {
    pub(crate) fn new(args: &[&str]) -> Self {
        Self {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            terminal: false,
            open_stdin: false,
            memory: None,
            log_max_bytes: 0,
            format: wharf::log_target::Format::Cri,
            host_pids: false,
            runtime: String::new(),
            when_full: wharf::log_target::WhenFull::Block,
            log_path: None,
        }
    }

    pub(crate) fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }
}

/// A bundle with its shim.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) id: String,
    folder: tempfile::TempDir,
    pub(crate) bundle: PathBuf,
    pub(crate) socket: PathBuf,
}

impl World {
    /// A root file system of busybox, and a running shim.
    pub(crate) fn new() -> Self {
        let world = Self::without_shim();
        world.start_shim();
        world
    }

    pub(crate) fn without_shim() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}-{number}", std::process::id());
        let folder = tempfile::tempdir().expect("folder");
        let bundle = folder.path().join("b");
        make_rootfs(&bundle.join("rootfs"));
        let socket = bundle.join("shim.sock");
        Self { id, folder, bundle, socket }
    }

    pub(crate) fn command(&self, action: &str) -> Command {
        // Figures are of a release build, which a test profile does not make.
        let built = env!("CARGO_BIN_EXE_wharf-shim").into();
        let binary = std::env::var_os("WHARF_SHIM").unwrap_or(built);
        let mut command = Command::new(binary);
        command
            .args(["-namespace", "test", "-id", &self.id, "-address", "/nowhere"])
            .arg("-debug")
            .arg(action)
            .current_dir(&self.bundle);
        command
    }

    pub(crate) fn start_shim(&self) {
        let output = self.command("start").output().expect("spawn");
        assert!(output.status.success(), "{output:?}");
        let address = String::from_utf8(output.stdout).expect("text");
        assert_eq!(address, format!("unix://{}", self.socket.display()));
    }

    pub(crate) fn delete_shim(&self) -> Output {
        self.command("delete").output().expect("spawn")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket)
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Writes config.json and asks for the container.
    pub(crate) fn create(&self, client: &mut Client, container: &Container) -> Result<u32, Status> {
        self.write_config(container);
        let options = wharf::CreateOptions {
            log: Some(wharf::LogTarget {
                path: container
                    .log_path
                    .clone()
                    .unwrap_or_else(|| self.log_path())
                    .display()
                    .to_string(),
                format: container.format.into(),
                max_bytes: container.log_max_bytes,
                max_files: 3,
                when_full: container.when_full.into(),
            }),
            open_stdin: container.open_stdin,
            runtime_binary: container.runtime.clone(),
            terminal_width: 80,
            terminal_height: 25,
            ..Default::default()
        };
        let request = task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.display().to_string(),
            terminal: container.terminal,
            options: Some(Any {
                type_url: format!("types.example/{}", wharf::CREATE_OPTIONS_TYPE_URL),
                value: options.encode_to_vec(),
            }),
            ..Default::default()
        };
        client.task::<task::CreateTaskResponse>("Create", &request).map(|answer| answer.pid)
    }

    /// Create and start.
    pub(crate) fn run(&self, client: &mut Client, container: &Container) -> u32 {
        let pid = self.create(client, container).expect("created");
        let started = client.start(&self.id, "").expect("started");
        assert_eq!(pid, started);
        pid
    }

    pub(crate) fn write_config(&self, container: &Container) {
        let config = config(&self.id, container);
        std::fs::write(self.bundle.join("config.json"), config.to_string()).expect("config.json");
    }

    /// What the container wrote, put together from its log, both streams.
    pub(crate) fn output(&self) -> Vec<u8> {
        let log = std::fs::read(self.log_path()).expect("log");
        decode_cri(&log)
    }

    pub(crate) fn wait_for_output(&self, what: &str) {
        wait_for(&format!("{what:?} in the log"), || {
            String::from_utf8_lossy(&self.output()).contains(what)
        });
    }

    pub(crate) fn state_json(&self) -> Value {
        let text = std::fs::read(self.bundle.join("state.json")).expect("state.json");
        serde_json::from_slice(&text).expect("json")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.bundle.join("shim.log")).unwrap_or_default();
            eprintln!("--- shim.log of {}\n{log}---", self.id);
        }
        if let Ok(socket) = UnixStream::connect(&self.socket) {
            let _ = socket.set_read_timeout(Some(Duration::from_secs(2)));
            let mut client = Client { socket, next: 1 };
            client.farewell(&self.id);
        }
        let _ = self.command("delete").output();
    }
}

/// An empty answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Nothing {}

/// A ttrpc client, one call at a time unless the pieces are used.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: UnixStream,
    next: u32,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).expect("shim accepts");
        socket.set_read_timeout(Some(LIMIT)).expect("timeout");
        Self { socket, next: 1 }
    }

    /// Sends a call; answers with its stream.
    pub(crate) fn send(&mut self, service: &str, method: &str, message: &impl Message) -> u32 {
        let stream = self.next;
        self.next += 2;
        let request = Request {
            service: service.into(),
            method: method.into(),
            payload: message.encode_to_vec(),
            timeout_nano: 5_000_000_000,
            metadata: Vec::new(),
        };
        let bytes = frame(FrameType::Request, stream, &request).expect("fits");
        // A shim that is gone is noticed at the answer.
        let _ = self.socket.write_all(&bytes);
        stream
    }

    /// Next answer, whatever its stream.
    pub(crate) fn receive(&mut self) -> (u32, Result<Vec<u8>, Status>) {
        self.try_receive().expect("an answer")
    }

    pub(crate) fn try_receive(&mut self) -> std::io::Result<(u32, Result<Vec<u8>, Status>)> {
        let mut head = [0; HEADER_LEN];
        self.socket.read_exact(&mut head)?;
        let header = Header::decode(head).expect("a frame");
        assert_eq!(header.frame_type, FrameType::Response);
        let mut data = vec![0; header.len];
        self.socket.read_exact(&mut data)?;
        let response = Response::decode(&data[..]).expect("a response");
        let result = match response.status {
            Some(status) if status.code != 0 => Err(status),
            Some(_) | None => Ok(response.payload),
        };
        Ok((header.stream, result))
    }

    pub(crate) fn call<A: Message + Default>(
        &mut self,
        service: &str,
        method: &str,
        message: &impl Message,
    ) -> Result<A, Status> {
        let sent = self.send(service, method, message);
        let (stream, result) = self.receive();
        assert_eq!(stream, sent);
        result.map(|payload| A::decode(&payload[..]).expect("a message"))
    }

    pub(crate) fn task<A: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, Status> {
        // Both names in turn.
        let service = if self.next % 4 == 1 { task::SERVICE_V3 } else { task::SERVICE_V2 };
        self.call(service, method, message)
    }

    pub(crate) fn wharf<A: Message + Default>(
        &mut self,
        method: &str,
        message: &impl Message,
    ) -> Result<A, Status> {
        self.call(wharf::SERVICE, method, message)
    }

    pub(crate) fn start(&mut self, id: &str, exec: &str) -> Result<u32, Status> {
        let request = task::StartRequest { id: id.into(), exec_id: exec.into() };
        self.task::<task::StartResponse>("Start", &request).map(|answer| answer.pid)
    }

    pub(crate) fn state(&mut self, id: &str, exec: &str) -> Result<task::StateResponse, Status> {
        self.task("State", &task::StateRequest { id: id.into(), exec_id: exec.into() })
    }

    pub(crate) fn kill(
        &mut self,
        id: &str,
        exec: &str,
        signal: u32,
        all: bool,
    ) -> Result<Nothing, Status> {
        let request = task::KillRequest { id: id.into(), exec_id: exec.into(), signal, all };
        self.task("Kill", &request)
    }

    pub(crate) fn delete(&mut self, id: &str, exec: &str) -> Result<task::DeleteResponse, Status> {
        self.task("Delete", &task::DeleteRequest { id: id.into(), exec_id: exec.into() })
    }

    pub(crate) fn wait_exit(&mut self, exec: &str) -> wharf::ExitRecord {
        self.wharf("WaitExit", &wharf::WaitExitRequest { exec_id: exec.into() }).expect("ended")
    }

    pub(crate) fn write_stdin(&mut self, exec: &str, data: &[u8]) -> Result<Nothing, Status> {
        let request = wharf::WriteStdinRequest { exec_id: exec.into(), data: data.to_vec() };
        self.wharf("WriteStdin", &request)
    }

    pub(crate) fn close_stdin(&mut self, id: &str, exec: &str) -> Result<Nothing, Status> {
        let request = task::CloseIoRequest { id: id.into(), exec_id: exec.into(), stdin: true };
        self.task("CloseIO", &request)
    }

    /// Adds an exec whose stdio stays in the shim.
    pub(crate) fn add_exec(
        &mut self,
        id: &str,
        exec: &str,
        args: &[&str],
        terminal: bool,
    ) -> Result<Nothing, Status> {
        let process = json!({
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
        });
        let request = task::ExecProcessRequest {
            id: id.into(),
            exec_id: exec.into(),
            terminal,
            stdin: wharf::STDIO_IN_SHIM.into(),
            stdout: wharf::STDIO_IN_SHIM.into(),
            stderr: wharf::STDIO_IN_SHIM.into(),
            spec: Some(Any {
                type_url: task::PROCESS_TYPE_URL.into(),
                value: process.to_string().into_bytes(),
            }),
        };
        self.task("Exec", &request)
    }

    /// Output of an exec up to its end: stdout, stderr.
    pub(crate) fn read_all(&mut self, exec: &str) -> (Vec<u8>, Vec<u8>) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut offset = 0;
        loop {
            let request =
                wharf::ReadOutputRequest { exec_id: exec.into(), offset, ..Default::default() };
            let answer: wharf::ReadOutputResponse =
                self.wharf("ReadOutput", &request).expect("output");
            for chunk in answer.chunks {
                match chunk.stream() {
                    wharf::output_chunk::Stream::Stderr => stderr.extend(chunk.data),
                    _ => stdout.extend(chunk.data),
                }
            }
            offset = answer.next_offset;
            if answer.eof {
                return (stdout, stderr);
            }
        }
    }

    /// Ends whatever is there; nothing is checked.
    pub(crate) fn farewell(&mut self, id: &str) {
        let (id, exec_id) = (id.to_owned(), String::new());
        let kill = task::KillRequest { id: id.clone(), signal: 9, all: true, ..Default::default() };
        let wait = task::WaitRequest { id: id.clone(), exec_id: exec_id.clone() };
        let delete = task::DeleteRequest { id: id.clone(), exec_id };
        self.send(task::SERVICE_V3, "Kill", &kill);
        let _ = self.try_receive();
        self.send(task::SERVICE_V3, "Wait", &wait);
        let _ = self.try_receive();
        self.send(task::SERVICE_V3, "Delete", &delete);
        let _ = self.try_receive();
        self.send(task::SERVICE_V3, "Shutdown", &task::ShutdownRequest { id, now: true });
        let _ = self.try_receive();
    }

    pub(crate) fn shutdown(&mut self, id: &str) {
        let request = task::ShutdownRequest { id: id.into(), now: true };
        self.task::<Nothing>("Shutdown", &request).expect("goes");
    }
}

pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process is there, and not as a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

pub(crate) fn decode_cri(log: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { break };
        let mut fields = line.splitn(4, |&byte| byte == b' ');
        let tag = fields.nth(2).expect("tag");
        bytes.extend_from_slice(fields.next().expect("payload"));
        if tag == b"F" {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn make_rootfs(root: &Path) {
    let bin = root.join("bin");
    std::fs::create_dir_all(&bin).expect("bin");
    for folder in ["proc", "dev", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(folder)).expect("folder");
    }
    if let Some(_reason) = skip_reason() {
        return;
    }
    std::fs::copy(BUSYBOX, bin.join("busybox")).expect("busybox");
    for applet in [
        "sh", "cat", "echo", "sleep", "true", "false", "head", "dd", "yes", "tr", "kill", "tail",
        "stty", "wc",
    ] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("applet");
    }
    std::fs::write(root.join("bin/plain"), "no program").expect("file");
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(root.join("bin/plain"), mode).expect("mode");
}

fn config(id: &str, container: &Container) -> Value {
    let mut namespaces = vec![
        json!({"type": "mount"}),
        json!({"type": "uts"}),
        json!({"type": "ipc"}),
        json!({"type": "network"}),
    ];
    if !container.host_pids {
        namespaces.push(json!({"type": "pid"}));
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": container.terminal,
            "user": {"uid": 0, "gid": 0},
            "args": container.args,
            "env": ["PATH=/bin"],
            "cwd": "/",
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": format!("/wharf-test-{id}"),
        },
    });
    if let Some(memory) = container.memory {
        config["linux"]["resources"] = json!({"memory": {"limit": memory, "swap": memory}});
    }
    config
}
