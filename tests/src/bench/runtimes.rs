//! The runtimes alone: `run` of `true`, one process a life, no daemon, under Docker's default seccomp
//! profile (as Debian's `golang-github-containers-common` has it) and capabilities. Also what a run
//! takes of memory and of system calls.
//!
//! crun refuses a hybrid cgroup set-up, so all of them run in a private mount namespace in which the
//! cgroup2 mount is taken away; the bench starts itself again in there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::spec;
use crate::{host, image::Image};

/// The argument that makes this program the loop inside the namespace.
pub const LOOP: &str = "runtime-loop";

/// Instead of a count: one life each for memory and system calls.
const FACTS: &str = "facts";
/// The default profile, in the form that Docker and podman read.
const PROFILE: &str = "/usr/share/containers/seccomp.json";
/// The bundle that is measured.
const TRUE: &str = "true";
/// The bundle that stays until it is killed.
const STAYS: &str = "stays";
/// The bundle that proves that a container runs at all.
const PROOF: &str = "proof";
const ALIVE: &str = "alive";
/// Parent of the containers' cgroups.
const CGROUP: &str = "wharf-bench-runtime";

/// A runtime with runc's command line.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// As the table calls it.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
}

/// Wharf's runtime first, then those that are installed.
#[must_use]
pub fn all() -> Vec<Runtime> {
    let own = host::binary("wharf-runtime").ok();
    let mut found: Vec<_> =
        own.into_iter().map(|program| Runtime { name: "wharf-runtime".into(), program }).collect();
    for name in ["crun", "runc"] {
        if let Some(program) = host::tool(name) {
            found.push(Runtime { name: name.into(), program });
        }
    }
    found
}

/// A bundle of the image in a folder.
#[derive(Debug)]
pub struct Bundle {
    folder: TempDir,
}

impl Bundle {
    /// Unpacks the image's layers and writes config.json.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn new(base: &Path, image: &Image) -> Result<Self> {
        let folder = TempDir::with_prefix_in("w-bundle-", base).context("make a bundle")?;
        let rootfs = folder.path().join("rootfs");
        fs::create_dir(&rootfs)?;
        for layer in &image.layers {
            tar::Archive::new(layer.tar.as_slice()).unpack(&rootfs).context("unpack a layer")?;
        }
        let profile = profile()?;
        for (name, args) in [
            (TRUE, ["/bin/true"].as_slice()),
            (PROOF, &["/bin/echo", ALIVE]),
            (STAYS, &["/bin/sleep", "1000"]),
        ] {
            let mut config = spec::spec(args, &format!("/{CGROUP}/{name}"));
            config["linux"]["seccomp"] = profile.clone();
            config["root"]["path"] = rootfs.display().to_string().into();
            fs::create_dir(folder.path().join(name))?;
            fs::write(folder.path().join(name).join("config.json"), config.to_string())?;
        }
        Ok(Self { folder })
    }

    /// Times of `count` lives.
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn measure(&self, runtime: &Runtime, count: usize) -> Result<Vec<Duration>> {
        let nanos = self.inside(runtime, &count.to_string())?;
        Ok(nanos.into_iter().map(Duration::from_nanos).collect())
    }

    /// Peak memory of the process that runs a container, in KiB, and the system calls of a run with
    /// all its processes (0 without strace).
    ///
    /// # Errors
    /// When the runtime fails.
    pub fn facts(&self, runtime: &Runtime) -> Result<(u64, u64)> {
        match self.inside(runtime, FACTS)?.as_slice() {
            [kib, calls] => Ok((*kib, *calls)),
            other => bail!("{}: facts are {other:?}", runtime.name),
        }
    }

    fn inside(&self, runtime: &Runtime, what: &str) -> Result<Vec<u64>> {
        let me = std::env::current_exe().context("own path")?;
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c"])
            .arg("umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"")
            .arg("sh")
            .args([&me, Path::new(LOOP), &runtime.program, self.folder.path()])
            .arg(what)
            .env_remove("RUST_BACKTRACE")
            .env_remove("RUST_LIB_BACKTRACE")
            .stdin(Stdio::null())
            .output()
            .context("run unshare")?;
        if !output.status.success() {
            bail!("{}: {}", runtime.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8_lossy(&output.stdout)
            .split_whitespace()
            .map(|number| number.parse().context("a number"))
            .collect()
    }
}

/// Docker's default profile for the bundle's capabilities, resolved as Docker would.
fn profile() -> Result<Value> {
    let text = fs::read(PROFILE)
        .with_context(|| format!("{PROFILE}: install golang-github-containers-common"))?;
    let all: Value = serde_json::from_slice(&text).context("read the default profile")?;
    let own = spec::process(&[])["capabilities"]["bounding"].clone();
    let names = |value: &Value| -> Vec<Value> { value.as_array().cloned().unwrap_or_default() };
    let own = names(&own);
    let fits = |entry: &&Value| {
        let arches = names(&entry["includes"]["arches"]);
        let machine = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        (arches.is_empty() || arches.iter().any(|arch| arch == machine))
            && names(&entry["includes"]["caps"]).iter().all(|cap| own.contains(cap))
            && !names(&entry["excludes"]["caps"]).iter().any(|cap| own.contains(cap))
    };
    let entries = names(&all["syscalls"]);
    let entries: Vec<Value> = entries
        .iter()
        .filter(fits)
        .map(|entry| {
            let kept = ["names", "action", "args", "errnoRet"];
            let fields = kept.iter().filter(|key| !entry[**key].is_null());
            fields.map(|key| ((*key).to_owned(), entry[*key].clone())).collect::<Map<_, _>>().into()
        })
        .collect();
    let arches = if cfg!(target_arch = "x86_64") {
        json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    } else {
        json!(["SCMP_ARCH_AARCH64"])
    };
    Ok(json!({"defaultAction": all["defaultAction"], "defaultErrnoRet": all["defaultErrnoRet"],
        "architectures": arches, "syscalls": entries}))
}

/// Peak memory of the runtime's process while its container runs. By the container, not by a time:
/// the peak is read when the program is there.
fn peak_kib(program: &str, state: &Path, bundles: &str) -> Result<u64> {
    let mut child = Command::new(program)
        .arg("--root")
        .arg(state)
        .args(["run", "--bundle", &format!("{bundles}/{STAYS}"), "stays"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    let pid = child.id();
    let end = Instant::now() + Duration::from_secs(30);
    let found = loop {
        // Whichever of its threads it was that forked.
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children: String = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .collect();
        let is_there = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "sleep")
        };
        if let Some(inner) = children.split_whitespace().find(is_there) {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            Command::new("kill").args(["-KILL", inner]).status().context("kill")?;
            break kib;
        }
        if Instant::now() > end {
            child.kill()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    child.wait()?;
    // Gone already, unless something went wrong.
    let mut delete = Command::new(program);
    delete.arg("--root").arg(state).args(["delete", "--force", "stays"]);
    drop(delete.stdout(Stdio::null()).stderr(Stdio::null()).status());
    found.with_context(|| format!("{program}: its container did not come up"))
}

/// System calls of one run, of all its processes.
fn calls(program: &str, state: &Path, bundles: &str) -> Result<u64> {
    let Some(strace) = host::tool("strace") else { return Ok(0) };
    let counts = state.join("counts");
    let status = Command::new(strace)
        .args(["-f", "-c", "-o"])
        .arg(&counts)
        .args([program, "--root"])
        .arg(state)
        .args(["run", "--bundle", &format!("{bundles}/{TRUE}"), "counted"])
        .stdin(Stdio::null())
        .status()
        .context("run strace")?;
    if !status.success() {
        bail!("{program} under strace: {status}");
    }
    let text = fs::read_to_string(counts)?;
    // % time, seconds, usecs/call, calls, errors if any, "total"
    let total = text.lines().rfind(|line| line.ends_with(" total"));
    let number = total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    number.context("strace counted nothing")
}

/// The loop: nanoseconds of each life, one a line; or, for [`FACTS`], memory and system calls.
/// `bundles` holds the bundles.
///
/// # Errors
/// When the runtime fails.
pub fn run_loop(program: &str, bundles: &str, what: &str) -> Result<Vec<u128>> {
    let state = TempDir::with_prefix("w-runtime-").context("make a folder")?;
    let run = |bundle: &str, id: &str| -> Result<String> {
        let output = Command::new(program)
            .arg("--root")
            .arg(state.path())
            .args(["run", "--bundle", &format!("{bundles}/{bundle}"), id])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {program}"))?;
        if !output.status.success() {
            bail!("{program}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let said = run(PROOF, "proof")?;
    if said != ALIVE {
        bail!("{program} ran `echo {ALIVE}` and said {said:?}");
    }
    if what == FACTS {
        let kib = peak_kib(program, state.path(), bundles)?;
        let calls = calls(program, state.path(), bundles)?;
        super::remove_cgroup(CGROUP);
        return Ok(vec![kib.into(), calls.into()]);
    }
    let mut times = Vec::new();
    for n in 0..what.parse::<usize>().context("a count")? {
        let begin = Instant::now();
        run(TRUE, &format!("bench-{n}"))?;
        times.push(begin.elapsed().as_nanos());
    }
    super::remove_cgroup(CGROUP);
    Ok(times)
}
