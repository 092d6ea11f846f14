//! Programs of the spec that run at the turns of a container's life, with its state on their
//! standard input.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::spec::{Hook, Hooks, Spec};

use crate::error::{Error, ErrorKind, Failure, Step};
use crate::sys::process;
use crate::sys::sealed::memory_file;

/// For a hook that names none; a hook that hangs must not hang its container for ever.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// A container as its hooks are told of it.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) hooks: Option<Hooks>,
    head: serde_json::Value,
    /// Whether one has run: then poststop's are owed even to a container that did not come to be.
    began: Cell<bool>,
}

impl Subject {
    pub(crate) fn new(spec: &Spec, id: &str, bundle: &Path) -> Self {
        let head = serde_json::json!({
            "ociVersion": spec.version(),
            "id": id,
            "bundle": bundle,
            "annotations": spec.annotations().clone().unwrap_or_default(),
        });
        Self { hooks: spec.hooks().clone(), head, began: Cell::new(false) }
    }

    /// The state but for status and pid.
    pub(crate) fn head(&self) -> &serde_json::Value {
        &self.head
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.began.get()
    }

    fn state(&self, status: &str, pid: i32) -> Vec<u8> {
        let mut state = self.head.clone();
        state["status"] = status.into();
        state["pid"] = pid.into();
        state.to_string().into_bytes()
    }

    /// Whether something runs between the mounts and the change of root.
    pub(crate) fn any_before_pivot(&self) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| {
            let some = |list: &Option<Vec<Hook>>| list.as_ref().is_some_and(|l| !l.is_empty());
            // Deprecated by the spec; still what NVIDIA's toolkit uses.
            let prestart = some(hooks.prestart());
            prestart || some(hooks.create_runtime()) || some(hooks.create_container())
        })
    }

    /// In the runtime's namespaces, before the container's root is the root.
    pub(crate) fn create_runtime(&self, pid: i32) -> Result<(), Failure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        let state = self.state("creating", pid);
        self.began.set(true);
        run("prestart", hooks.prestart().as_deref(), &state)?;
        run("createRuntime", hooks.create_runtime().as_deref(), &state)
    }

    /// In the container's namespaces, before its root is the root.
    pub(crate) fn create_container(&self, pid: i32) -> Result<(), Failure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        run("createContainer", hooks.create_container().as_deref(), &self.state("creating", pid))
    }

    /// Whether any runs in the container.
    pub(crate) fn any_at_start(&self) -> bool {
        let list = self.hooks.as_ref().and_then(|hooks| hooks.start_container().as_ref());
        list.is_some_and(|list| !list.is_empty())
    }

    /// In the container, just before its program.
    pub(crate) fn start_container(&self, pid: i32, env: &[CString]) -> Result<(), Failure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        let Some(mut own) = hooks.start_container().clone() else { return Ok(()) };
        for hook in &mut own {
            if hook.env().is_none() {
                // As runc always had it for these.
                let all = env.iter().map(|entry| entry.to_string_lossy().into_owned());
                hook.set_env(Some(all.collect()));
            }
        }
        run("startContainer", Some(&own), &self.state("created", pid))
    }

    /// After the program has begun.
    pub(crate) fn poststart(&self, pid: i32) -> Result<(), Failure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        run("poststart", hooks.poststart().as_deref(), &self.state("running", pid))
    }

    /// After the container is gone. All run, whatever the others say; the first failure is given.
    pub(crate) fn poststop(&self) -> Result<(), Failure> {
        let Some(hooks) = &self.hooks else { return Ok(()) };
        let state = self.state("stopped", 0);
        let mut first = Ok(());
        for (index, hook) in hooks.poststop().iter().flatten().enumerate() {
            let done = run_one(hook, &state).map_err(|f| named("poststop", index, f));
            first = first.and(done);
        }
        first
    }
}

/// Refuses hooks that can't be run, before anything is made.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let lists = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (name, list) in lists {
        for (index, hook) in list.iter().flatten().enumerate() {
            let refuse = |field: &str, reason: &str| Error::Spec {
                field: format!("hooks.{name}[{index}].{field}"),
                reason: reason.to_owned(),
            };
            if !hook.path().is_absolute() {
                return Err(refuse("path", "must be an absolute path"));
            }
            if hook.timeout().is_some_and(|timeout| timeout <= 0) {
                return Err(refuse("timeout", "must be above 0"));
            }
        }
    }
    Ok(())
}

fn named(name: &str, index: usize, failure: Failure) -> Failure {
    // runc's words, by which its callers know this case.
    Failure { step: format!("error running {name} hook #{index}: {}", failure.step), ..failure }
}

fn run(name: &str, hooks: Option<&[Hook]>, state: &[u8]) -> Result<(), Failure> {
    for (index, hook) in hooks.unwrap_or(&[]).iter().enumerate() {
        run_one(hook, state).map_err(|failure| named(name, index, failure))?;
    }
    Ok(())
}

/// How a hook ended; some callers know a signal by these words of Go's.
fn words(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    let name = match status.signal() {
        Some(6) => "aborted",
        Some(9) => "killed",
        Some(11) => "segmentation fault",
        Some(15) => "terminated",
        Some(31) => "bad system call",
        _ => return status.to_string(),
    };
    format!("signal: {name}")
}

/// The end of what a hook said.
fn tail(said: &OwnedFd) -> String {
    const MOST: u64 = 2048;
    let mut bytes = Vec::new();
    // A copy has the same place in the file, which is at its end.
    if let Ok(mut file) = said.try_clone().map(File::from) {
        let end = file.seek(SeekFrom::End(0)).unwrap_or(0);
        let _ = file.seek(SeekFrom::Start(end.saturating_sub(MOST)));
        let _ = file.take(MOST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<(), Failure> {
    let step = || format!("run {}", hook.path().display());
    let mut command = Command::new(hook.path());
    if let Some((first, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(first).args(rest);
    }
    command.env_clear();
    command.envs(hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')));
    // What it says goes into the error; into memory, so that it never waits for a reader.
    let said = memory_file("hook").step(step)?;
    let errors = said.try_clone().step(step)?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(errors);
    let mut child = command.spawn().step(step)?;
    let pidfd = process::pidfd_open(child.id() as i32).step(step)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook may end without reading. The state is shorter than a pipe.
        let _ = stdin.write_all(state);
    }
    let timeout = match hook.timeout() {
        Some(seconds) => Duration::from_secs(seconds.unsigned_abs()),
        None => DEFAULT_TIMEOUT,
    };
    let ended = process::pidfd_ended(pidfd.as_fd(), timeout).step(step)?;
    if !ended {
        // It is ours and not reaped, so it is still the one.
        let _ = child.kill();
    }
    let status = child.wait().step(step)?;
    match (ended, status.success()) {
        (true, true) => Ok(()),
        (true, false) => {
            let text = format!("{}, stderr: {}", words(status), tail(&said));
            Err(Failure::new(ErrorKind::Internal, step(), text))
        }
        (false, _) => {
            let text = format!("timeout after {} s", timeout.as_secs());
            Err(Failure::new(ErrorKind::Deadline, step(), text))
        }
    }
}
