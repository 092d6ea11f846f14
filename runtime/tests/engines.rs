//! Engines that run runc, with the command in its place: Debian's containerd by its own shim, podman
//! by conmon, dockerd. One that is not installed is skipped, and that is said.
#![allow(clippy::print_stdout)]

mod world;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use world::{Check, World};

const RUNTIME: &str = env!("CARGO_BIN_EXE_wharf-runtime");

fn main() {
    world::main(&[
        ("containerd_runs_containers", containerd_runs_containers),
        ("podman_runs_containers", podman_runs_containers),
        ("dockerd_runs_containers", dockerd_runs_containers),
    ]);
}

fn tool(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
}

/// Whether all are there; says which is not.
fn have(names: &[&str]) -> bool {
    match names.iter().find(|name| tool(name).is_none()) {
        Some(name) => {
            println!("        skipped: {name} is not installed");
            false
        }
        None => true,
    }
}

/// A daemon; ended, and what it started with it, when dropped.
struct Daemon {
    child: Child,
    /// In the command line of what it leaves running.
    mark: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Shims live on by themselves.
        for entry in std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&self.mark)
                && let Some(pid) = entry.file_name().to_str().filter(|name| *name != "self")
                && pid != std::process::id().to_string()
            {
                let _ = Command::new("kill").args(["-KILL", pid]).status();
            }
        }
    }
}

fn daemon(world: &World, program: &str, args: &[&str]) -> Check<Daemon> {
    let log = std::fs::File::create(world.path("daemon.log"))?;
    let child = Command::new(tool(program).ok_or("not installed")?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(Daemon { child, mark: world.path("").display().to_string() })
}

/// Output and error, and how it ended.
fn text(output: &Output) -> (String, i32) {
    let out = String::from_utf8_lossy(&output.stdout);
    let all = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
    (all, output.status.code().unwrap_or(-1))
}

fn patiently(what: &str, mut done: impl FnMut() -> Check<bool>) -> Check {
    let end = Instant::now() + Duration::from_secs(60);
    while !done()? {
        if Instant::now() > end {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn containerd_runs_containers() -> Check {
    if !have(&["containerd", "ctr", "containerd-shim-runc-v2"]) {
        return Ok(());
    }
    let w = World::new()?;
    let folder = w.path("ctd");
    std::fs::create_dir(&folder)?;
    let at = folder.display();
    let config = format!(
        "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \
         \"io.containerd.snapshotter.v1.aufs\"]\n[grpc]\naddress = \"{at}/s.sock\"\n"
    );
    let path = folder.join("config.toml");
    std::fs::write(&path, config)?;
    let socket = folder.join("s.sock").display().to_string();
    let _daemon = daemon(&w, "containerd", &["--config", &path.display().to_string()])?;
    let ctr = |args: &[&str]| -> Check<(String, i32)> {
        let mut command = Command::new(tool("ctr").ok_or("no ctr")?);
        command.args(["--address", &socket, "--namespace", &w.id]).args(args);
        Ok(text(&command.stdin(Stdio::null()).output()?))
    };
    patiently("containerd", || Ok(ctr(&["version"])?.1 == 0))?;
    let root = w.root().display().to_string();
    let cgroup = format!("/wharf-test/{}", w.id);
    let run = |more: &[&str], id: &str, args: &[&str]| {
        let path = "PATH=/bin";
        let base =
            ["run", "--runc-binary", RUNTIME, "--cgroup", &cgroup, "--env", path, "--rootfs"];
        ctr(&[&base[..], more, &[&root, id], args].concat())
    };
    let (out, code) = run(&["--rm"], "a", &["sh", "-c", "echo hello; exit 7"])?;
    w.same("output", (out.as_str(), code), ("hello\n", 7))?;
    let (out, code) = run(&["-d"], "b", &["sleep", "1000"])?;
    w.same("detached", (out.as_str(), code), ("", 0))?;
    let (out, code) =
        ctr(&["tasks", "exec", "--exec-id", "e", "b", "sh", "-c", "echo in; exit 5"])?;
    w.same("exec", (out.as_str(), code), ("in\n", 5))?;
    let (out, _) = ctr(&["tasks", "exec", "--exec-id", "f", "b", "no-such-program"])?;
    w.has(&out, "executable file not found in $PATH")?;
    w.same("pause", ctr(&["tasks", "pause", "b"])?.1, 0)?;
    w.has(&ctr(&["tasks", "ls"])?.0, "PAUSED")?;
    w.same("resume", ctr(&["tasks", "resume", "b"])?.1, 0)?;
    w.has(&ctr(&["tasks", "metrics", "b"])?.0, "memory")?;
    w.same("kill", ctr(&["tasks", "kill", "-s", "SIGKILL", "b"])?.1, 0)?;
    patiently("its end", || Ok(ctr(&["tasks", "ls"])?.0.contains("STOPPED")))?;
    // Its code is the container's, or not, from version to version.
    let (_, code) = ctr(&["tasks", "delete", "b"])?;
    w.same("delete", [0, 137].contains(&code), true)?;
    w.same("remove", ctr(&["containers", "delete", "b"])?.1, 0)?;
    w.same("cgroup left", w.cgroup_exists(), false)
}

fn podman_runs_containers() -> Check {
    if !have(&["podman", "conmon", "unshare"]) {
        return Ok(());
    }
    let w = World::new()?;
    let podman = |args: &[&str]| -> Check<(String, i32)> {
        // On a hybrid host podman takes what is mounted at unified for its own.
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec podman \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", script, "sh", "--runtime", RUNTIME]);
        for (flag, place) in [("--root", "store"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.args([flag, &w.path(place).display().to_string()]);
        }
        command.args(["--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]);
        Ok(text(&command.args(args).stdin(Stdio::null()).output()?))
    };
    let root = w.root().display().to_string();
    let run = |more: &[&str], args: &[&str]| {
        podman(&[&["run", "--network", "none"][..], more, &["--rootfs", &root], args].concat())
    };
    let (out, code) = run(&["--rm"], &["sh", "-c", "echo hello; exit 7"])?;
    w.has(&out, "hello\n")?;
    w.same("code", code, 7)?;
    w.same("detached", run(&["-d", "--name", &w.id], &["sleep", "1000"])?.1, 0)?;
    let (out, code) = podman(&["exec", &w.id, "sh", "-c", "echo in; exit 5"])?;
    w.has(&out, "in\n")?;
    w.same("exec", code, 5)?;
    w.same("pause", podman(&["pause", &w.id])?.1, 0)?;
    w.same("unpause", podman(&["unpause", &w.id])?.1, 0)?;
    w.has(&podman(&["top", &w.id])?.0, "sleep 1000")?;
    w.same("kill", podman(&["kill", &w.id])?.1, 0)?;
    w.has(&podman(&["wait", &w.id])?.0, "137")?;
    w.same("rm", podman(&["rm", "-f", &w.id])?.1, 0)?;
    // Its codes come from the words of the runtime's errors.
    w.same("not there", run(&["--rm"], &["/nope"])?.1, 127)?;
    w.same("no program", run(&["--rm"], &["/tmp"])?.1, 126)
}

fn dockerd_runs_containers() -> Check {
    if !have(&["dockerd", "docker", "containerd"]) {
        return Ok(());
    }
    let w = World::new()?;
    let folder = w.path("d");
    std::fs::create_dir(&folder)?;
    let at = |name: &str| folder.join(name).display().to_string();
    let host = format!("unix://{}", at("d.sock"));
    let (data, exec, pid) = (at("data"), at("exec"), at("pid"));
    let runtime = format!("wharf={RUNTIME}");
    std::fs::write(folder.join("none.json"), "{}")?;
    let config = at("none.json");
    let parent = format!("/wharf-test/{}", w.id);
    let args = [
        "--host",
        &host,
        "--data-root",
        &data,
        "--exec-root",
        &exec,
        "--pidfile",
        &pid,
        "--add-runtime",
        &runtime,
        "--default-runtime",
        "wharf",
        "--bridge",
        "none",
        "--iptables=false",
        "--ip6tables=false",
        "--storage-driver",
        "vfs",
        "--config-file",
        &config,
        "--cgroup-parent",
        &parent,
        "--exec-opt",
        "native.cgroupdriver=cgroupfs",
    ];
    let mut dockerd = daemon(&w, "dockerd", &args)?;
    let docker = |args: &[&str]| -> Check<(String, i32)> {
        let mut command = Command::new(tool("docker").ok_or("no docker")?);
        Ok(text(&command.args(["--host", &host]).args(args).stdin(Stdio::null()).output()?))
    };
    patiently("dockerd", || {
        if dockerd.child.try_wait()?.is_some() {
            let log = std::fs::read_to_string(w.path("daemon.log")).unwrap_or_default();
            return Err(format!("dockerd ended: {log}").into());
        }
        Ok(docker(&["version"])?.1 == 0)
    })?;
    let tar = w.path("root.tar").display().to_string();
    let root = w.root().display().to_string();
    let packed = Command::new("tar").args(["-C", &root, "-cf", &tar, "."]).status()?;
    w.same("packed", packed.success(), true)?;
    w.same("import", docker(&["import", &tar, "busy"])?.1, 0)?;
    let run = |more: &[&str], args: &[&str]| {
        docker(&[&["run", "--network", "none"][..], more, &["busy"], args].concat())
    };
    let (out, code) = run(&["--rm"], &["sh", "-c", "echo hello; exit 7"])?;
    w.same("output", (out.as_str(), code), ("hello\n", 7))?;
    let (out, code) = run(&["-d", "--name", "box"], &["sleep", "1000"])?;
    w.same(&out, code, 0)?;
    let (out, code) = docker(&["exec", "box", "sh", "-c", "echo in; exit 5"])?;
    w.same("exec", (out.as_str(), code), ("in\n", 5))?;
    let (out, code) = docker(&["exec", "-t", "box", "tty"])?;
    w.same("terminal", (out.trim_end(), code), ("/dev/pts/0", 0))?;
    w.same("pause", docker(&["pause", "box"])?.1, 0)?;
    w.same("unpause", docker(&["unpause", "box"])?.1, 0)?;
    w.same("update", docker(&["update", "--memory", "64m", "--memory-swap", "-1", "box"])?.1, 0)?;
    w.has(&docker(&["top", "box"])?.0, "sleep 1000")?;
    w.same("kill", docker(&["kill", "box"])?.1, 0)?;
    w.has(&docker(&["wait", "box"])?.0, "137")?;
    w.same("rm", docker(&["rm", "-f", "box"])?.1, 0)?;
    w.same("not there", run(&["--rm"], &["/nope"])?.1, 127)?;
    w.same("no program", run(&["--rm"], &["/tmp"])?.1, 126)?;
    drop(dockerd);
    // It leaves the parent that it was given.
    for entry in std::fs::read_dir("/sys/fs/cgroup")?.filter_map(Result::ok) {
        let _ = std::fs::remove_dir(entry.path().join("wharf-test").join(&w.id));
    }
    w.same("cgroup left", w.cgroup_exists(), false)
}
