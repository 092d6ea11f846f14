//! A world of its own for each check: root file system, spec, cgroup; gone when dropped.
#![allow(dead_code, clippy::print_stdout)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_runtime::spec::Spec;
use wharf_runtime::{CreateRequest, Created, Error, Rootfs, RootfsMount, Stdio, Task};

pub(crate) type Check<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A check and its name.
pub(crate) type Named = (&'static str, fn() -> Check);

/// Runs the checks whose name has one of the arguments in it; exits with 1 if one failed.
pub(crate) fn main(checks: &[Named]) {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if let Some(why) = cannot() {
        println!("skipped: {why}");
        return;
    }
    let mut failed = 0;
    for (name, check) in checks {
        if !wanted.is_empty() && !wanted.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        match check() {
            Ok(()) => println!("ok      {name}"),
            Err(error) => {
                failed += 1;
                println!("FAILED  {name}: {error}");
            }
        }
    }
    std::process::exit(i32::from(failed > 0));
}

fn cannot() -> Option<&'static str> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return Some("needs root");
    }
    (!Path::new("/usr/bin/busybox").exists()).then_some("needs Debian's busybox-static")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

impl Ended {
    /// For scripts whose last command may say 1.
    pub(crate) fn or_zero(self, other: Ended) -> Ended {
        if other == Ended::Code(0) { other } else { self }
    }
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) spec: Value,
}

impl World {
    pub(crate) fn new() -> Check<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir()?;
        let bin = dir.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy("/usr/bin/busybox", bin.join("busybox"))?;
        for name in [
            "sh", "sleep", "cat", "echo", "ls", "id", "hostname", "grep", "wc", "head", "sed",
            "mount", "mknod", "tty", "stty", "ip", "ln", "mkdir", "true", "touch", "stat",
            "readlink", "env", "chmod", "uname", "cut", "tr", "sort", "tail",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(name))?;
        }
        std::fs::create_dir_all(dir.path().join("rootfs/tmp"))?;
        let spec = default_spec(&id);
        Ok(Self { dir, id, spec })
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("rootfs")
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// Hands the root to a user that a namespace maps, and lets it pass.
    pub(crate) fn open_to(&self, id: u32) -> Check {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.dir.path(), std::fs::Permissions::from_mode(0o755))?;
        for below in ["rootfs", "rootfs/tmp", "rootfs/bin"] {
            std::os::unix::fs::chown(self.path(below), Some(id), Some(id))?;
        }
        Ok(())
    }

    pub(crate) fn args(&mut self, args: &[&str]) {
        self.spec["process"]["args"] = json!(args);
    }

    pub(crate) fn sh(&mut self, script: &str) {
        self.args(&["sh", "-c", script]);
    }

    pub(crate) fn mount(&mut self, mount: Value) {
        if let Some(list) = self.spec["mounts"].as_array_mut() {
            list.push(mount);
        }
    }

    /// An overlay over the root, of as many lower layers.
    pub(crate) fn overlay(&self, layers: usize) -> Check<Vec<RootfsMount>> {
        let mut lower = Vec::new();
        for n in 1..layers {
            let dir = self.path(&format!("layers/a-name-that-takes-some-room-{n}/fs"));
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(format!("layer-{n}")), n.to_string())?;
            lower.push(dir.display().to_string());
        }
        lower.push(self.root().display().to_string());
        for dir in ["upper", "work", "target"] {
            std::fs::create_dir_all(self.path(dir))?;
        }
        Ok(vec![RootfsMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                format!("lowerdir={}", lower.join(":")),
                format!("upperdir={}", self.path("upper").display()),
                format!("workdir={}", self.path("work").display()),
            ],
        }])
    }

    pub(crate) fn spec(&self) -> Check<Spec> {
        Ok(serde_json::from_value(self.spec.clone())?)
    }

    pub(crate) fn create(&self, parts: Option<&[RootfsMount]>, stdio: Stdio) -> Check<Created> {
        let spec = self.spec()?;
        Ok(self.try_create(&spec, parts, stdio)?)
    }

    fn try_create(
        &self,
        spec: &Spec,
        parts: Option<&[RootfsMount]>,
        stdio: Stdio,
    ) -> Result<Created, Error> {
        let rootfs = match parts {
            Some(parts) => Rootfs::Mounts(parts),
            None => Rootfs::Path(Path::new("rootfs")),
        };
        let created = wharf_runtime::create(CreateRequest {
            id: &self.id,
            bundle: self.dir.path(),
            spec,
            rootfs,
            stdio,
        })?;
        for warning in &created.warnings {
            println!("        warning: {warning}");
        }
        Ok(created)
    }

    pub(crate) fn start(&self) -> Check<Created> {
        let mut created = self.create(None, Stdio::Inherit)?;
        created.start()?;
        Ok(created)
    }

    pub(crate) fn run(&self) -> Check<(String, Ended)> {
        self.run_with(None)
    }

    pub(crate) fn run_with(&self, parts: Option<&[RootfsMount]>) -> Check<(String, Ended)> {
        let (stdio, out) = pipes()?;
        let mut created = self.create(parts, stdio)?;
        created.start()?;
        let text = read_to_end(out)?;
        let ended = reap(&created.task)?;
        created.task.destroy()?;
        self.same("cgroup left", self.cgroup_exists(), false)?;
        Ok((text, ended))
    }

    /// The error of a container that must not come to be.
    pub(crate) fn refused(&self) -> Check<Error> {
        let spec = self.spec()?;
        let mut created = match self.try_create(&spec, None, Stdio::Inherit) {
            Err(error) => return Ok(error),
            Ok(created) => created,
        };
        let started = created.start();
        created.task.destroy()?;
        match started {
            Err(error) => Ok(error),
            Ok(()) => Err("it started".into()),
        }
    }

    pub(crate) fn cgroup_exists(&self) -> bool {
        ["", "memory", "pids", "unified", "devices"]
            .iter()
            .any(|c| Path::new("/sys/fs/cgroup").join(c).join("wharf-test").join(&self.id).exists())
    }

    pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        got: T,
        want: T,
    ) -> Check {
        if got == want { Ok(()) } else { Err(format!("{what}: {got:?}, not {want:?}").into()) }
    }

    pub(crate) fn has(&self, text: &str, part: &str) -> Check {
        if text.contains(part) { Ok(()) } else { Err(format!("no {part:?} in {text:?}").into()) }
    }
}

fn default_spec(id: &str) -> Value {
    let none = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
            "env": ["PATH=/usr/bin:/bin"], "noNewPrivileges": true,
            "capabilities": {"bounding": ["CAP_KILL", "CAP_MKNOD"], "effective": ["CAP_KILL", "CAP_MKNOD"],
                "permitted": ["CAP_KILL", "CAP_MKNOD"]}},
        "root": {"path": "rootfs"},
        "hostname": "inside",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": none},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": none},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("/wharf-test/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// Empty input, output and error together in one pipe.
pub(crate) fn pipes() -> Check<(Stdio, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    let stdin = OwnedFd::from(File::open("/dev/null")?);
    let stderr = OwnedFd::from(writer.try_clone()?);
    Ok((Stdio::Fds { stdin, stdout: OwnedFd::from(writer), stderr }, OwnedFd::from(reader)))
}

pub(crate) fn write_all(fd: &OwnedFd, bytes: &[u8]) -> Check {
    Ok(File::from(fd.try_clone()?).write_all(bytes)?)
}

/// To the end; a terminal ends with an error when its last user is gone.
pub(crate) fn read_to_end(fd: OwnedFd) -> Check<String> {
    let (mut file, mut all, mut part) = (File::from(fd), Vec::new(), [0; 4096]);
    loop {
        match file.read(&mut part) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&part[..n]),
            Err(e) if e.raw_os_error() == Some(5) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

pub(crate) fn reap(task: &Task) -> Check<Ended> {
    reap_fd(&task.pidfd)
}

pub(crate) fn reap_fd(pidfd: &OwnedFd) -> Check<Ended> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    use std::os::fd::AsFd;
    let _ = pidfd.as_raw_fd();
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED)? {
        WaitStatus::Exited(_, code) => Ok(Ended::Code(code)),
        WaitStatus::Signaled(_, signal, _) => Ok(Ended::Signal(signal as i32)),
        other => Err(format!("{other:?}").into()),
    }
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> Check<bool>) -> Check {
    let end = Instant::now() + Duration::from_secs(10);
    while !done()? {
        if Instant::now() > end {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}
