//! The shims alone, spoken to as containerd does: no daemon, one ttrpc connection a container.
//!
//! Both get the same calls, the same files and named pipes, and somebody who takes their events.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use prost::Message;
use prost_types::Any;
use tempfile::TempDir;
use wharf_proto::ttrpc::{FrameType, HEADER_LEN, Header, Request, Response, frame};
use wharf_proto::{shim as own, task};

use super::memory::pss_kib;
use super::report::{Row, median, median_ms};
use super::spec;
use crate::{host, image::Image};

/// Parent of the containers' cgroups.
const CGROUP: &str = "wharf-bench-shim";
const NAMESPACE: &str = "wharf-bench";
/// The longest that one answer may take.
const LIMIT: Duration = Duration::from_secs(60);
/// What a container writes for the rate.
const OUTPUT_MIB: u32 = 512;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of starts, each with an execs loop.
    pub rounds: usize,
    /// Shims at a time for their memory.
    pub shims: usize,
    /// Execs between the two looks at one shim's memory.
    pub execs: usize,
}

impl Program {
    /// Of a container that no other run, and no other shim, has.
    fn id(&self, kind: &str, number: usize) -> String {
        let tag = if self.is_own { "w" } else { "c" };
        format!("{tag}{}-{kind}{number}", std::process::id())
    }
}

impl Plan {
    /// What the README's figures are of.
    pub const FULL: Self = Self { rounds: 20, shims: 50, execs: 300 };
    /// To see that it works.
    pub const QUICK: Self = Self { rounds: 2, shims: 3, execs: 10 };
}

/// A shim's program.
#[derive(Clone, Debug)]
pub struct Program {
    /// As the table calls it.
    pub name: String,
    path: PathBuf,
    is_own: bool,
}

/// Wharf's first, then containerd's if it is installed.
///
/// # Errors
/// When Wharf's is not built.
pub fn all() -> Result<Vec<Program>> {
    let path = host::binary("wharf-shim")?;
    let mut found = vec![Program { name: "wharf-shim".into(), path, is_own: true }];
    if let Some(path) = host::tool("containerd-shim-runc-v2") {
        found.push(Program { name: "containerd-shim-runc-v2".into(), path, is_own: false });
    }
    Ok(found)
}

/// What was measured of one.
#[derive(Clone, Debug, Default)]
struct Figures {
    first_output: Vec<Duration>,
    exec: Vec<Duration>,
    pss_kib: Vec<u64>,
    pss_after_kib: Vec<u64>,
    file_rate: Vec<f64>,
    log_rate: Vec<f64>,
}

/// Measures all, in turn, and gives the lines of a table.
///
/// # Errors
/// When a shim fails.
pub fn measure(programs: &[Program], plan: Plan, image: &Image, base: &Path) -> Result<Vec<Row>> {
    let world = World::new(base, image)?;
    let mut all = vec![Figures::default(); programs.len()];
    for round in 0..plan.rounds {
        for (program, figures) in programs.iter().zip(&mut all) {
            one_life(&world, program, figures, &program.id("r", round), plan)
                .with_context(|| program.name.clone())?;
        }
    }
    for (program, figures) in programs.iter().zip(&mut all) {
        memory(&world, program, figures, plan).with_context(|| program.name.clone())?;
        for round in 0..plan.rounds.min(3) {
            rates(&world, program, figures, round).with_context(|| program.name.clone())?;
        }
    }
    super::remove_cgroup(CGROUP);
    Ok(rows(&all, plan))
}

fn rows(all: &[Figures], plan: Plan) -> Vec<Row> {
    let row = |what: String, unit, more_is_better, budget, of: &dyn Fn(&Figures) -> f64| Row {
        what,
        unit,
        more_is_better,
        figures: all.iter().map(|figures| Some(of(figures))).collect(),
        budget,
    };
    #[expect(clippy::cast_precision_loss, reason = "memory sizes in KiB")]
    let mib = |kib: &[u64]| median(kib.iter().map(|&kib| kib as f64 / 1024.0));
    vec![
        row("shim alone: `start` to first output".into(), "ms", false, "", &|f| {
            median_ms(&f.first_output)
        }),
        row("shim alone: exec of `true`".into(), "ms", false, "< 8 ms", &|f| median_ms(&f.exec)),
        row(format!("PSS of a shim, of {}", plan.shims), "MiB", false, "0.4 MiB", &|f| {
            mib(&f.pss_kib)
        }),
        row(format!("the same after {} execs", plan.execs), "MiB", false, "no growth", &|f| {
            mib(&f.pss_after_kib)
        }),
        row("output to a file, a core of the shim's".into(), "MiB/s", true, "", &|f| {
            median(f.file_rate.iter().copied())
        }),
        row("output to a CRI log, a core of the shim's".into(), "MiB/s", true, "500 MiB/s", &|f| {
            median(f.log_rate.iter().copied())
        }),
    ]
}

/// Start to first output, then execs.
fn one_life(
    world: &World,
    program: &Program,
    figures: &mut Figures,
    id: &str,
    plan: Plan,
) -> Result<()> {
    let bundle = world.bundle(id, "echo up; exec sleep 1000")?;
    let out = bundle.join("out");
    let mut reader = named_pipe(&out)?;
    let begin = Instant::now();
    let mut shim = Shim::start(world, program, &bundle, id)?;
    shim.create(&bundle, &out.display().to_string(), None)?;
    wait_for_output(&mut reader)?;
    figures.first_output.push(begin.elapsed());
    for number in 0..5_usize.min(plan.execs) {
        figures.exec.push(shim.exec(&format!("e{number}"))?);
    }
    shim.end()
}

/// A named pipe that is open for both directions, so that nobody waits for the other side.
fn named_pipe(path: &Path) -> Result<fs::File> {
    use nix::sys::stat::Mode;

    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
        .with_context(|| format!("make {}", path.display()))?;
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
    options.open(path).with_context(|| format!("open {}", path.display()))
}

fn wait_for_output(reader: &mut fs::File) -> Result<()> {
    use std::os::fd::AsFd as _;

    let limit = nix::poll::PollTimeout::try_from(LIMIT).unwrap_or(nix::poll::PollTimeout::MAX);
    let mut fds = [nix::poll::PollFd::new(reader.as_fd(), nix::poll::PollFlags::POLLIN)];
    if nix::poll::poll(&mut fds, limit)? == 0 {
        bail!("no output in {LIMIT:?}");
    }
    let mut text = [0; 16];
    let count = reader.read(&mut text)?;
    if !text[..count].starts_with(b"up") {
        bail!("the container wrote {:?}", &text[..count]);
    }
    Ok(())
}

fn memory(world: &World, program: &Program, figures: &mut Figures, plan: Plan) -> Result<()> {
    let mut shims = Vec::new();
    for number in 0..plan.shims {
        let id = program.id("m", number);
        let bundle = world.bundle(&id, "exec sleep 1000")?;
        let mut shim = Shim::start(world, program, &bundle, &id)?;
        shim.create(&bundle, "", None)?;
        shims.push(shim);
    }
    // What was needed for the start is given back after a while.
    std::thread::sleep(Duration::from_secs(2));
    for shim in &shims {
        figures.pss_kib.push(pss_kib(shim.pid)?);
    }
    if let Some(first) = shims.first_mut() {
        for number in 0..plan.execs {
            first.exec(&format!("e{number}"))?;
        }
        std::thread::sleep(Duration::from_secs(2));
        figures.pss_after_kib.push(pss_kib(first.pid)?);
    }
    shims.into_iter().try_for_each(Shim::end)
}

/// Bytes for a second of the shim's own processor time.
fn rates(world: &World, program: &Program, figures: &mut Figures, round: usize) -> Result<()> {
    let script = format!("exec dd if=/dev/zero bs=1M count={OUTPUT_MIB} 2>/dev/null");
    let id = program.id("o", round);
    let bundle = world.bundle(&id, &script)?;
    let file = bundle.join("file");
    fs::write(&file, b"")?;
    let uri = format!("file://{}", file.display());
    figures.file_rate.push(rate(world, program, &bundle, &id, &uri, None)?);
    if program.is_own {
        let id = program.id("l", round);
        let bundle = world.bundle(&id, &script)?;
        let log = own::LogTarget {
            path: bundle.join("container.log").display().to_string(),
            max_bytes: 64 << 20,
            max_files: 1,
            ..Default::default()
        };
        let options = own::CreateOptions { log: Some(log), ..Default::default() };
        let options =
            Any { type_url: own::CREATE_OPTIONS_TYPE_URL.into(), value: options.encode_to_vec() };
        figures.log_rate.push(rate(world, program, &bundle, &id, "", Some(options))?);
    }
    Ok(())
}

fn rate(
    world: &World,
    program: &Program,
    bundle: &Path,
    id: &str,
    stdout: &str,
    options: Option<Any>,
) -> Result<f64> {
    let mut shim = Shim::start(world, program, bundle, id)?;
    shim.create(bundle, stdout, options)?;
    shim.wait("")?;
    let seconds = processor_seconds(shim.pid)?;
    shim.end()?;
    fs::remove_dir_all(bundle)?;
    Ok(f64::from(OUTPUT_MIB) / seconds.max(0.01))
}

/// User and system time of a process; its children's does not count.
fn processor_seconds(pid: i32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat[stat.rfind(')').context("name")?..].split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<f64>().ok());
    Ok((ticks(12).context("user time")? + ticks(13).context("system time")?) / 100.0)
}

/// A root file system for all, a folder for the bundles, somebody who takes events.
struct World {
    folder: TempDir,
    events: PathBuf,
}

impl World {
    fn new(base: &Path, image: &Image) -> Result<Self> {
        let folder = TempDir::with_prefix_in("w-shims-", base).context("make a folder")?;
        let rootfs = folder.path().join("rootfs");
        fs::create_dir(&rootfs)?;
        for layer in &image.layers {
            tar::Archive::new(layer.tar.as_slice()).unpack(&rootfs).context("unpack a layer")?;
        }
        let events = folder.path().join("events.sock");
        let listener = UnixListener::bind(&events)?;
        // Ends with the program.
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                std::thread::spawn(move || take_events(socket));
            }
        });
        Ok(Self { folder, events })
    }

    fn bundle(&self, id: &str, script: &str) -> Result<PathBuf> {
        let bundle = self.folder.path().join(id);
        drop(fs::remove_dir_all(&bundle));
        fs::create_dir(&bundle)?;
        let mut config = spec::spec(&["/bin/sh", "-c", script], &format!("/{CGROUP}/{id}"));
        config["root"]["path"] = self.folder.path().join("rootfs").display().to_string().into();
        fs::write(bundle.join("config.json"), config.to_string())?;
        Ok(bundle)
    }
}

fn take_events(mut socket: UnixStream) -> Option<()> {
    loop {
        let mut head = [0; HEADER_LEN];
        socket.read_exact(&mut head).ok()?;
        let header = Header::decode(head).ok()?;
        let mut data = vec![0; header.len];
        socket.read_exact(&mut data).ok()?;
        let answer = frame(FrameType::Response, header.stream, &Response::default()).ok()?;
        socket.write_all(&answer).ok()?;
    }
}

/// An empty answer.
#[derive(Clone, PartialEq, Message)]
struct Nothing {}

/// One shim with its container.
struct Shim {
    socket: UnixStream,
    next: u32,
    id: String,
    pid: i32,
    has_ended: bool,
    /// containerd's shim writes its own log there, and ends without.
    _log: fs::File,
}

/// After a failure nothing is left either.
impl Drop for Shim {
    fn drop(&mut self) {
        drop(self.socket.set_read_timeout(Some(Duration::from_secs(5))));
        drop(self.farewell());
    }
}

impl Shim {
    fn start(world: &World, program: &Program, bundle: &Path, id: &str) -> Result<Self> {
        let log = bundle.join("log");
        drop(fs::remove_file(&log));
        let log = named_pipe(&log)?;
        let output = Command::new(&program.path)
            .args(["-namespace", NAMESPACE, "-id", id, "-address", "/run/none"])
            .args(["-publish-binary", "/bin/true", "start"])
            .env("TTRPC_ADDRESS", &world.events)
            .current_dir(bundle)
            .stdin(Stdio::null())
            .output()
            .context("start the shim")?;
        if !output.status.success() {
            bail!("start: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8(output.stdout).context("address")?;
        let address = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(value) => value["address"].as_str().unwrap_or_default().to_owned(),
            Err(_) => text.trim().to_owned(),
        };
        let path = address.strip_prefix("unix://").unwrap_or(&address);
        let socket = UnixStream::connect(path).with_context(|| format!("connect to {path}"))?;
        socket.set_read_timeout(Some(LIMIT))?;
        let mut shim =
            Self { socket, next: 1, id: id.to_owned(), pid: 0, has_ended: false, _log: log };
        let id = id.to_owned();
        let told: task::ConnectResponse = shim.call("Connect", &task::ConnectRequest { id })?;
        shim.pid = i32::try_from(told.shim_pid)?;
        Ok(shim)
    }

    fn call<A: Message + Default>(&mut self, method: &str, message: &impl Message) -> Result<A> {
        let stream = self.next;
        self.next += 2;
        let request = Request {
            service: task::SERVICE_V2.into(),
            method: method.into(),
            payload: message.encode_to_vec(),
            timeout_nano: i64::try_from(LIMIT.as_nanos())?,
            metadata: Vec::new(),
        };
        self.socket.write_all(&frame(FrameType::Request, stream, &request)?)?;
        let mut head = [0; HEADER_LEN];
        self.socket.read_exact(&mut head).with_context(|| method.to_owned())?;
        let header = Header::decode(head)?;
        let mut data = vec![0; header.len];
        self.socket.read_exact(&mut data)?;
        let response = Response::decode(&data[..])?;
        match response.status {
            Some(status) if status.code != 0 => bail!("{method}: {}", status.message),
            Some(_) | None => Ok(A::decode(&response.payload[..])?),
        }
    }

    /// Create and start.
    fn create(&mut self, bundle: &Path, stdout: &str, options: Option<Any>) -> Result<()> {
        let request = task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.display().to_string(),
            stdout: stdout.to_owned(),
            stderr: stdout.to_owned(),
            options,
            ..Default::default()
        };
        self.call::<task::CreateTaskResponse>("Create", &request)?;
        self.start_process("")
    }

    fn start_process(&mut self, exec: &str) -> Result<()> {
        let request = task::StartRequest { id: self.id.clone(), exec_id: exec.to_owned() };
        self.call::<task::StartResponse>("Start", &request).map(drop)
    }

    fn wait(&mut self, exec: &str) -> Result<u32> {
        let request = task::WaitRequest { id: self.id.clone(), exec_id: exec.to_owned() };
        Ok(self.call::<task::WaitResponse>("Wait", &request)?.exit_status)
    }

    fn delete(&mut self, exec: &str) -> Result<()> {
        let request = task::DeleteRequest { id: self.id.clone(), exec_id: exec.to_owned() };
        self.call::<task::DeleteResponse>("Delete", &request).map(drop)
    }

    /// `true`, from its making to the word that it is gone.
    fn exec(&mut self, exec: &str) -> Result<Duration> {
        let process = Any {
            type_url: task::PROCESS_TYPE_URL.into(),
            value: spec::process(&["/bin/true"]).to_string().into_bytes(),
        };
        let request = task::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.to_owned(),
            spec: Some(process),
            ..Default::default()
        };
        let begin = Instant::now();
        self.call::<Nothing>("Exec", &request)?;
        self.start_process(exec)?;
        let status = self.wait(exec)?;
        self.delete(exec)?;
        let time = begin.elapsed();
        if status != 0 { bail!("true ended with {status}") } else { Ok(time) }
    }

    fn end(mut self) -> Result<()> {
        self.farewell()
    }

    fn farewell(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.has_ended, true) {
            return Ok(());
        }
        let id = self.id.clone();
        let kill = task::KillRequest { id: id.clone(), signal: 9, all: true, ..Default::default() };
        // One that has ended is as good.
        drop(self.call::<Nothing>("Kill", &kill));
        self.wait("")?;
        self.delete("")?;
        // Its answer may be cut off by its end.
        drop(self.call::<Nothing>("Shutdown", &task::ShutdownRequest { id, now: true }));
        Ok(())
    }
}
