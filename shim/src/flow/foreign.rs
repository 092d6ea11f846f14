//! Another OCI runtime's program in place of the embedded one: anything with runc's command line.
//!
//! It makes, starts, adds to and removes the container; all else reaches the container as usual,
//! through its pidfd and its cgroup. The root file system is mounted in a mount namespace of the
//! shim's own, so the host never sees it.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use wharf_runtime::{RootfsMount, Stdio as Streams, Task};

use super::Error;
use super::checkpoint::{Checkpoint, Restore, Switch, Work};
use crate::logic::exit::{Ending, Exit};
use crate::sys::{SysError, clock, console, files, pipes, process};

/// For one command.
const PATIENCE: Duration = Duration::from_secs(60);
/// For one that writes or reads all of a container's memory.
const CRIU_PATIENCE: Duration = Duration::from_secs(600);

/// The embedded runtime's command.
const OWN: &str = "wharf-runtime";

/// A runtime, and how it is to be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Foreign {
    /// A path, or a name in PATH.
    pub(crate) binary: PathBuf,
    /// Where it keeps its state; empty: in the bundle.
    pub(crate) root: PathBuf,
    /// Flags before the command.
    pub(crate) args: Vec<String>,
    pub(crate) systemd_cgroup: bool,
    pub(crate) no_pivot: bool,
    pub(crate) no_new_keyring: bool,
    /// criu's program, if another than PATH has is to be used.
    #[serde(default)]
    pub(crate) criu: PathBuf,
}

/// A process that it made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) pty: Option<OwnedFd>,
}

/// Which container, for every command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
}

/// The command of the embedded runtime: it lies beside the shim, or in PATH.
pub(crate) fn own_command() -> PathBuf {
    let shim = process::program();
    let beside = shim.with_file_name(OWN);
    if shim.is_absolute() && beside.exists() { beside } else { OWN.into() }
}

impl Foreign {
    /// What the embedded runtime does not do over its calls, its command does.
    pub(crate) fn own() -> Self {
        Self {
            binary: own_command(),
            root: PathBuf::new(),
            args: Vec::new(),
            systemd_cgroup: false,
            no_pivot: false,
            no_new_keyring: false,
            criu: PathBuf::new(),
        }
    }

    /// Where it keeps its state.
    pub(super) fn root(&self, of: Of<'_>) -> PathBuf {
        if self.root.as_os_str().is_empty() { of.bundle.join("runtime") } else { self.root.clone() }
    }

    fn log(of: Of<'_>) -> PathBuf {
        of.bundle.join("runtime.log")
    }

    fn command(&self, of: Of<'_>, verb: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.args);
        command.arg("--root").arg(self.root(of)).arg("--log").arg(Self::log(of));
        command.args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        if !self.criu.as_os_str().is_empty() {
            command.arg("--criu").arg(&self.criu);
        }
        command.arg(verb).current_dir(of.bundle);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, of: Of<'_>, verb: &'static str, command: Command) -> Result<(), Error> {
        self.run_within(PATIENCE, of, verb, command)
    }

    fn run_within(
        &self,
        patience: Duration,
        of: Of<'_>,
        verb: &'static str,
        mut command: Command,
    ) -> Result<(), Error> {
        files::remove(&Self::log(of))?;
        let child = command.spawn().map_err(|source| {
            let kind = source.kind();
            let error = SysError::new("run", self.binary.display().to_string(), source);
            // As an entrypoint's own absence must not look.
            if kind == std::io::ErrorKind::NotFound {
                Error::NoRuntime(self.binary.clone())
            } else {
                error.into()
            }
        })?;
        drop(command);
        let status = process::wait_command(child, patience)?;
        if status.success() {
            return Ok(());
        }
        let mut text = last_error(&files::read(&Self::log(of)).unwrap_or_default());
        if text.is_empty() {
            let _ = write!(text, "{status}");
        }
        Err(Error::Foreign { binary: self.binary.clone(), verb, text })
    }

    /// Runs a command that makes a process.
    fn make(
        &self,
        of: Of<'_>,
        verb: &'static str,
        mut command: Command,
        streams: Streams,
        last: &str,
    ) -> Result<Made, Error> {
        let patience = if verb == "restore" { CRIU_PATIENCE } else { PATIENCE };
        let pid_file = of.bundle.join("runtime.pid");
        files::remove(&pid_file)?;
        command.arg("--pid-file").arg(&pid_file);
        let (console, window) = match streams {
            Streams::Terminal { size } => {
                let console = console::listen(of.bundle)?;
                command.arg("--console-socket").arg(console.path());
                (Some(console), size)
            }
            Streams::Fds { stdin, stdout, stderr } => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                (None, None)
            }
            Streams::Inherit => (None, None),
        };
        command.arg(last);
        self.run_within(patience, of, verb, command)?;
        let pty = console.map(|console| console.receive(PATIENCE)).transpose()?;
        if let (Some(pty), Some((columns, rows))) = (&pty, window) {
            pipes::resize(pty, columns, rows)?;
        }
        let pid = files::read(&pid_file)?;
        files::remove(&pid_file)?;
        let pid = std::str::from_utf8(&pid).ok().and_then(|text| text.trim().parse().ok());
        let text = "it wrote no pid".to_owned();
        let pid = pid.ok_or(Error::Foreign { binary: self.binary.clone(), verb, text })?;
        Ok(Made { pid, pty })
    }

    /// A container that waits for its start.
    pub(crate) fn create(
        &self,
        of: Of<'_>,
        rootfs: Option<(&[RootfsMount], &Path)>,
        streams: Streams,
    ) -> Result<(Task, Option<OwnedFd>), Error> {
        let mut command = self.create_command(of, "create", rootfs)?;
        if self.no_new_keyring {
            command.arg("--no-new-keyring");
        }
        let made = self.make(of, "create", command, streams, of.id)?;
        self.found(of, made)
    }

    /// A container out of a checkpoint, paused until its start.
    pub(crate) fn restore(
        &self,
        of: Of<'_>,
        rootfs: Option<(&[RootfsMount], &Path)>,
        streams: Streams,
        restore: &Restore,
    ) -> Result<(Task, Option<OwnedFd>), Error> {
        let work = Work::new(of.bundle, restore.work.as_deref());
        let mut command = self.create_command(of, "restore", rootfs)?;
        command.arg("--detach").arg("--image-path").arg(&restore.image);
        command.arg("--work-path").arg(work.path());
        if self.binary.file_name() == Some(OWN.as_ref()) {
            // It starts criu in the cgroup that it has made; criu 3.17 can't restore one of version 2.
            command.args(["--manage-cgroups-mode", "ignore"]);
        }
        if matches!(streams, Streams::Terminal { .. }) {
            command.arg(Switch::Terminal.flag());
        }
        let made = self
            .make(of, "restore", command, streams, of.id)
            .inspect_err(|_| work.keep_log("restore.log"))?;
        let (task, pty) = self.found(of, made)?;
        if let Err(source) = task.pause() {
            self.delete(of)?;
            return Err(Error::Runtime { step: "pause the container", source });
        }
        Ok((task, pty))
    }

    /// Saves the container.
    pub(super) fn checkpoint(&self, of: Of<'_>, asked: &Checkpoint) -> Result<(), Error> {
        let work = Work::new(of.bundle, asked.work.as_deref());
        let mut command = self.command(of, "checkpoint");
        command.arg("--image-path").arg(&asked.image).arg("--work-path").arg(work.path());
        command.args(asked.switches.iter().map(|switch| switch.flag()));
        for namespace in &asked.empty_namespaces {
            command.arg("--empty-ns").arg(namespace);
        }
        if !asked.cgroups_mode.is_empty() {
            command.arg("--manage-cgroups-mode").arg(&asked.cgroups_mode);
        }
        command.arg(of.id);
        self.run_within(CRIU_PATIENCE, of, "checkpoint", command)
            .inspect_err(|_| work.keep_log("dump.log"))
    }

    fn create_command(
        &self,
        of: Of<'_>,
        verb: &str,
        rootfs: Option<(&[RootfsMount], &Path)>,
    ) -> Result<Command, Error> {
        if let Some((mounts, at)) = rootfs {
            process::unshare_mounts()?;
            wharf_runtime::mount_rootfs(mounts, at)
                .map_err(|source| Error::Runtime { step: "mount the root", source })?;
        }
        let mut command = self.command(of, verb);
        command.arg("--bundle").arg(of.bundle);
        if self.no_pivot {
            command.arg("--no-pivot");
        }
        Ok(command)
    }

    fn found(&self, of: Of<'_>, made: Made) -> Result<(Task, Option<OwnedFd>), Error> {
        match Task::of_process(made.pid) {
            Ok(task) => Ok((task, made.pty)),
            Err(source) => {
                self.delete(of)?;
                Err(Error::Runtime { step: "find the container", source })
            }
        }
    }

    pub(crate) fn start(&self, of: Of<'_>) -> Result<(), Error> {
        let mut command = self.command(of, "start");
        command.arg(of.id);
        self.run(of, "start", command)
    }

    /// `process`: as OCI JSON.
    pub(crate) fn exec(&self, of: Of<'_>, process: &[u8], streams: Streams) -> Result<Made, Error> {
        let file = of.bundle.join("runtime.process");
        files::write_atomic(&file, process)?;
        let mut command = self.command(of, "exec");
        command.arg("--detach").arg("--process").arg(&file);
        let made = self.make(of, "exec", command, streams, of.id);
        files::remove(&file)?;
        made
    }

    /// New limits, as OCI JSON.
    pub(crate) fn update(&self, of: Of<'_>, resources: &[u8]) -> Result<(), Error> {
        let file = of.bundle.join("runtime.resources");
        files::write_atomic(&file, resources)?;
        let mut command = self.command(of, "update");
        command.arg("--resources").arg(&file).arg(of.id);
        let done = self.run(of, "update", command);
        files::remove(&file)?;
        done
    }

    /// Gone already is fine.
    pub(crate) fn delete(&self, of: Of<'_>) -> Result<(), Error> {
        let mut command = self.command(of, "delete");
        command.arg("--force").arg(of.id);
        match self.run(of, "delete", command) {
            Err(Error::Foreign { text, .. }) if text.contains("does not exist") => Ok(()),
            done => done,
        }
    }
}

/// The last message of a runtime's log that says what went wrong.
fn last_error(log: &[u8]) -> String {
    let lines = log.rsplit(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut messages = lines.map(|line| match serde_json::from_slice::<serde_json::Value>(line) {
        Ok(line) => line["msg"].as_str().unwrap_or_default().to_owned(),
        Err(_) => String::from_utf8_lossy(line).into_owned(),
    });
    messages.next().unwrap_or_default()
}

/// A process that could not be begun ends as in a shell, whichever runtime says so.
pub(crate) fn not_started(error: Error) -> Error {
    let Error::Foreign { text, .. } = &error else { return error };
    let text = text.to_lowercase();
    let code = if text.contains("permission denied") {
        126
    } else if text.contains("no such file") || text.contains("not found") {
        127
    } else {
        return error;
    };
    let exit = Exit::new(0, Ending::Code(code), false, clock::unix_ns());
    Error::NotStarted { exit, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::{Error, last_error, not_started};

    #[test]
    fn messages_of_runtimes() {
        let log = b"{\"level\":\"warning\",\"msg\":\"w\"}\n{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": executable file not found in $PATH\"}\n";
        let text = last_error(log);
        assert!(text.ends_with("not found in $PATH"), "{text}");
        let error = not_started(Error::Foreign { binary: "runc".into(), verb: "start", text });
        assert_eq!(error.exit().expect("an exit").exit_code, 127);
        assert_eq!(last_error(b""), "");
    }
}
