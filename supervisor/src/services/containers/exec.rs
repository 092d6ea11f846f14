//! One more process in a container that runs.
//!
//! Its stdio stays in the shim, which keeps what was not fetched: a session that lost its
//! connection goes on from its offset. When a session is dropped the process goes on; its end is
//! seen by a task of its own, which also takes the exec away.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use wharf_proto::{
    kind::Kind,
    shim::{OutputChunk, output_chunk},
};

use super::{
    Containers, Error, Tools, Window,
    create::identity_files,
    exec_record::{self, Stage},
    live,
    machine::End,
    oci, probe,
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
    ids::{ContainerId, Namespace, random_hex},
    services::{events::Event, requests},
    store::{Durability, Ops},
};

/// How long an exec that has ended can still be asked for its output and exit.
const KEEP_ENDED: Duration = Duration::from_secs(5);
/// How long one that was added and not started waits for whoever wanted it, after a restart.
const RETRY_GRACE: Duration = Duration::from_secs(60);
/// Exit code of one whose end nobody saw.
const LOST: i32 = 255;

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
        let exec_id = match requests::derived_id(record.id.as_str()) {
            Some(id) => id,
            None => random_hex::<16>().map_err(Error::Random)?,
        };
        if let Some(session) = self.begun_before(&record, &shim, &exec_id, request.tty).await? {
            return Ok(session);
        }
        let json = exec_process(&record, &request).await?;
        let failed = |source| Error::Exec { name: record.name.clone(), source };
        let output = !request.detach;
        let stdin = request.stdin && output;
        self.tell(&record, &exec_id, Stage::Added, |event| event).await?;
        faultpoint::reach("exec.intended").await;
        match shim.exec(&exec_id, json, request.tty, stdin, output).await {
            // A supervisor before this one added it, and was killed before it started it.
            Err(ShimError::Rpc(e)) if e.kind() == Kind::AlreadyExists => {}
            Err(source) => {
                forget(&self.tools, &record, &shim, &exec_id).await;
                return Err(failed(source));
            }
            Ok(()) => {}
        }
        faultpoint::reach("exec.added").await;
        let pid = match shim.start(&exec_id).await {
            Ok(pid) => pid,
            Err(source) => {
                forget(&self.tools, &record, &shim, &exec_id).await;
                return Err(failed(source));
            }
        };
        faultpoint::reach("exec.executed").await;
        self.tell(&record, &exec_id, Stage::Started, |e| e.with("pid", pid)).await?;
        faultpoint::reach("exec.told").await;
        watch_end(&self.tools, &record, &shim, &exec_id, KEEP_ENDED);
        Ok(ExecSession { shim, record, exec_id, pid, tty: request.tty })
    }

    /// The exec that the running request started when it came before.
    ///
    /// # Errors
    /// [`Error::NoExec`] when that has ended, and its output is gone.
    async fn begun_before(
        &self,
        record: &Arc<Record>,
        shim: &Shim,
        exec_id: &str,
        tty: bool,
    ) -> Result<Option<ExecSession>, Error> {
        if requests::current().is_none() {
            return Ok(None);
        }
        let state = match shim.exec_state(exec_id).await {
            Ok(state) => state,
            Err(ShimError::Rpc(e)) if e.kind() == Kind::NotFound => {
                let container = record.name.clone();
                if requests::was_done() {
                    return Err(Error::NoExec { container, exec_id: exec_id.into() });
                }
                return Ok(None);
            }
            Err(source) => return Err(Error::Exec { name: record.name.clone(), source }),
        };
        if state.status() == wharf_proto::task::Status::Created {
            return Ok(None);
        }
        let session = ExecSession {
            shim: shim.clone(),
            record: Arc::clone(record),
            exec_id: exec_id.into(),
            pid: state.pid,
            tty,
        };
        Ok(Some(session))
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
        exec_id: &str,
        stage: Stage,
        more: impl FnOnce(Event) -> Event,
    ) -> Result<(), Error> {
        let mut ops = exec_record::advance(record, exec_id, stage, more)?;
        if stage == Stage::Started {
            // Not before: what was only intended is still to be done.
            requests::stamp(&mut ops, Some(record))?;
        }
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
pub(super) async fn exec_process(
    record: &Arc<Record>,
    request: &ExecRequest,
) -> Result<Vec<u8>, Error> {
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
        if let Some(namespace) = &record.spec.user_namespace {
            namespace.check_identity("start.user", &identity)?;
        }
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

/// Execs whose end is waited for, by container and id: each by one task.
#[derive(Debug, Default)]
pub struct Watched(Mutex<HashSet<(ContainerId, String)>>);

impl Watched {
    fn enter(&self, container: &ContainerId, exec_id: &str) -> bool {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert((container.clone(), exec_id.into()))
    }

    fn leave(&self, container: &ContainerId, exec_id: &str) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.remove(&(container.clone(), exec_id.into()));
    }
}

/// Waits for the end in a task of its own, tells it, and takes the exec away some time later.
fn watch_end(tools: &Arc<Tools>, record: &Arc<Record>, shim: &Shim, exec_id: &str, keep: Duration) {
    if !tools.watched.enter(&record.id, exec_id) {
        return;
    }
    let (tools, record) = (Arc::clone(tools), Arc::clone(record));
    let (shim, exec_id) = (shim.clone(), exec_id.to_owned());
    // Ends with the exec or with the shim's connection, and `keep` later.
    tokio::spawn(async move {
        match shim.wait_exit(&exec_id).await {
            Ok(exit) => {
                faultpoint::reach("exec.exit.seen").await;
                let end = super::driver::end_of(&exit);
                let ended = |event: Event| event.with("exitCode", end.exit_code);
                report(&tools, &record, &exec_id, exit.pid, ended).await;
                faultpoint::reach("exec.exit.told").await;
                tokio::time::sleep(keep).await;
                forget(&tools, &record, &shim, &exec_id).await;
                tools.watched.leave(&record.id, &exec_id);
            }
            Err(error) => {
                tools.watched.leave(&record.id, &exec_id);
                if error.is_lost() {
                    find_again(&tools, &record, &exec_id).await;
                }
            }
        }
    });
}

/// The shim of an exec went away: the one that answers now knows the exec, or it was lost with the
/// one that was killed.
async fn find_again(tools: &Arc<Tools>, record: &Arc<Record>, exec_id: &str) {
    let Ok(handle) = tools.table.find(&record.namespace, record.id.as_str()) else { return };
    // The container has ended with it.
    let Ok((_, shim)) = live(&handle, "execute in").await else { return };
    match shim.exec_state(exec_id).await {
        Ok(_) => watch_end(tools, record, &shim, exec_id, KEEP_ENDED),
        Err(ShimError::Rpc(error)) if error.kind() == Kind::NotFound => {
            let lost = |event: Event| event.with("exitCode", LOST).with("reason", "lost");
            report(tools, record, exec_id, 0, lost).await;
        }
        Err(_) => {}
    }
}

/// Tells an exec's end, and before it its start, if that was not told yet.
async fn report(
    tools: &Tools,
    record: &Record,
    exec_id: &str,
    pid: u32,
    ended: impl FnOnce(Event) -> Event,
) {
    let told = async {
        let stage = exec_record::find(&tools.store, &record.id, exec_id)?;
        let mut ops = Ops::new();
        if stage.is_none_or(|stage| stage < Stage::Started) {
            let started = |event: Event| event.with("pid", pid);
            ops.extend(exec_record::advance(record, exec_id, Stage::Started, started)?);
        }
        if stage.is_none_or(|stage| stage < Stage::Ended) {
            ops.extend(exec_record::advance(record, exec_id, Stage::Ended, ended)?);
        }
        tools.store.commit(ops, Durability::Process).await
    };
    if let Err(error) = told.await {
        tracing::warn!(
            container = record.id.short(),
            exec = exec_id,
            error = fault::chain(&error),
            "end of exec is not in the journal"
        );
    }
}

/// Takes up the execs that the supervisor before this one had to do with: those in the shim are
/// watched, the others have ended with the container or never began. Without a shim all have.
pub(super) async fn take_up(tools: &Arc<Tools>, record: &Arc<Record>, shim: Option<&Shim>) {
    let taken_up = async {
        let in_shim = match shim {
            Some(shim) => shim
                .execs()
                .await
                .map_err(|source| Error::Shim { name: record.name.clone(), source })?,
            None => Vec::new(),
        };
        for exec_id in &in_shim {
            let Some(shim) = shim else { continue };
            if probe::is_probe(exec_id) {
                // Nobody waits for what it says any more.
                drop(probe::put_away(shim, exec_id));
                continue;
            }
            match shim.exec_state(exec_id).await {
                Ok(state) if state.status() == wharf_proto::task::Status::Created => {
                    undo_later(tools, record, shim, exec_id);
                }
                Ok(state) => {
                    let stage = exec_record::find(&tools.store, &record.id, exec_id)?;
                    if stage.is_none_or(|stage| stage < Stage::Started) {
                        let pid = |event: Event| event.with("pid", state.pid);
                        let ops = exec_record::advance(record, exec_id, Stage::Started, pid)?;
                        tools.store.commit(ops, Durability::Process).await?;
                    }
                    // Whoever started it may have heard nothing of it: it is kept for a retry.
                    watch_end(tools, record, shim, exec_id, RETRY_GRACE);
                }
                Err(_) => watch_end(tools, record, shim, exec_id, KEEP_ENDED),
            }
        }
        for exec in exec_record::all(&tools.store, &record.id)? {
            if in_shim.contains(&exec.exec_id) {
                continue;
            }
            let mut ops = Ops::new();
            if exec.stage == Stage::Started {
                let lost = |event: Event| event.with("exitCode", LOST).with("reason", "lost");
                ops.extend(exec_record::advance(record, &exec.exec_id, Stage::Ended, lost)?);
            }
            exec_record::forget(&mut ops, &record.id, &exec.exec_id);
            tools.store.commit(ops, Durability::Process).await?;
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = taken_up.await {
        tracing::warn!(
            container = record.id.short(),
            error = fault::chain(&error),
            "execs are not known"
        );
    }
}

/// An exec that was added and not started is taken away, unless whoever wanted it asks again.
fn undo_later(tools: &Arc<Tools>, record: &Arc<Record>, shim: &Shim, exec_id: &str) {
    let (tools, record) = (Arc::clone(tools), Arc::clone(record));
    let (shim, exec_id) = (shim.clone(), exec_id.to_owned());
    // Ends after RETRY_GRACE.
    tokio::spawn(async move {
        tokio::time::sleep(RETRY_GRACE).await;
        let state = shim.exec_state(&exec_id).await;
        if state.is_ok_and(|state| state.status() == wharf_proto::task::Status::Created) {
            forget(&tools, &record, &shim, &exec_id).await;
        }
    });
}

/// Takes an exec away; one that is gone with its container is no matter.
async fn forget(tools: &Tools, record: &Record, shim: &Shim, exec_id: &str) {
    if let Err(error) = shim.delete(exec_id).await {
        tracing::debug!(exec = exec_id, error = fault::chain(&error), "exec is gone");
    }
    let mut ops = Ops::new();
    exec_record::forget(&mut ops, &record.id, exec_id);
    if let Err(error) = tools.store.commit(ops, Durability::Process).await {
        tracing::warn!(exec = exec_id, error = fault::chain(&error), "exec is still written down");
    }
}
