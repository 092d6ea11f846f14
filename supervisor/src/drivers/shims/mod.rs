//! Shims: started, found again after a restart, spoken to, cleaned up after.
//!
//! ```text
//! spawn ── "wharf-shim … start", cwd = bundle ──▶ prints the address of its socket, ends
//!                                                  └─ server: detached, in the background
//! connect ─ ttrpc: containerd's Task service, and Wharf's own beside it
//! adopt ─── "wharf-shim … adopt": goes on with the container of a shim that was killed
//! ```
//! Must not: decide what a container should be doing, or outlive a deadline.

mod bundle;
mod death;
mod error;
mod events;
mod foreign;
mod keep;
mod launch;
mod runtimes;
mod ttrpc;
mod usage;

use std::{path::Path, sync::Arc, time::Duration};

pub use bundle::Bundle;
pub use death::Death;
pub use error::ShimError;
pub use foreign::{OutOfMemory, Place};
pub use keep::{Keeper, Kept};
pub use launch::Launcher;
use prost::Message as _;
pub use runtimes::{OWN, Runtime, Runtimes};
pub use usage::Usage;
use wharf_proto::{
    containerd::runc::v1::ProcessDetails,
    shim::{
        CREATE_OPTIONS_TYPE_URL, CreateOptions, ExitRecord, InfoRequest, InfoResponse,
        ReadOutputRequest, ReadOutputResponse, SERVICE, STDIO_IN_SHIM, WaitExitRequest,
        WriteStdinRequest,
    },
    task::{
        CloseIoRequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse,
        ExecProcessRequest, KillRequest, Mount, PROCESS_TYPE_URL, PauseRequest, PidsRequest,
        PidsResponse, RESOURCES_TYPE_URL, ResizePtyRequest, ResumeRequest, SERVICE_V3,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
        StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
};

use foreign::Foreign;
use ttrpc::Client;

/// Bound on a call that makes or ends something.
const LONG: Duration = Duration::from_secs(30);
/// Bound on a call that only asks or signals.
const SHORT: Duration = Duration::from_secs(5);
/// Bound on a question for figures.
const QUICK: Duration = Duration::from_secs(2);
/// How long one question for output waits in the shim.
const POLL: Duration = Duration::from_secs(20);

/// A connected shim; clones share the connection.
#[derive(Clone, Debug)]
pub struct Shim {
    client: Client,
    id: String,
    /// `None`: it is ours.
    foreign: Option<Arc<Foreign>>,
}

/// What a task gets for its stdio and root file system.
#[derive(Debug)]
pub struct CreateTask<'a> {
    /// Of the bundle.
    pub bundle: &'a Path,
    /// The root file system, as the snapshotter tells it.
    pub rootfs: Vec<Mount>,
    /// A pty in place of pipes.
    pub terminal: bool,
    /// Log, stdin and window.
    pub options: CreateOptions,
    /// Our shim's program, which writes the log for a foreign one.
    pub logger: &'a Path,
}

impl Shim {
    /// Connects to the socket of container `id`'s shim.
    ///
    /// # Errors
    /// [`ShimError::Rpc`] when nobody listens there.
    pub async fn connect(socket: &Path, id: &str) -> Result<Self, ShimError> {
        let client = tokio::time::timeout(SHORT, Client::connect(socket))
            .await
            .map_err(|_| ShimError::Silent { limit: SHORT })??;
        Ok(Self { client, id: id.into(), foreign: None })
    }

    /// Whether it is somebody else's: no stdio of its own, no successor.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }

    fn service(&self) -> &'static str {
        self.foreign.as_ref().map_or(SERVICE_V3, |foreign| foreign.service)
    }

    /// Makes the container; its process waits before execve. Gives its pid.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn create(&self, task: CreateTask<'_>) -> Result<u32, ShimError> {
        if let Some(foreign) = &self.foreign {
            return self.create_foreign(foreign, task).await;
        }
        let request = CreateTaskRequest {
            id: self.id.clone(),
            bundle: task.bundle.display().to_string(),
            rootfs: task.rootfs,
            terminal: task.terminal,
            options: Some(prost_types::Any {
                type_url: CREATE_OPTIONS_TYPE_URL.into(),
                value: task.options.encode_to_vec(),
            }),
            ..Default::default()
        };
        let answer: CreateTaskResponse = self.task("Create", &request, LONG).await?;
        Ok(answer.pid)
    }

    async fn create_foreign(
        &self,
        foreign: &Foreign,
        task: CreateTask<'_>,
    ) -> Result<u32, ShimError> {
        let log = task.options.log.unwrap_or_default();
        let output = foreign::log_uri(task.logger, task.bundle, &log);
        let stdin = if task.options.open_stdin {
            foreign::make_pipe(&foreign.stdin(""))?;
            foreign.stdin("").display().to_string()
        } else {
            String::new()
        };
        let request = CreateTaskRequest {
            id: self.id.clone(),
            bundle: task.bundle.display().to_string(),
            rootfs: task.rootfs,
            terminal: task.terminal,
            stdin,
            stderr: if task.terminal { String::new() } else { output.clone() },
            stdout: output,
            ..Default::default()
        };
        let answer: CreateTaskResponse = self.task("Create", &request, LONG).await?;
        if task.terminal && task.options.terminal_width > 0 {
            let (width, height) = (task.options.terminal_width, task.options.terminal_height);
            self.resize("", width, height).await?;
        }
        Ok(answer.pid)
    }

    /// Executes the container's process, or an exec's. Gives its pid.
    ///
    /// # Errors
    /// [`ShimError::NotExecuted`] when the program is not there or can't be executed.
    pub async fn start(&self, exec_id: &str) -> Result<u32, ShimError> {
        let request = StartRequest { id: self.id.clone(), exec_id: exec_id.into() };
        let answer: StartResponse = self.task("Start", &request, LONG).await?;
        if let Some(foreign) = self.foreign.as_ref().filter(|_| !exec_id.is_empty()) {
            foreign.begin(exec_id);
        }
        Ok(answer.pid)
    }

    /// How the task is.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn state(&self) -> Result<StateResponse, ShimError> {
        let request = StateRequest { id: self.id.clone(), exec_id: String::new() };
        self.task("State", &request, SHORT).await
    }

    /// Watches for the death of the shim's process, whatever its connections do.
    ///
    /// # Errors
    /// [`ShimError`]; UNIMPLEMENTED from a foreign shim.
    pub async fn death(&self) -> Result<Death, ShimError> {
        if self.is_foreign() {
            return Err(ShimError::NotForeign("be taken over"));
        }
        let info = || self.client.call(SERVICE, "Info", &InfoRequest {}, Some(SHORT));
        let told: InfoResponse = info().await?;
        let death = Death::of(told.shim_pid).map_err(ShimError::Watch)?;
        // It answers after its process was taken hold of: that is the one, not another that has
        // been given its number since.
        let _: InfoResponse = info().await?;
        Ok(death)
    }

    /// Execs that were added and not taken away.
    ///
    /// # Errors
    /// [`ShimError`]; UNIMPLEMENTED from a foreign shim.
    pub async fn execs(&self) -> Result<Vec<String>, ShimError> {
        if self.is_foreign() {
            // The Task service has no question for it.
            return Ok(Vec::new());
        }
        let info: InfoResponse =
            self.client.call(SERVICE, "Info", &InfoRequest {}, Some(SHORT)).await?;
        Ok(info.exec_ids)
    }

    /// How an exec is.
    ///
    /// # Errors
    /// [`ShimError`]; NOT_FOUND once it was deleted.
    pub async fn exec_state(&self, exec_id: &str) -> Result<StateResponse, ShimError> {
        let request = StateRequest { id: self.id.clone(), exec_id: exec_id.into() };
        self.task("State", &request, SHORT).await
    }

    /// Waits for the end of the task or of an exec, for as long as the connection lives.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn wait_exit(&self, exec_id: &str) -> Result<ExitRecord, ShimError> {
        if let Some(foreign) = &self.foreign {
            return self.wait_foreign(foreign, exec_id).await;
        }
        let request = WaitExitRequest { exec_id: exec_id.into() };
        Ok(self.client.call(SERVICE, "WaitExit", &request, None).await?)
    }

    async fn wait_foreign(
        &self,
        foreign: &Foreign,
        exec_id: &str,
    ) -> Result<ExitRecord, ShimError> {
        let request = WaitRequest { id: self.id.clone(), exec_id: exec_id.into() };
        let service = self.service();
        let answer: WaitResponse = self.client.call(service, "Wait", &request, None).await?;
        let at = answer.exited_at.unwrap_or_default();
        let oom_killed = exec_id.is_empty() && foreign.out_of_memory.take(&self.id);
        if exec_id.is_empty() {
            foreign.drained().await;
        }
        Ok(ExitRecord {
            exit_code: answer.exit_status,
            // All that the protocol tells.
            signal: answer
                .exit_status
                .checked_sub(128)
                .filter(|n| (1..=64).contains(n))
                .unwrap_or(0),
            oom_killed,
            exited_at_unix_ns: at
                .seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(at.nanos)),
            ..Default::default()
        })
    }

    /// Sends a signal to the task's process or to an exec's.
    ///
    /// # Errors
    /// [`ShimError`]; NOT_FOUND or FAILED_PRECONDITION once it has ended.
    pub async fn kill(&self, exec_id: &str, signal: i32) -> Result<(), ShimError> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            signal: signal.unsigned_abs(),
            all: false,
        };
        self.task("Kill", &request, SHORT).await
    }

    /// Sends a signal to an exec and to what it started in its session.
    ///
    /// # Errors
    /// As `kill`.
    pub async fn kill_session(&self, exec_id: &str, signal: i32) -> Result<(), ShimError> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            signal: signal.unsigned_abs(),
            // Ours; the others end the exec alone.
            all: !self.is_foreign(),
        };
        self.task("Kill", &request, SHORT).await
    }

    /// Forgets the task (its cgroup goes too) or an exec that has ended.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn delete(&self, exec_id: &str) -> Result<(), ShimError> {
        let request = DeleteRequest { id: self.id.clone(), exec_id: exec_id.into() };
        let deleted: Result<DeleteResponse, _> = self.task("Delete", &request, LONG).await;
        if let Some(foreign) = self.foreign.as_ref().filter(|_| !exec_id.is_empty()) {
            foreign.forget(exec_id);
        }
        deleted?;
        Ok(())
    }

    /// Ends the shim. A connection that closes instead of an answer is the same.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn shutdown(&self) -> Result<(), ShimError> {
        let request = ShutdownRequest { id: self.id.clone(), now: true };
        match self.task("Shutdown", &request, SHORT).await {
            Err(ShimError::Rpc(ttrpc::RpcError::Closed { .. })) => Ok(()),
            other => other,
        }
    }

    /// Adds an exec whose stdio stays in the shim, or is thrown away.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn exec(
        &self,
        exec_id: &str,
        process_json: Vec<u8>,
        terminal: bool,
        stdin: bool,
        output: bool,
    ) -> Result<(), ShimError> {
        let kept = |wanted: bool| if wanted { STDIO_IN_SHIM.to_owned() } else { String::new() };
        let [stdin, stdout, stderr] = match &self.foreign {
            Some(foreign) => foreign.pipes(exec_id, stdin, output, terminal)?,
            None => [kept(stdin), kept(output), kept(output && !terminal)],
        };
        let request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            terminal,
            stdin,
            stdout,
            stderr,
            spec: Some(prost_types::Any { type_url: PROCESS_TYPE_URL.into(), value: process_json }),
        };
        self.task("Exec", &request, LONG).await
    }

    /// Sets the size of a terminal, in characters.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<(), ShimError> {
        let request =
            ResizePtyRequest { id: self.id.clone(), exec_id: exec_id.into(), width, height };
        self.task("ResizePty", &request, SHORT).await
    }

    /// Closes stdin.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn close_stdin(&self, exec_id: &str) -> Result<(), ShimError> {
        let request = CloseIoRequest { id: self.id.clone(), exec_id: exec_id.into(), stdin: true };
        self.task("CloseIO", &request, SHORT).await
    }

    /// Writes to stdin; answers when the process has room for all of it.
    ///
    /// # Errors
    /// [`ShimError`]; FAILED_PRECONDITION once stdin is closed.
    pub async fn write_stdin(&self, exec_id: &str, data: Vec<u8>) -> Result<(), ShimError> {
        if let Some(foreign) = &self.foreign {
            return foreign.write_stdin(exec_id, &data).await;
        }
        let request = WriteStdinRequest { exec_id: exec_id.into(), data };
        // As long as the process takes to read: the caller's stream is the bound.
        Ok(self.client.call(SERVICE, "WriteStdin", &request, None).await?)
    }

    /// Output of an exec beyond `offset`; an empty answer means: ask again. What is below
    /// `release_below` (or `offset`) can't be asked for any more.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn read_output(
        &self,
        exec_id: &str,
        offset: u64,
        release_below: Option<u64>,
    ) -> Result<ReadOutputResponse, ShimError> {
        if let Some(foreign) = &self.foreign {
            let read = foreign.read_output(exec_id, offset, release_below, POLL).await;
            return read.ok_or(ShimError::NotForeign("give the output of that exec again"));
        }
        let request =
            ReadOutputRequest { exec_id: exec_id.into(), offset, max_bytes: 0, release_below };
        let limit = Some(POLL + SHORT);
        Ok(self.client.call(SERVICE, "ReadOutput", &request, limit).await?)
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn pause(&self) -> Result<(), ShimError> {
        self.task("Pause", &PauseRequest { id: self.id.clone() }, SHORT).await
    }

    /// Lets the container go on.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn resume(&self) -> Result<(), ShimError> {
        self.task("Resume", &ResumeRequest { id: self.id.clone() }, SHORT).await
    }

    /// What the container uses.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn usage(&self) -> Result<Usage, ShimError> {
        let request = StatsRequest { id: self.id.clone() };
        let answer: StatsResponse = self.task("Stats", &request, QUICK).await?;
        let stats = answer.stats.unwrap_or_default();
        Usage::of(&stats).ok_or(ShimError::Figures(stats.type_url))
    }

    /// The processes of the container on the host, each with the id of the exec that it is, if it
    /// is one.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn pids(&self) -> Result<Vec<(u32, String)>, ShimError> {
        let request = PidsRequest { id: self.id.clone() };
        let answer: PidsResponse = self.task("Pids", &request, SHORT).await?;
        let exec = |info: prost_types::Any| ProcessDetails::decode(info.value.as_slice()).ok();
        let all = answer.processes.into_iter();
        Ok(all
            .map(|p| (p.pid, p.info.and_then(exec).map(|d| d.exec_id).unwrap_or_default()))
            .collect())
    }

    /// Changes the limits of the running container; `resources` in OCI JSON.
    ///
    /// # Errors
    /// [`ShimError`].
    pub async fn update(&self, resources_json: Vec<u8>) -> Result<(), ShimError> {
        let request = UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(prost_types::Any {
                type_url: RESOURCES_TYPE_URL.into(),
                value: resources_json,
            }),
            ..Default::default()
        };
        self.task("Update", &request, SHORT).await
    }

    async fn task<Q: prost::Message, A: prost::Message + Default>(
        &self,
        method: &'static str,
        request: &Q,
        limit: Duration,
    ) -> Result<A, ShimError> {
        let answer = self.client.call(self.service(), method, request, Some(limit)).await;
        answer.map_err(ShimError::from)
    }
}
