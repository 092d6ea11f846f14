//! One more process in a container that runs.
//!
//! Its stdio stays in the shim, which keeps what was not fetched: a session that lost its
//! connection goes on from its offset. When a session is dropped the process goes on; its end is
//! seen by a task of its own, which also takes the exec away.

use std::{sync::Arc, time::Duration};

use wharf_proto::{
    kind::Kind,
    shim::{OutputChunk, output_chunk},
};

use super::{
    Containers, Error, Tools, Window,
    create::identity_files,
    live,
    machine::End,
    oci,
    process::{self, Process},
    record::Record,
    running,
    spec::Signal,
    user,
};
use crate::{
    drivers::{
        logs::cri::Stream,
        shims::{Shim, ShimError},
        snapshots::RootView,
    },
    fault, faultpoint,
    ids::{Namespace, random_hex},
    services::events::Event,
    store::{Durability, Ops},
};

/// How long an exec that has ended can still be asked for its output and exit.
const KEEP_ENDED: Duration = Duration::from_secs(5);

/// A process that is wanted.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Put over the container's.
    pub env: Vec<String>,
    /// Empty: the container's.
    pub working_dir: String,
    /// Empty: the container's.
    pub user: String,
    /// A pty.
    pub tty: bool,
    /// Keep stdin.
    pub stdin: bool,
    /// Nobody looks at its output.
    pub detach: bool,
    /// Of the pty.
    pub window: Window,
}

/// A process that was started in a container, and its stdio.
#[derive(Clone, Debug)]
pub struct ExecSession {
    shim: Shim,
    record: Arc<Record>,
    exec_id: String,
    pid: u32,
    tty: bool,
}

/// Output of an exec.
#[derive(Debug)]
pub struct ExecOutput {
    /// Which stream, and what.
    pub chunks: Vec<(Stream, Vec<u8>)>,
    /// After them.
    pub next_offset: u64,
    /// There will be no more.
    pub eof: bool,
}

impl Containers {
    /// Starts one more process in a container.
    ///
    /// # Errors
    /// [`Error::Exec`] when it can't be executed, and others.
    pub async fn exec(
        &self,
        namespace: &Namespace,
        container: &str,
        request: ExecRequest,
    ) -> Result<ExecSession, Error> {
        if request.args.is_empty() {
            return Err(Error::field("start.args", "a command is needed"));
        }
        let handle = self.tools.table.find(namespace, container)?;
        let (record, shim) = running(&handle, "execute in").await?;
        let json = exec_process(&record, &request).await?;
        let exec_id = random_hex::<16>().map_err(Error::Random)?;
        let failed = |source| Error::Exec { name: record.name.clone(), source };
        let output = !request.detach;
        let stdin = request.stdin && output;
        shim.exec(&exec_id, json, request.tty, stdin, output).await.map_err(failed)?;
        faultpoint::reach("exec.added").await;
        let pid = match shim.start(&exec_id).await {
            Ok(pid) => pid,
            Err(source) => {
                forget(&shim, &exec_id).await;
                return Err(failed(source));
            }
        };
        faultpoint::reach("exec.executed").await;
        self.tell(&record, "exec.start", &exec_id, |e| e.with("pid", pid)).await?;
        faultpoint::reach("exec.told").await;
        watch_end(&self.tools, &record, &shim, &exec_id);
        Ok(ExecSession { shim, record, exec_id, pid, tty: request.tty })
    }

    /// Takes up an exec that was started before.
    ///
    /// # Errors
    /// [`Error::NoExec`] when it has ended, and that was told, or never was.
    pub async fn resume_exec(
        &self,
        namespace: &Namespace,
        container: &str,
        exec_id: &str,
    ) -> Result<ExecSession, Error> {
        let handle = self.tools.table.find(namespace, container)?;
        let (record, shim) = live(&handle, "execute in").await?;
        let state = shim.exec_state(exec_id).await.map_err(|_| Error::NoExec {
            container: record.name.clone(),
            exec_id: exec_id.into(),
        })?;
        let exec_id = exec_id.to_owned();
        Ok(ExecSession { shim, record, exec_id, pid: state.pid, tty: state.terminal })
    }

    async fn tell(
        &self,
        record: &Record,
        topic: &str,
        exec_id: &str,
        more: impl FnOnce(Event) -> Event,
    ) -> Result<(), Error> {
        let event = Event::now(&record.namespace, topic, record.id.as_str())
            .with("name", &record.name)
            .with("execId", exec_id);
        let mut ops = Ops::new();
        self.tools.events.append(&mut ops, &more(event))?;
        Ok(self.tools.store.commit(ops, Durability::Process).await?)
    }
}

impl ExecSession {
    /// Names it for `resume_exec` and `resize`.
    #[must_use]
    pub fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// On the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its output beyond `offset`, both streams counted together; waits for some. What is below
    /// `release_below` (or `offset`) can't be asked for any more. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Shim`].
    pub async fn output(
        &self,
        offset: u64,
        release_below: Option<u64>,
    ) -> Result<ExecOutput, Error> {
        let answer = self.shim.read_output(&self.exec_id, offset, release_below).await;
        let answer = answer.map_err(self.failed())?;
        let chunks = answer.chunks.into_iter().map(chunk).collect();
        Ok(ExecOutput { chunks, next_offset: answer.next_offset, eof: answer.eof })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Shim`].
    pub async fn exit(&self) -> Result<End, Error> {
        let record = self.shim.wait_exit(&self.exec_id).await.map_err(self.failed())?;
        Ok(super::driver::end_of(&record))
    }

    /// Writes to its stdin; answers when it has room for all of it.
    ///
    /// # Errors
    /// [`Error::Shim`].
    pub async fn stdin(&self, data: Vec<u8>) -> Result<(), Error> {
        self.shim.write_stdin(&self.exec_id, data).await.map_err(self.failed())
    }

    /// Closes its stdin.
    ///
    /// # Errors
    /// [`Error::Shim`].
    pub async fn close_stdin(&self) -> Result<(), Error> {
        self.shim.close_stdin(&self.exec_id).await.map_err(self.failed())
    }

    /// Sets the size of its terminal.
    ///
    /// # Errors
    /// [`Error::Shim`].
    pub async fn resize(&self, window: Window) -> Result<(), Error> {
        if !self.tty {
            return Err(Error::field("resize", "the exec has no terminal"));
        }
        self.shim.resize(&self.exec_id, window.width, window.height).await.map_err(self.failed())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// [`Error::Shim`].
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.shim.kill(&self.exec_id, signal.number()).await.map_err(self.failed())
    }

    fn failed(&self) -> impl Fn(crate::drivers::shims::ShimError) -> Error + '_ {
        |source| {
            let name = self.record.name.clone();
            if source.is_lost() {
                return Error::ExecLost { container: name, exec_id: self.exec_id.clone() };
            }
            Error::Shim { name, source }
        }
    }
}

fn chunk(chunk: OutputChunk) -> (Stream, Vec<u8>) {
    let stream = match chunk.stream() {
        output_chunk::Stream::Stderr => Stream::Stderr,
        output_chunk::Stream::Stdout | output_chunk::Stream::Unspecified => Stream::Stdout,
    };
    (stream, chunk.data)
}

/// The process in OCI JSON, its user looked up in the container as it is now.
async fn exec_process(record: &Arc<Record>, request: &ExecRequest) -> Result<Vec<u8>, Error> {
    let record = Arc::clone(record);
    let request = request.clone();
    tokio::task::spawn_blocking(move || {
        let base = &record.process;
        let identity = if request.user.is_empty() {
            base.identity.clone()
        } else {
            let Some(run) = record.state.current() else {
                return Err(Error::Removed(record.name.clone()));
            };
            let root = format!("/proc/{}/root", run.pid);
            let (passwd, group) =
                identity_files(&record.name, || RootView::of_folder(root.as_ref()))?;
            user::resolve(&request.user, &[], &passwd, &group).map_err(Error::User)?
        };
        let home = if request.user.is_empty() { "" } else { identity.home.as_str() };
        let env = process::exec_environment(&base.env, &request.env, request.tty, home);
        let cwd = if request.working_dir.is_empty() {
            base.cwd.clone()
        } else if request.working_dir.starts_with('/') {
            request.working_dir.clone()
        } else {
            return Err(Error::field("start.working_dir", "an absolute path is needed"));
        };
        let process = Process { args: request.args.clone(), env, cwd, identity };
        let spec = super::spec::Spec { tty: request.tty, ..record.spec.clone() };
        let mut json = oci::process_json(&spec, &process);
        if request.tty && request.window != Window::default() {
            // Before it runs: it may ask for the size first of all.
            let Window { width, height } = request.window;
            json["consoleSize"] = serde_json::json!({ "width": width, "height": height });
        }
        Ok(json.to_string().into_bytes())
    })
    .await
    .expect("the description does not panic")
}

/// Waits for the end in a task of its own, tells it, and takes the exec away some time later.
pub(super) fn watch_end(tools: &Arc<Tools>, record: &Arc<Record>, shim: &Shim, exec_id: &str) {
    let (tools, record) = (Arc::clone(tools), Arc::clone(record));
    let (shim, exec_id) = (shim.clone(), exec_id.to_owned());
    // Ends with the exec or with the shim's connection, and KEEP_ENDED later.
    tokio::spawn(async move {
        let exit = match shim.wait_exit(&exec_id).await {
            Ok(exit) => exit,
            Err(error) => {
                if error.is_lost() {
                    tell_lost(&tools, &record, &exec_id).await;
                }
                return;
            }
        };
        faultpoint::reach("exec.exit.seen").await;
        let end = super::driver::end_of(&exit);
        let event = Event::now(&record.namespace, "exec.exit", record.id.as_str())
            .with("name", &record.name)
            .with("execId", &exec_id)
            .with("exitCode", end.exit_code);
        let mut ops = Ops::new();
        let told = match tools.events.append(&mut ops, &event) {
            Ok(()) => tools.store.commit(ops, Durability::Process).await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            tracing::warn!(
                container = record.id.short(),
                exec = exec_id,
                error = fault::chain(&error),
                "end of exec is not in the journal"
            );
        }
        faultpoint::reach("exec.exit.told").await;
        tokio::time::sleep(KEEP_ENDED).await;
        forget(&shim, &exec_id).await;
    });
}

/// The shim of an exec went away. If it was killed, the exec is not known to the next one, and its
/// end is told as lost.
async fn tell_lost(tools: &Arc<Tools>, record: &Arc<Record>, exec_id: &str) {
    let Ok(handle) = tools.table.find(&record.namespace, record.id.as_str()) else { return };
    // The container has ended with it.
    let Ok((_, shim)) = live(&handle, "execute in").await else { return };
    match shim.exec_state(exec_id).await {
        Err(ShimError::Rpc(error)) if error.kind() == Kind::NotFound => {}
        // Another task has taken it up.
        _ => return,
    }
    let event = Event::now(&record.namespace, "exec.exit", record.id.as_str())
        .with("name", &record.name)
        .with("execId", exec_id)
        .with("exitCode", 255)
        .with("reason", "lost");
    let mut ops = Ops::new();
    let told = match tools.events.append(&mut ops, &event) {
        Ok(()) => tools.store.commit(ops, Durability::Process).await,
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        let error = fault::chain(&error);
        tracing::warn!(exec = exec_id, error, "end of exec is not in the journal");
    }
}

/// Takes an exec away; one that is gone with its container is no matter.
async fn forget(shim: &Shim, exec_id: &str) {
    if let Err(error) = shim.delete(exec_id).await {
        tracing::debug!(exec = exec_id, error = fault::chain(&error), "exec is gone");
    }
}
