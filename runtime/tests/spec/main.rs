//! Parts of the OCI runtime spec that few containers use, each on the real kernel. Needs root and
//! Debian's busybox-static; says so and passes where they are missing.
#![allow(clippy::print_stdout)]

#[path = "../world/mod.rs"]
mod world;

mod mounts;

use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio as Pipe};

use serde_json::{Value, json};
use wharf_runtime::spec::Process;
use wharf_runtime::{ErrorKind, Stdio};
use world::{Check, Ended, World};

fn main() {
    world::main(&[
        ("mounts_with_mapped_owners", mounts::mounts_with_mapped_owners),
        ("a_mapped_mount_in_a_user_namespace", mounts::a_mapped_mount_in_a_user_namespace),
        ("an_agent_answers_system_calls", an_agent_answers_system_calls),
        ("an_agent_that_is_not_there", an_agent_that_is_not_there),
        ("clocks_that_are_off", clocks_that_are_off),
        ("memory_policy", memory_policy),
        ("network_devices_move_in", network_devices_move_in),
        ("a_network_device_that_can_not_move", a_network_device_that_can_not_move),
        ("processors_of_an_exec", processors_of_an_exec),
        ("a_joined_user_namespace", a_joined_user_namespace),
        ("joined_namespaces", joined_namespaces),
        ("oom_score_in_a_user_namespace", oom_score_in_a_user_namespace),
        ("copied_up", mounts::copied_up),
        ("attributes_of_all_below", mounts::attributes_of_all_below),
        ("propagation_of_the_root", mounts::propagation_of_the_root),
        ("six_kinds_of_hooks", six_kinds_of_hooks),
        ("hooks_that_fail", hooks_that_fail),
        ("links_that_lead_to_nothing_yet", mounts::links_that_lead_to_nothing_yet),
        ("modes_of_a_tmpfs", mounts::modes_of_a_tmpfs),
        ("sources_that_mounts_have_brought", mounts::sources_that_mounts_have_brought),
        ("hooks_run_behind_the_filter", hooks_run_behind_the_filter),
        ("domain_name", domain_name),
        ("what_this_host_has_not", what_this_host_has_not),
        ("devices_that_do_not_match", devices_that_do_not_match),
    ]);
}

/// Lines of a run that ended well.
fn lines(w: &World) -> Check<Vec<String>> {
    let (out, ended) = w.run()?;
    if ended != Ended::Code(0) {
        return Err(format!("{ended:?}: {out}").into());
    }
    Ok(out.lines().map(str::to_owned).collect())
}

fn with_namespace(w: &mut World, namespace: Value) {
    if let Some(list) = w.spec["linux"]["namespaces"].as_array_mut() {
        list.retain(|one| one["type"] != namespace["type"]);
        list.push(namespace);
    }
}

fn in_user_namespace(w: &mut World) -> Check {
    w.open_to(100_000)?;
    with_namespace(w, json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    w.spec["linux"]["uidMappings"] = map.clone();
    w.spec["linux"]["gidMappings"] = map;
    Ok(())
}

/// The other end of a container's filter: takes one listener, and answers its first call with an
/// error of our choosing.
struct Agent {
    listener: UnixListener,
}

#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    call: i32,
    arch: u32,
    pointer: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

impl Agent {
    fn new(path: &Path) -> Check<Self> {
        Ok(Self { listener: UnixListener::bind(path)? })
    }

    fn take(&self) -> Check<(Value, OwnedFd)> {
        let (stream, _) = self.listener.accept()?;
        let (bytes, fd) = receive_with_fd(&stream)?;
        Ok((serde_json::from_slice(&bytes)?, fd))
    }

    #[allow(unsafe_code)]
    fn answer(fd: &OwnedFd, error: i32) -> Check<i32> {
        let mut asked = Notification::default();
        // SAFETY: SECCOMP_IOCTL_NOTIF_RECV fills a zeroed seccomp_notif, which lives through it.
        let got = unsafe { nix::libc::ioctl(fd.as_raw_fd(), 0xc050_2100, &mut asked) };
        if got < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let answer = Answer { id: asked.id, value: 0, error: -error, flags: 0 };
        // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads a seccomp_notif_resp, which lives through it.
        let sent = unsafe { nix::libc::ioctl(fd.as_raw_fd(), 0xc018_2101, &answer) };
        if sent < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(asked.call)
    }
}

#[allow(unsafe_code)]
fn receive_with_fd(stream: &UnixStream) -> Check<(Vec<u8>, OwnedFd)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut bytes = vec![0; 64 * 1024];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let length = got.bytes;
    let mut fd = None;
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel made this descriptor for us just now.
            fd = fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    let mut rest = Vec::new();
    (&*stream).read_to_end(&mut rest)?;
    bytes.truncate(length);
    bytes.extend(rest);
    Ok((bytes, fd.ok_or("no descriptor came along")?))
}

fn an_agent_answers_system_calls() -> Check {
    let mut w = World::new()?;
    let path = w.path("agent.sock");
    let agent = Agent::new(&path)?;
    w.spec["annotations"] = json!({"a": "b"});
    w.spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "for you",
        "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]});
    w.sh("mkdir /tmp/made; echo $?; sleep 1000");
    let (stdio, out) = world::pipes()?;
    let mut created = w.create(None, stdio)?;
    created.start()?;
    let (state, fd) = agent.take()?;
    w.same("descriptors", state["fds"].clone(), json!(["seccompFd"]))?;
    w.same("metadata", state["metadata"].clone(), json!("for you"))?;
    w.same("pid", state["pid"].clone(), json!(created.task.pid))?;
    w.same("id", state["state"]["id"].clone(), json!(w.id))?;
    w.same("annotations", state["state"]["annotations"].clone(), json!({"a": "b"}))?;
    w.same("version", state["ociVersion"].clone(), json!("1.3.0"))?;
    // ENOMEDIUM
    let call = Agent::answer(&fd, 123)?;
    w.same("a call that makes a directory", [83, 258, 34].contains(&call), true)?;
    let mut said = BufReader::new(std::fs::File::from(out));
    let mut line = String::new();
    said.read_line(&mut line)?;
    w.has(&line, "No medium found")?;

    let process: Process =
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
        "args": ["mkdir", "/tmp/made"], "env": ["PATH=/bin"]}))?;
    let (stdio, out) = world::pipes()?;
    let exec = created.task.exec(&process, stdio)?;
    let (state, fd) = agent.take()?;
    w.same("the exec's pid", state["pid"].clone(), json!(exec.pid))?;
    w.same("the init's pid", state["state"]["pid"].clone(), json!(created.task.pid))?;
    Agent::answer(&fd, 28)?;
    w.has(&world::read_to_end(out)?, "No space left on device")?;
    world::reap_fd(&exec.pidfd)?;
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    w.same("made", w.root().join("tmp/made").exists(), false)
}

fn an_agent_that_is_not_there() -> Check {
    let mut w = World::new()?;
    let path = w.path("agent.sock");
    w.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let error = w.refused()?;
    w.has(&error.to_string(), "linux.seccomp.listenerPath")?;
    // A socket that nobody listens at.
    drop(UnixListener::bind(&path)?);
    let error = w.refused()?;
    w.has(&error.to_string(), "pass the listener to")
}

fn clocks_that_are_off() -> Check {
    let mut w = World::new()?;
    with_namespace(&mut w, json!({"type": "time"}));
    w.spec["linux"]["timeOffsets"] =
        json!({"boottime": {"secs": 1_000_000_000}, "monotonic": {"secs": 7, "nanosecs": 5}});
    w.sh("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets | tr -s ' '");
    let all = lines(&w)?;
    let uptime: u64 = all[0].parse()?;
    w.same("the container's boot was long ago", uptime > 1_000_000_000, true)?;
    w.same(
        "offsets",
        all[1..].join(";").trim().to_owned(),
        "monotonic 7 5;boottime 1000000000 0".to_owned(),
    )?;
    // An exec has the same clocks.
    w.args(&["sleep", "1000"]);
    let created = w.start()?;
    let process: Process =
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
        "args": ["cat", "/proc/uptime"], "env": ["PATH=/bin"]}))?;
    let (stdio, out) = world::pipes()?;
    let exec = created.task.exec(&process, stdio)?;
    let text = world::read_to_end(out)?;
    world::reap_fd(&exec.pidfd)?;
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    let uptime: f64 = text.split(' ').next().unwrap_or("").parse()?;
    w.same("an exec's, too", uptime > 1e9, true)
}

fn memory_policy() -> Check {
    let mut w = World::new()?;
    if !Path::new("/sys/devices/system/node/node0").exists() {
        println!("        this kernel knows no memory nodes");
        return Ok(());
    }
    w.spec["linux"]["memoryPolicy"] =
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    w.sh("head -n 1 /proc/self/numa_maps | cut -d' ' -f2");
    w.same("policy", lines(&w)?.join(" "), "bind=static:0".to_owned())
}

fn ip(args: &str) -> Check {
    let out = Command::new("ip").args(args.split(' ')).output()?;
    if !out.status.success() {
        return Err(format!("ip {args}: {}", String::from_utf8_lossy(&out.stderr)).into());
    }
    Ok(())
}

/// A pair of devices, gone when dropped.
struct Devices(String, String);

impl Devices {
    fn new() -> Check<Option<Self>> {
        let n = std::process::id() % 1_000_000;
        let (a, b) = (format!("wt{n}a"), format!("wt{n}b"));
        if Command::new("ip").arg("-V").output().is_err() {
            println!("        needs iproute2");
            return Ok(None);
        }
        ip(&format!("link add {a} type veth peer name {b}"))?;
        Ok(Some(Self(a, b)))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.1));
    }
}

fn network_devices_move_in() -> Check {
    let mut w = World::new()?;
    let Some(pair) = Devices::new()? else { return Ok(()) };
    ip(&format!("addr add 198.51.100.7/24 dev {}", pair.0))?;
    ip(&format!("addr add 2001:db8::7/64 dev {} nodad", pair.0))?;
    ip(&format!("link set {} mtu 1400", pair.0))?;
    ip(&format!("link set {} up", pair.1))?;
    w.spec["linux"]["netDevices"] = json!({pair.0.clone(): {"name": "inner%d"}});
    w.sh("ip -o addr show dev inner0; ip -o link show dev inner0");
    let all = lines(&w)?.join("\n");
    for part in ["198.51.100.7/24", "2001:db8::7/64", "mtu 1400", ",UP"] {
        w.has(&all, part)?;
    }
    Ok(())
}

fn a_network_device_that_can_not_move() -> Check {
    let mut w = World::new()?;
    let Some(pair) = Devices::new()? else { return Ok(()) };
    // The first of the two moves; the second can't, and the first comes back.
    w.spec["linux"]["netDevices"] = json!({pair.0.clone(): {"name": "inner"}, "wtz-none": {}});
    let error = w.refused()?;
    w.has(&error.to_string(), r#"linux.netDevices["wtz-none"]"#)?;
    w.same("back", Path::new("/sys/class/net").join(&pair.0).exists(), true)?;
    w.spec["linux"]["netDevices"] = json!({pair.0.clone(): {"name": "lo"}});
    let error = w.refused()?;
    w.has(&error.to_string(), "move it to the container as \"lo\"")?;
    w.same("here still", Path::new("/sys/class/net").join(&pair.0).exists(), true)
}

fn processors_of_an_exec() -> Check {
    let mut w = World::new()?;
    w.args(&["sleep", "1000"]);
    w.spec["process"]["execCPUAffinity"] = json!({"initial": "0"});
    let created = w.start()?;
    let allowed = |affinity: Value| -> Check<String> {
        let process: Process = serde_json::from_value(json!({"user": {"uid": 0, "gid": 0},
            "cwd": "/", "args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
            "env": ["PATH=/bin"], "execCPUAffinity": affinity}))?;
        let (stdio, out) = world::pipes()?;
        let exec = created.task.exec(&process, stdio)?;
        let text = world::read_to_end(out)?;
        world::reap_fd(&exec.pidfd)?;
        Ok(text.trim().rsplit('\t').next().unwrap_or("").to_owned())
    };
    let own = std::fs::read_to_string("/proc/self/status")?;
    let results = [
        allowed(json!({"initial": "0"})),
        allowed(json!({"initial": "0", "final": "1"})),
        allowed(json!({"final": "1"})),
    ];
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    let [initial, both, last] = results;
    w.same("initial alone", initial?, "0".to_owned())?;
    if std::thread::available_parallelism()?.get() > 1 {
        w.same("initial, then final", both?, "1".to_owned())?;
        w.same("final alone", last?, "1".to_owned())?;
    }
    w.same(
        "this process",
        std::fs::read_to_string("/proc/self/status")?
            .lines()
            .find(|l| l.starts_with("Cpus_allowed_list"))
            .map(str::to_owned),
        own.lines().find(|l| l.starts_with("Cpus_allowed_list")).map(str::to_owned),
    )
}

/// A process that holds namespaces open; ended when dropped.
struct Holder(Child);

impl Holder {
    fn new(unshare: &[&str]) -> Check<Self> {
        let mut child = Command::new("unshare")
            .args(unshare)
            .args(["busybox", "sh", "-c", "echo ready; exec sleep 1000"])
            .stdin(Pipe::null())
            .stdout(Pipe::piped())
            .spawn()?;
        let out = child.stdout.take().ok_or("no output")?;
        let holder = Self(child);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line.trim() != "ready" {
            return Err("unshare did not get there".into());
        }
        Ok(holder)
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn a_joined_user_namespace() -> Check {
    let mut w = World::new()?;
    w.open_to(100_000)?;
    let holder = Holder::new(&["--user"])?;
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{}/{file}", holder.0.id()), "0 100000 65536")?;
    }
    with_namespace(&mut w, json!({"type": "user", "path": holder.path("user")}));
    w.spec["process"]["oomScoreAdj"] = json!(500);
    w.sh("id -u; cat /proc/self/uid_map | tr -s ' '; hostname; echo $$; touch /tmp/made && mount | grep -c ' /dev ' ; cat /proc/self/oom_score_adj");
    let all = lines(&w)?;
    let all: Vec<&str> = all.iter().map(|line| line.trim()).collect();
    w.same("in it", all.join(";"), "0;0 100000 65536;inside;1;1;500".to_owned())?;
    use std::os::unix::fs::MetadataExt;
    w.same("made by", std::fs::metadata(w.root().join("tmp/made"))?.uid(), 100_000)?;
    // An exec finds its way, too.
    w.args(&["sleep", "1000"]);
    let created = w.start()?;
    let process: Process =
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
        "args": ["sh", "-c", "cat /proc/self/uid_map | tr -s ' '"], "env": ["PATH=/bin"]}))?;
    let (stdio, out) = world::pipes()?;
    let exec = created.task.exec(&process, stdio);
    let text = world::read_to_end(out);
    if let Ok(exec) = &exec {
        world::reap_fd(&exec.pidfd)?;
    }
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    exec?;
    w.has(&text?, "0 100000 65536")
}

fn joined_namespaces() -> Check {
    let holder = Holder::new(&[
        "--uts",
        "--ipc",
        "--net",
        "--cgroup",
        "--time",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ])?;
    // The child of unshare is in the new pid namespace.
    let kids = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", holder.0.id()))?;
    let inner: i32 = kids.split_whitespace().next().ok_or("no child")?.parse()?;
    let mut w = World::new()?;
    w.spec["hostname"] = Value::Null;
    for (kind, file) in [
        ("uts", "uts"),
        ("ipc", "ipc"),
        ("network", "net"),
        ("cgroup", "cgroup"),
        ("time", "time"),
        ("pid", "pid"),
    ] {
        let path = format!("/proc/{inner}/ns/{file}");
        with_namespace(&mut w, json!({"type": kind, "path": path}));
    }
    w.sh("for n in uts ipc net cgroup time pid; do readlink /proc/self/ns/$n; done");
    let want: Vec<String> = ["uts", "ipc", "net", "cgroup", "time", "pid"]
        .iter()
        .map(|n| Ok(std::fs::read_link(format!("/proc/{inner}/ns/{n}"))?.display().to_string()))
        .collect::<Check<_>>()?;
    w.same("joined", lines(&w)?, want)?;
    let wrong = format!("/proc/{inner}/ns/uts");
    with_namespace(&mut w, json!({"type": "ipc", "path": wrong}));
    let error = w.refused()?;
    w.same("kind", error.kind(), ErrorKind::Invalid)?;
    w.has(&error.to_string(), "of another type")
}

fn oom_score_in_a_user_namespace() -> Check {
    let mut w = World::new()?;
    in_user_namespace(&mut w)?;
    w.spec["process"]["oomScoreAdj"] = json!(321);
    w.args(&["cat", "/proc/self/oom_score_adj"]);
    w.same("score", lines(&w)?.join(""), "321".to_owned())
}

fn hook_script(w: &World, name: &str) -> Value {
    let log = w.path("log");
    json!({"path": "/bin/sh", "env": ["WHICH=hello"], "args": ["sh", "-c",
        format!("echo {name} $WHICH $HOME $(cat) >>{}", log.display())]})
}

fn six_kinds_of_hooks() -> Check {
    let mut w = World::new()?;
    let names = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    for name in names {
        w.spec["hooks"][name] = json!([hook_script(&w, name)]);
    }
    w.spec["hooks"]["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer $(hostname) >/tmp/log; cat >>/tmp/log"]}]);
    w.spec["annotations"] = json!({"key": "value"});
    w.args(&["sleep", "1000"]);
    let mut created = w.create(None, Stdio::Inherit)?;
    created.start()?;
    let pid = created.task.pid;
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    let spec = w.spec()?;
    wharf_runtime::run_poststop_hooks(&spec, &w.id, Path::new("/"))?;
    let log = std::fs::read_to_string(w.path("log"))?;
    let order: Vec<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    w.same("order", order, names.to_vec())?;
    for (line, status) in
        log.lines().zip(["creating", "creating", "creating", "running", "stopped"])
    {
        // No environment but its own.
        let (_, state) = line.split_once(" hello ").ok_or("no environment")?;
        let state: Value = serde_json::from_str(state.trim())?;
        w.same("status", state["status"].clone(), json!(status))?;
        w.same("id", state["id"].clone(), json!(w.id))?;
        w.same("annotations", state["annotations"].clone(), json!({"key": "value"}))?;
        let want = if status == "stopped" { json!(0) } else { json!(pid) };
        w.same("pid", state["pid"].clone(), want)?;
    }
    let inside = std::fs::read_to_string(w.root().join("tmp/log"))?;
    w.has(&inside, "startContainer inside")?;
    w.has(&inside, "\"created\"")
}

fn hooks_that_fail() -> Check {
    for name in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        let mut w = World::new()?;
        w.args(&["sleep", "1000"]);
        w.spec["hooks"][name] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
        w.spec["hooks"]["poststop"] = json!([hook_script(&w, "poststop")]);
        let error = w.refused()?;
        w.has(&error.to_string(), &format!("{name} hook #0"))?;
        w.same("cgroup left", w.cgroup_exists(), false)?;
        if !["startContainer", "poststart"].contains(&name) {
            // After create has failed nobody else would run it.
            w.has(&std::fs::read_to_string(w.path("log"))?, "poststop")?;
        }
    }
    let mut w = World::new()?;
    w.spec["hooks"]["createRuntime"] =
        json!([{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]);
    let error = w.refused()?;
    w.same("kind", error.kind(), ErrorKind::Deadline)
}

fn domain_name() -> Check {
    let mut w = World::new()?;
    w.spec["domainname"] = json!("example.test");
    w.args(&["cat", "/proc/sys/kernel/domainname"]);
    w.same("name", lines(&w)?.join(""), "example.test".to_owned())
}

fn what_this_host_has_not() -> Check {
    let mut w = World::new()?;
    let has = |kind: &str| {
        std::fs::read_to_string("/proc/self/mountinfo")
            .is_ok_and(|t| t.contains(&format!(" - {kind} ")))
    };
    if !has("resctrl") {
        w.spec["linux"]["intelRdt"] = json!({"closID": "gold"});
        let error = w.refused()?;
        w.same("kind", error.kind(), ErrorKind::Unsupported)?;
        w.has(&error.to_string(), "linux.intelRdt")?;
    }
    let mut w = World::new()?;
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        w.spec["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
        let error = w.refused()?;
        w.same("kind", error.kind(), ErrorKind::Unsupported)?;
        w.has(&error.to_string(), "linux.mountLabel")?;
    }
    Ok(())
}

fn devices_that_do_not_match() -> Check {
    let mut w = World::new()?;
    std::fs::write(w.root().join("thing"), "not a device")?;
    w.spec["linux"]["devices"] = json!([{"path": "/thing", "type": "c", "major": 1, "minor": 3}]);
    let error = w.refused()?;
    w.same("kind", error.kind(), ErrorKind::AlreadyExists)?;
    w.same("as it was", std::fs::read_to_string(w.root().join("thing"))?.as_str(), "not a device")
}

/// A hook in the container is under the container's filter, and has no descriptor but its own.
fn hooks_run_behind_the_filter() -> Check {
    let mut w = World::new()?;
    w.sh("echo ran");
    w.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    let hook = |script: &str| json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    w.spec["hooks"] = hook("! mkdir /tmp/x && [ $(ls /proc/self/fd | wc -l) = 4 ]");
    w.same("output", lines(&w)?.join(" "), "ran".to_owned())?;
    w.spec["linux"]["seccomp"]["syscalls"][0]["action"] = json!("SCMP_ACT_KILL_PROCESS");
    w.spec["hooks"] = hook("exec mkdir /tmp/x");
    w.has(&w.refused()?.to_string(), "bad system call")
}
