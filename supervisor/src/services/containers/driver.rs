//! One task owns one container: it alone changes the record, and everything that changes it comes
//! through its bounded queue, one thing after the other.
//!
//! A task commits before it tells, and announces a start before an exit: the exit of a
//! start that is under way waits in the queue.

mod adopt;
mod again;
mod command;
mod end;
mod freeze;
mod health;
mod recover;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{
    Error,
    exec::Watched,
    exec_record,
    launch::{self, Window},
    machine::{self, State},
    probe::Prober,
    record::Record,
    restart,
    spec::Signal,
    table::{Handle, Table, View},
};
use crate::{
    drivers::{
        host,
        logs::LogDriver,
        shims::{Launcher, Runtime, Runtimes, Shim, ShimError},
        snapshots::Snapshotter,
    },
    fault, faultpoint,
    ids::{ContainerName, Namespace},
    services::{
        events::{Event, Events, now_unix_ns},
        requests::{self, Requests},
        volumes::Volumes,
    },
    store::{Durability, Need, Ops, Store},
};

use again::By;
pub use command::Change;
pub(super) use command::Command;
use command::Reply;
pub(super) use end::end_of;
use end::{failed, lost};

/// Calls that may wait for one container.
const QUEUE_LEN: usize = 64;

/// What every container's task works with.
#[derive(Debug)]
pub struct Tools {
    /// Metadata.
    pub store: Store,
    /// Journal.
    pub events: Events,
    /// Execs whose end is waited for.
    pub watched: Watched,
    /// What was asked for and done.
    pub requests: Requests,
    /// Root file systems.
    pub snapshots: Arc<dyn Snapshotter>,
    /// Volumes.
    pub volumes: Volumes,
    /// Shims.
    pub launcher: Launcher,
    /// What runs containers, by name.
    pub runtimes: Runtimes,
    /// All containers.
    pub table: Arc<Table>,
    /// Folder of the bundles.
    pub bundles: PathBuf,
    /// Folder of the containers' logs.
    pub logs: PathBuf,
    /// Settings of the logs.
    pub log_max_bytes: u64,
    /// As above: rotated ones.
    pub log_max_files: u32,
    /// As above.
    pub log_driver: LogDriver,
    /// Containers' cgroups are below it.
    pub cgroup_parent: String,
    /// Of this boot of the host.
    pub boot_id: String,
    /// Told the namespace and image of each container that was removed; full is no error.
    pub removed: mpsc::Sender<(Namespace, String)>,
    /// So many are started by their policies at a time.
    pub restart_turns: Arc<Semaphore>,
    /// So many health checks are begun at a time.
    pub probe_turns: Arc<Semaphore>,
    /// All containers are ended, and none is started.
    pub ending: AtomicBool,
}

impl Tools {
    /// Where the log of a container is.
    #[must_use]
    pub fn log_path(&self, record: &Record) -> PathBuf {
        self.logs.join(format!("{}.log", record.id))
    }

    /// How the log of a container is kept; what its creator left open is the configuration's.
    #[must_use]
    pub fn log_rules(&self, record: &Record) -> LogRules {
        let asked = record.spec.log.clone().unwrap_or_default();
        let driver = asked.driver.unwrap_or(self.log_driver);
        // Nobody reads it again: it is there for who is attached.
        if driver == LogDriver::None {
            return LogRules { driver, max_bytes: UNKEPT_BYTES, rotated: 1, drops_when_full: true };
        }
        LogRules {
            driver,
            max_bytes: asked.max_bytes.unwrap_or(self.log_max_bytes),
            rotated: asked.max_files.map_or(self.log_max_files, |all| all.saturating_sub(1)),
            drops_when_full: asked.drops_when_full,
        }
    }
}

/// Of the log of a container that keeps none.
const UNKEPT_BYTES: u64 = 1 << 20;

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRules {
    /// As what.
    pub driver: LogDriver,
    /// Rotated when it is larger; 0: never.
    pub max_bytes: u64,
    /// Rotated files beside the current one.
    pub rotated: u32,
    /// On a full disk.
    pub drops_when_full: bool,
}

/// The task of one container.
pub(super) struct Driver {
    tools: Arc<Tools>,
    record: Record,
    view: watch::Sender<View>,
    shim: watch::Sender<Option<Shim>>,
    attached: Arc<watch::Sender<usize>>,
    successor: adopt::Successor,
    /// Its next end is the first half of a restart.
    restarting: bool,
    /// When it was taken up from the store; `None`: it was made by this supervisor.
    taken_up: Option<Instant>,
    /// Asks it how it is.
    prober: Option<Prober>,
    inbox: mpsc::Receiver<Command>,
    own_queue: mpsc::WeakSender<Command>,
}

impl Driver {
    /// Starts the task of a container that was just committed, and adds it to the table.
    pub(super) fn spawn(tools: &Arc<Tools>, record: Record) -> Handle {
        Self::spawn_since(tools, record, None)
    }

    /// Starts the task of a container that a supervisor before this one made.
    pub(super) fn take_up(tools: &Arc<Tools>, record: Record) -> Handle {
        Self::spawn_since(tools, record, Some(Instant::now()))
    }

    fn spawn_since(tools: &Arc<Tools>, mut record: Record, taken_up: Option<Instant>) -> Handle {
        if taken_up.is_some() {
            health::kept(&tools.store, &mut record);
        }
        let (commands, inbox) = mpsc::channel(QUEUE_LEN);
        let (view, view_rx) =
            watch::channel(View { record: Arc::new(record.clone()), gone: false });
        let (shim, shim_rx) = watch::channel(None);
        let attached = Arc::new(watch::Sender::new(0));
        let id = record.id.clone();
        let driver = Self {
            tools: Arc::clone(tools),
            record,
            view,
            shim,
            attached: Arc::clone(&attached),
            successor: adopt::Successor::default(),
            restarting: false,
            taken_up,
            prober: None,
            inbox,
            own_queue: commands.downgrade(),
        };
        let handle = Handle { commands, view: view_rx, shim: shim_rx, attached };
        tools.table.insert(id, handle.clone());
        // Ends when the table and all callers have dropped the handle.
        tokio::spawn(driver.run());
        handle
    }

    /// What is done now and then is boxed: between commands, which is nearly always, a container's
    /// task is as small as its record.
    async fn run(mut self) {
        Box::pin(self.recover()).await;
        self.tend_health();
        while let Some(command) = self.inbox.recv().await {
            Box::pin(self.obey(command)).await;
            self.tend_health();
            if matches!(self.record.state, State::Removing { .. }) && self.view.borrow().gone {
                return;
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        // A caller that went away is no error.
        match command {
            Command::Start { window, reply } => {
                drop(reply.send(self.start(window, By::User).await))
            }
            Command::Kill { signal, reply } => drop(reply.send(self.kill(signal).await)),
            Command::Pause { reply } => drop(reply.send(self.pause().await)),
            Command::Resume { reply } => drop(reply.send(self.resume().await)),
            Command::Restarting { yes, reply } => {
                self.restarting = yes;
                drop(reply.send(Ok(())));
                if !yes {
                    self.remove_if_asked();
                }
            }
            Command::Update { change, reply } => drop(reply.send(self.update(*change).await)),
            Command::Remove { volumes, reply } => drop(reply.send(self.remove(volumes).await)),
            Command::PutDown { reply } => drop(reply.send(self.put_down().await)),
            Command::Again { number, turn } => {
                self.again(number).await;
                drop(turn);
            }
            Command::KeepStill { until, reply } => self.keep_still(until, reply).await,
            Command::Adopt { number } => self.adopt(number).await,
            Command::Probed { number, ran, probed, reply } => {
                let _ = reply.send(self.probed(number, ran, *probed).await);
            }
            Command::Ended { number, result } => self.ended(number, *result).await,
            Command::Under { ticket, command } => {
                Box::pin(ticket.scope(self.obey(*command))).await;
            }
        }
    }

    async fn keep_still(&mut self, until: oneshot::Receiver<()>, reply: Reply<()>) {
        let (verb, name) = ("keep still", self.record.name.clone());
        let answer = match &self.record.state {
            State::Created | State::Stopped { .. } => Ok(()),
            state => Err(Error::State { verb, name, state: state.name(), hint: "" }),
        };
        if answer.is_ok() & reply.send(answer).is_ok() {
            // Whoever holds the other end drops it in any case.
            let _ = until.await;
        }
    }

    async fn start(&mut self, window: Window, by: By) -> Result<(), Error> {
        // Whoever asked may have seen it as it was before it was recovered.
        let started = requests::done_before()
            .is_some_and(|before| super::started_since(&before, &self.record));
        if started || matches!(self.record.state, State::Running(_)) {
            return Ok(());
        }
        if self.tools.ending.load(Ordering::SeqCst) {
            return Err(super::shutdown::refusal(&self.record.name));
        }
        let log_start = launch::prepare_log(&self.tools.log_path(&self.record))?;
        let next = self.next(machine::Event::Start { log_start }, "start")?;
        self.restarting = false;
        self.record.state = next;
        match by {
            By::User => self.record.restarts.begin(),
            By::Policy => self.record.restarts.waiting = false,
        }
        self.record.revision += 1;
        // The intent ends with the host, as does all that it leads to.
        if let Err(error) = self.commit_needing(Need::Growth, &[], Durability::Process).await {
            return Err(self.as_committed(error));
        }
        faultpoint::reach("start.intended").await;
        match self.launch(window).await {
            Ok((shim, pid)) => {
                self.keep(&shim, adopt::KEEP_AFTER);
                self.shim.send_replace(Some(shim));
                self.commit_started(pid).await
            }
            Err(error) => {
                self.clean_up_shim().await;
                let end = match &error {
                    Error::Start { source: ShimError::NotExecuted { exit_code, .. }, .. } => {
                        failed(i32::try_from(*exit_code).unwrap_or(127), &fault::chain(&error))
                    }
                    _ => failed(128, &fault::chain(&error)),
                };
                if by == By::User {
                    // The caller is told; a policy is for what has run.
                    self.record.restarts.put_down(&self.tools.boot_id);
                }
                self.commit_end(end).await;
                if self.record.spec.auto_remove {
                    // It wrote nothing that anyone could still be reading.
                    self.remove(true).await?;
                }
                Err(error)
            }
        }
    }

    async fn launch(&mut self, window: Window) -> Result<(Shim, u32), Error> {
        let name = self.record.name.clone();
        let start = |source| Error::Start { name: name.clone(), source };
        let plan = launch::prepare(&self.tools, &self.record).await?;
        let fault = |at: std::io::Result<()>| at.map_err(|e| fault_error(&name, e));
        fault(faultpoint::step("start.prepared").await)?;
        let (namespace, id) = (&self.record.namespace, &self.record.id);
        let launcher = &self.tools.launcher;
        let runtime = self.runtime()?;
        let spawned = match &runtime {
            Runtime::Shim(program) => {
                launcher.spawn_foreign(program, &plan.bundle, namespace, id).await
            }
            Runtime::Own | Runtime::Oci(_) => launcher.spawn(&plan.bundle, namespace, id).await,
        };
        let shim = spawned.map_err(start)?;
        fault(faultpoint::step("start.shim.spawned").await)?;
        shim.create(plan.task(&self.tools, &self.record, &runtime, window)).await.map_err(start)?;
        fault(faultpoint::step("start.task.created").await)?;
        // Before the start, so that no exit is missed.
        self.watch_exit(&shim, self.record.state.number());
        let pid = shim.start("").await.map_err(start)?;
        faultpoint::reach("start.executed").await;
        Ok((shim, pid))
    }

    fn runtime(&self) -> Result<Runtime, Error> {
        let found = self.tools.runtimes.find(&self.record.spec.runtime);
        found.map_err(|problem| Error::field("spec.runtime", problem))
    }

    async fn commit_started(&mut self, pid: u32) -> Result<(), Error> {
        let event = machine::Event::Started {
            pid,
            at_unix_ns: now_unix_ns(),
            boot_id: self.tools.boot_id.clone(),
        };
        self.record.state = self.next(event, "start")?;
        self.record.revision += 1;
        self.record.restarts.started_uptime_ms =
            u64::try_from(host::uptime().as_millis()).unwrap_or(0);
        self.begin_health();
        let event = self.event("container.start").with("pid", pid);
        self.commit_needing(Need::Removal, &[event], Durability::Power).await?;
        faultpoint::reach("start.committed").await;
        tracing::info!(container = self.record.id.short(), pid, "started");
        Ok(())
    }

    /// Waits for the exit in a task of its own, and puts it into the queue.
    fn watch_exit(&self, shim: &Shim, number: u64) {
        let Some(queue) = self.own_queue.upgrade() else { return };
        let queue = queue.downgrade();
        let shim = shim.clone();
        // Ends with the shim's connection at the latest.
        tokio::spawn(async move {
            let result = Box::new(shim.wait_exit("").await);
            if let Some(queue) = queue.upgrade() {
                let _ = queue.send(Command::Ended { number, result }).await;
            }
        });
    }

    async fn kill(&mut self, signal: Signal) -> Result<(), Error> {
        let verb = "kill";
        let own = self.record.spec.stop_signal.unwrap_or(Signal::TERM);
        // Who ends all says nothing about one.
        let by_user = !self.tools.ending.load(Ordering::SeqCst);
        if by_user && (signal == Signal::KILL || signal == own) {
            let waited = self.record.restarts.waiting;
            self.put_down().await?;
            if waited {
                return Ok(());
            }
        }
        match &self.record.state {
            State::Running(_) | State::Paused(_) => {
                let shim = self.shim.borrow().clone();
                let Some(shim) = shim else { return self.kill_orphan(signal).await };
                match shim.kill("", signal.number()).await {
                    // It has just ended: what was wanted.
                    Err(ShimError::Rpc(e)) if e.kind() == wharf_proto::kind::Kind::NotFound => {}
                    other => other.map_err(|source| self.shim_error(source))?,
                }
            }
            State::Unreachable(_) => return self.kill_orphan(signal).await,
            State::Created
            | State::Starting { .. }
            | State::Stopped { .. }
            | State::Removing { .. } => {
                return Err(self.wrong_state(verb, ""));
            }
        }
        faultpoint::reach("kill.sent").await;
        let event = self.event("container.kill").with("signal", signal);
        self.tell(event).await;
        Ok(())
    }

    /// A container whose shim died: all of it can be ended, nothing else.
    async fn kill_orphan(&mut self, signal: Signal) -> Result<(), Error> {
        if signal != Signal::KILL {
            return Err(self.wrong_state("signal", "; only SIGKILL works now"));
        }
        self.tools
            .launcher
            .clean_up(&self.bundle(), &self.record.namespace, &self.record.id)
            .await
            .map_err(|source| self.shim_error(source))?;
        self.commit_end(lost("its shim was gone, it was ended by SIGKILL")).await;
        self.clean_bundle().await;
        self.remove_if_asked();
        Ok(())
    }

    async fn update(&mut self, change: Change) -> Result<(), Error> {
        if change.if_revision != 0 && change.if_revision != self.record.revision {
            return Err(Error::Revision {
                name: self.record.name.clone(),
                asked: change.if_revision,
                found: self.record.revision,
            });
        }
        if matches!(self.record.state, State::Removing { .. }) {
            return Err(self.wrong_state("update", ""));
        }
        if let Some(resources) = &change.resources {
            let merged = self.record.spec.resources.merged(resources);
            if self.record.state.is_live() {
                let json = super::oci::resources(&merged).to_string().into_bytes();
                let shim = self.shim.borrow().clone();
                let shim = shim.ok_or_else(|| self.wrong_state("update", ""))?;
                shim.update(json).await.map_err(|source| self.shim_error(source))?;
            }
            self.record.spec.resources = merged;
        }
        if let Some(policy) = change.restart {
            self.record.spec.restart = policy;
            self.record.restarts.policy_changed(policy);
        }
        if let Some(labels) = change.labels {
            self.record.spec.labels = labels;
        }
        let old_name = change.name.map(|name| std::mem::replace(&mut self.record.name, name));
        self.record.revision += 1;
        let event = self.event("container.update");
        if let Err(error) = self.commit(&[event], Durability::Power).await {
            return Err(self.as_committed(error));
        }
        if let Some(old) = old_name
            && old != self.record.name
        {
            self.tools.table.free_name(&self.record.namespace, &old, &self.record.id);
        }
        Ok(())
    }

    async fn remove(&mut self, volumes: bool) -> Result<(), Error> {
        let hint = "; stop it first or force the removal";
        let next = self.record.state.after(machine::Event::Remove);
        self.record.state = next.map_err(|_| self.wrong_state("remove", hint))?;
        self.record.restarts.waiting = false;
        self.record.remove_volumes |= volumes;
        self.record.revision += 1;
        if let Err(error) = self.commit_needing(Need::Removal, &[], Durability::Power).await {
            return Err(self.as_committed(error));
        }
        faultpoint::reach("delete.intended").await;
        self.finish_removal().await
    }

    async fn finish_removal(&mut self) -> Result<(), Error> {
        self.clean_bundle().await;
        let snapshots = Arc::clone(&self.tools.snapshots);
        let id = self.record.id.clone();
        let log = self.tools.log_path(&self.record);
        let files = self.tools.log_rules(&self.record).rotated;
        let name = self.record.name.clone();
        let undone = tokio::task::spawn_blocking(move || {
            let fault = |at: std::io::Result<()>| at.map_err(|e| fault_error(&name, e));
            fault(faultpoint::step_blocking("delete.bundle.removed"))?;
            launch::remove_logs(&log, files)?;
            fault(faultpoint::step_blocking("delete.logs.removed"))?;
            snapshots.remove(&id).map_err(|source| Error::Snapshot { name, source })
        });
        undone.await.expect("removal does not panic")?;
        faultpoint::reach("delete.snapshot.removed").await;
        self.tools.remove_volumes(&self.record).await?;
        let mut ops = Ops::new();
        requests::stamp(&mut ops, Some(&self.record))?;
        ops.needs(Need::Removal);
        ops.delete::<Record>(self.record.key());
        health::forget(&mut ops, &self.record);
        for exec in exec_record::all(&self.tools.store, &self.record.id)? {
            exec_record::forget(&mut ops, &self.record.id, &exec.exec_id);
        }
        self.tools.events.append(&mut ops, &self.event("container.delete"))?;
        // Lost with the power, it is found as being removed, and removed again.
        self.tools.store.commit(ops, Durability::Process).await?;
        faultpoint::reach("delete.committed").await;
        self.tools.table.remove(&self.record);
        self.view.send_modify(|view| view.gone = true);
        // One that finds no room is found when the next comes.
        let _ = self
            .tools
            .removed
            .try_send((self.record.namespace.clone(), self.record.image.id.clone()));
        tracing::info!(container = self.record.id.short(), "removed");
        Ok(())
    }

    /// Makes a transition that nobody asked for, if it is one.
    async fn change_state(
        &mut self,
        event: machine::Event,
        tell: &[Event],
        durability: Durability,
    ) {
        let Ok(next) = self.record.state.after(event) else { return };
        self.record.state = next;
        self.record.revision += 1;
        // What has happened has happened, whatever the disk says.
        if let Err(error) = self.commit_needing(Need::Removal, tell, durability).await {
            tracing::error!(
                container = self.record.id.short(),
                error = fault::chain(&error),
                "state is not kept"
            );
        }
    }

    /// Puts into the journal what changes no record.
    async fn tell(&self, event: Event) {
        let mut ops = Ops::new();
        let told = requests::stamp(&mut ops, Some(&self.record))
            .and_then(|()| self.tools.events.append(&mut ops, &event));
        let told = match told {
            Ok(()) => self.tools.store.commit(ops, Durability::Process).await,
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            let error = fault::chain(&error);
            tracing::warn!(container = self.record.id.short(), error, "event is not kept");
        }
    }

    fn bundle(&self) -> crate::drivers::shims::Bundle {
        crate::drivers::shims::Bundle::of(&self.tools.bundles, &self.record.id)
    }

    fn event(&self, topic: &str) -> Event {
        Event::now(&self.record.namespace, topic, self.record.id.as_str())
            .with("name", &self.record.name)
            .with("image", &self.record.spec.image)
    }

    /// Writes the record (and what happened) and tells those who watch.
    async fn commit(&self, events: &[Event], durability: Durability) -> Result<(), Error> {
        self.commit_needing(Need::Change, events, durability).await
    }

    async fn commit_needing(
        &self,
        need: Need,
        events: &[Event],
        durability: Durability,
    ) -> Result<(), Error> {
        let mut ops = Ops::new();
        ops.needs(need);
        ops.put(self.record.key(), &self.record)?;
        requests::stamp(&mut ops, Some(&self.record))?;
        for event in events {
            self.tools.events.append(&mut ops, event)?;
        }
        self.tools.store.commit(ops, durability).await?;
        self.view.send_replace(View { record: Arc::new(self.record.clone()), gone: false });
        Ok(())
    }

    /// After a commit that was refused: the container is as it was.
    fn as_committed(&mut self, error: Error) -> Error {
        self.record = (*self.view.borrow().record).clone();
        error
    }

    fn next(&self, event: machine::Event, verb: &'static str) -> Result<State, Error> {
        self.record.state.after(event).map_err(|_| self.wrong_state(verb, ""))
    }

    fn wrong_state(&self, verb: &'static str, hint: &'static str) -> Error {
        let name = self.record.name.clone();
        Error::State { verb, name, state: self.record.state.name(), hint }
    }

    fn shim_error(&self, source: ShimError) -> Error {
        Error::Shim { name: self.record.name.clone(), source }
    }
}

/// What a fault point makes of a step.
fn fault_error(name: &ContainerName, source: std::io::Error) -> Error {
    Error::File { step: "work on", path: name.as_str().into(), source }
}
