//! Containers: what may be asked of them, and every rule about it.
//!
//! ```text
//! call ──▶ Containers ──▶ Table: who is that? ──▶ Driver: one task a container, which alone
//!            │                                    changes its record and drives its shim
//!            └─ list, get, wait: the view that the driver last committed; never waits for a shim
//! ```

mod commit;
mod create;
mod devices;
mod driver;
mod error;
mod exec;
mod exec_record;
mod files;
mod found;
mod freeze;
pub mod health;
mod launch;
pub mod machine;
mod names;
pub mod oci;
mod output;
mod probe;
pub mod process;
mod prune;
pub mod record;
pub mod restart;
pub mod seccomp;
mod shutdown;
pub mod spec;
mod stats;
mod table;
mod top;
pub mod user;
pub mod user_namespace;
mod volumes;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

pub use commit::CommitRequest;
pub use create::NewContainer;
pub use driver::{Change, Tools};
pub use error::Error;
pub use exec::{ExecOutput, ExecRequest, ExecSession, Watched};
pub use files::Root;
pub use launch::Window;
pub use output::{Feed, Follow, From, NextStart, Piece};
pub use shutdown::ShutDown;
pub use stats::{Sample, Sampler};
pub use table::{Attachment, Table, View};
use tokio::sync::oneshot;
pub use top::TopEntry;

use crate::{
    config::Network,
    drivers::{content::Digest, shims::Bundle},
    ids::{ContainerId, ContainerName, Namespace},
    services::{
        images::{ImageUser, Images, KnownAs, Users},
        requests,
    },
};
use create::gone_since;
use driver::{Command, Driver};
use machine::{End, State};
use record::Record;
use spec::Signal;
use table::Handle;
use user_namespace::{Ranges, UserNamespace};

/// How long a killed container may take to be seen dead.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// How long a call waits for a shim that is being found.
const REACH_LIMIT: Duration = Duration::from_secs(10);

/// What fills in for what a request leaves open.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Of containers that name none.
    pub network: Network,
    /// Between the stop signal and SIGKILL.
    pub stop_timeout: Duration,
    /// Of containers that do not say whose users they have.
    pub user_namespace: UserNamespace,
    /// Where ranges for them come from.
    pub user_ranges: user_namespace::Source,
}

/// The service; clones share it.
#[derive(Clone, Debug)]
pub struct Containers {
    tools: Arc<Tools>,
    images: Images,
    defaults: Defaults,
    ranges: Ranges,
    /// Records that could not be taken up.
    set_aside: usize,
}

impl Containers {
    /// The containers that the store knows, each taken up by its task. Answers before the tasks
    /// have found their shims: calls on a container wait for its own.
    ///
    /// # Errors
    /// When the store can't be read at all; a record that can't be is reported and left alone.
    pub fn load(tools: Arc<Tools>, images: Images, defaults: Defaults) -> Result<Self, Error> {
        let mut set_aside = 0;
        found::take_in(&tools)?;
        for record in tools.store.all::<Record>()? {
            let taken_up = record.map_err(Error::from).and_then(|(_, record)| {
                let name = tools.table.reserve(&record.namespace, &record.name, &record.id)?;
                name.keep();
                Driver::take_up(&tools, record);
                Ok(())
            });
            if let Err(error) = taken_up {
                tracing::error!(error = crate::fault::chain(&error), "container set aside");
                set_aside += 1;
            }
        }
        let ranges = Ranges::new(defaults.user_ranges.clone());
        Ok(Self { tools, images, defaults, ranges, set_aside })
    }

    /// Records that could not be taken up: what they point to must be left alone.
    #[must_use]
    pub fn set_aside(&self) -> usize {
        self.set_aside
    }

    /// The records of a namespace, newest first.
    #[must_use]
    pub fn list(&self, namespace: &Namespace) -> Vec<Arc<Record>> {
        let mut records = self.tools.table.records();
        records.retain(|record| record.namespace == *namespace);
        records.sort_by(|a, b| (b.created_unix_ns, &b.id).cmp(&(a.created_unix_ns, &a.id)));
        records
    }

    /// How many there are, and how many of them run.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let records = self.tools.table.records();
        let live = records.iter().filter(|record| record.state.is_live()).count();
        (records.len(), live)
    }

    /// One record.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn get(&self, namespace: &Namespace, container: &str) -> Result<Arc<Record>, Error> {
        Ok(self.tools.table.find(namespace, container)?.record())
    }

    /// The OCI spec of a container's next start, as JSON.
    #[must_use]
    pub fn oci_spec(&self, record: &Record) -> String {
        launch::oci_config(&self.tools, record).to_string()
    }

    /// Where the log of a container is.
    #[must_use]
    pub fn log_path(&self, record: &Record) -> PathBuf {
        self.tools.log_path(record)
    }

    /// Where the bundle of a container is while it runs.
    #[must_use]
    pub fn bundle_path(&self, record: &Record) -> PathBuf {
        Bundle::of(&self.tools.bundles, &record.id).path().to_owned()
    }

    /// Starts a container; one that runs already is as wanted.
    ///
    /// # Errors
    /// [`Error::Start`] when its process can't be executed, and others.
    pub async fn start(
        &self,
        namespace: &Namespace,
        container: &str,
        window: Window,
    ) -> Result<Arc<Record>, Error> {
        let handle = match self.tools.table.find(namespace, container) {
            Ok(handle) => handle,
            Err(error) => return gone_since(error),
        };
        self.start_handle(&handle, window).await
    }

    async fn start_handle(&self, handle: &Handle, window: Window) -> Result<Arc<Record>, Error> {
        let before = requests::done_before();
        if before.is_some_and(|before| started_since(&before, &handle.record())) {
            return Ok(handle.record());
        }
        if !matches!(handle.record().state, State::Running(_)) {
            ask(handle, |reply| Command::Start { window, reply }).await?;
        }
        Ok(handle.record())
    }

    /// Sends a signal to the container's process.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub async fn kill(
        &self,
        namespace: &Namespace,
        container: &str,
        signal: Signal,
    ) -> Result<(), Error> {
        if requests::was_done() {
            return Ok(());
        }
        let handle = self.tools.table.find(namespace, container)?;
        ask(&handle, |reply| Command::Kill { signal, reply }).await
    }

    /// Stops a container: its stop signal, the timeout, SIGKILL. One that has stopped is as wanted.
    ///
    /// # Errors
    /// [`Error::Unkillable`] when not even SIGKILL ends it.
    pub async fn stop(
        &self,
        namespace: &Namespace,
        container: &str,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<Arc<Record>, Error> {
        let handle = match self.tools.table.find(namespace, container) {
            Ok(handle) => handle,
            Err(error) => return gone_since(error),
        };
        let record = handle.record();
        if matches!(record.state, State::Created) {
            return Ok(record);
        }
        // One that waits for its restart does not get it.
        ask(&handle, |reply| Command::PutDown { reply }).await?;
        let signal = signal.or(record.spec.stop_signal).unwrap_or(Signal::TERM);
        let own = record.spec.stop_timeout_ms.map(Duration::from_millis);
        let timeout = timeout.or(own).unwrap_or(self.defaults.stop_timeout);
        self.end(&handle, signal, timeout).await?;
        Ok(handle.record())
    }

    async fn end(&self, handle: &Handle, signal: Signal, timeout: Duration) -> Result<(), Error> {
        let number = handle.record().state.number();
        if signal != Signal::KILL {
            match ask(handle, |reply| Command::Kill { signal, reply }).await {
                Ok(()) => {}
                // It has ended by itself, or only SIGKILL can be sent to it.
                Err(Error::State { .. } | Error::Removed(_)) => {}
                Err(error) => return Err(error),
            }
            if matches!(handle.record().state, State::Paused(_)) {
                // A frozen process does not see its signal.
                match ask(handle, |reply| Command::Resume { reply }).await {
                    Ok(()) | Err(Error::State { .. } | Error::Removed(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if wait_end(handle, number, timeout).await {
                return Ok(());
            }
        }
        match ask(handle, |reply| Command::Kill { signal: Signal::KILL, reply }).await {
            Ok(()) | Err(Error::State { .. } | Error::Removed(_)) => {}
            Err(error) => return Err(error),
        }
        if wait_end(handle, number, KILL_LIMIT).await {
            return Ok(());
        }
        Err(Error::Unkillable(handle.record().name.clone()))
    }

    /// Waits until a container has stopped, or is gone. Gives how its last start ended.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub async fn wait(
        &self,
        namespace: &Namespace,
        container: &str,
        until_removed: bool,
    ) -> Result<Option<End>, Error> {
        let mut handle = self.tools.table.find(namespace, container)?;
        let number = handle.record().state.number();
        let mut end = None;
        loop {
            let view = handle.view.borrow_and_update().clone();
            end = view.record.state.end().cloned().or(end);
            let over = !view.record.state.is_live() || view.record.state.number() > number;
            if view.gone || (over && !until_removed) {
                return Ok(end);
            }
            if handle.view.changed().await.is_err() {
                return Ok(end);
            }
        }
    }

    /// Changes the name, labels or limits.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn update(
        &self,
        namespace: &Namespace,
        container: &str,
        change: Change,
    ) -> Result<Arc<Record>, Error> {
        if let Some(before) = requests::done_before() {
            return match self.tools.table.find(namespace, before.id.as_str()) {
                Ok(handle) => Ok(handle.record()),
                Err(error) => gone_since(error),
            };
        }
        let handle = self.tools.table.find(namespace, container)?;
        let record = handle.record();
        let merged = change.resources.as_ref().map(|r| record.spec.resources.merged(r));
        if let Some(merged) = &merged {
            create::check_resources("resources", merged)?;
        }
        if let Some(policy) = change.restart {
            create::check_restart("restart", policy, record.spec.auto_remove)?;
        }
        let name = match &change.name {
            Some(name) if *name != record.name => {
                Some(self.tools.table.reserve(namespace, name, &record.id)?)
            }
            _ => None,
        };
        ask(&handle, |reply| Command::Update { change: Box::new(change), reply }).await?;
        if let Some(name) = name {
            name.keep();
        }
        Ok(handle.record())
    }

    /// Removes a container; with `force`, one that runs is killed first.
    ///
    /// # Errors
    /// [`Error::State`] when it runs.
    pub async fn delete(
        &self,
        namespace: &Namespace,
        container: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        let handle = match self.tools.table.find(namespace, container) {
            Ok(handle) => handle,
            Err(error) => return gone_since(error).map(drop),
        };
        if force && (handle.record().state.is_live() || handle.record().restarts.waiting) {
            // Its policy must not start it in between.
            ask(&handle, |reply| Command::PutDown { reply }).await?;
            self.end(&handle, Signal::KILL, Duration::ZERO).await?;
        }
        match ask(&handle, |reply| Command::Remove { volumes, reply }).await {
            // It removed itself when it stopped.
            Err(Error::Removed(_)) => Ok(()),
            other => other,
        }
    }

    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub async fn resize(
        &self,
        namespace: &Namespace,
        container: &str,
        exec_id: &str,
        window: Window,
    ) -> Result<(), Error> {
        let handle = self.tools.table.find(namespace, container)?;
        let (record, shim) = live(&handle, "resize the terminal of").await?;
        shim.resize(exec_id, window.width, window.height)
            .await
            .map_err(|source| Error::Shim { name: record.name.clone(), source })
    }

    /// Writes to the stdin of the container's process; answers when it has room for all of it.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run, [`Error::Shim`] once stdin is closed.
    pub async fn write_stdin(
        &self,
        namespace: &Namespace,
        container: &str,
        data: Vec<u8>,
    ) -> Result<(), Error> {
        let handle = self.tools.table.find(namespace, container)?;
        let (record, shim) = live(&handle, "write to").await?;
        let written = shim.write_stdin("", data).await;
        written.map_err(|source| Error::Shim { name: record.name.clone(), source })
    }

    /// Closes the stdin of the container's process.
    ///
    /// # Errors
    /// As `write_stdin`.
    pub async fn close_stdin(&self, namespace: &Namespace, container: &str) -> Result<(), Error> {
        let handle = self.tools.table.find(namespace, container)?;
        let (record, shim) = live(&handle, "close the stdin of").await?;
        let closed = shim.close_stdin("").await;
        closed.map_err(|source| Error::Shim { name: record.name.clone(), source })
    }

    /// What containers that run have mounted, as it was given to their shims. Blocks.
    #[must_use]
    pub fn mounted(&self) -> Vec<String> {
        found::mounted(&self.tools.bundles)
    }

    /// Images that containers were made from, by their configs' digests.
    #[must_use]
    pub fn images_known_as(&self) -> HashMap<String, Vec<KnownAs>> {
        let mut known: HashMap<String, Vec<KnownAs>> = HashMap::new();
        for record in self.tools.table.records() {
            let namespace = record.namespace.clone();
            let as_one = KnownAs { namespace, reference: record.spec.image.clone() };
            let all = known.entry(record.image.id.clone()).or_default();
            if !all.contains(&as_one) {
                all.push(as_one);
            }
        }
        known
    }

    /// Ids of all containers of all namespaces.
    #[must_use]
    pub fn ids(&self) -> HashSet<ContainerId> {
        self.tools.table.records().iter().map(|record| record.id.clone()).collect()
    }

    /// Whether the name is free.
    fn name_taken(&self, namespace: &Namespace, name: &ContainerName) -> bool {
        self.tools.table.find(namespace, name.as_str()).is_ok()
    }
}

/// What the images are asked: who uses them.
#[derive(Debug)]
pub struct TableUsers(pub Arc<Table>);

impl Users for TableUsers {
    fn user_of(&self, namespace: &Namespace, image: &Digest) -> Option<ImageUser> {
        let records = self.0.records();
        let users =
            records.iter().filter(|r| r.namespace == *namespace && r.image.id == image.to_string());
        let user = users.max_by_key(|record| record.state.is_live())?;
        Some(ImageUser { name: user.name.to_string(), is_running: user.state.is_live() })
    }

    fn chains_in_use(&self) -> HashSet<Digest> {
        self.0.records().iter().filter_map(|record| record.image.chain_id.clone()).collect()
    }
}

/// Whether the start that a request decided before it came again was made: one that the supervisor's
/// death undid is not.
fn started_since(before: &Record, record: &Record) -> bool {
    let decided = before.state.number();
    match &record.state {
        _ if decided == 0 => false,
        State::Stopped { run, end } => run.number > decided || !end.was_interrupted(),
        State::Running(_) | State::Paused(_) | State::Unreachable(_) | State::Removing { .. } => {
            true
        }
        State::Created | State::Starting { .. } => false,
    }
}

/// Puts a command into a container's queue and waits for its answer.
async fn ask<T>(
    handle: &Handle,
    command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
) -> Result<T, Error> {
    let name = || handle.record().name.clone();
    let (reply, answer) = oneshot::channel();
    let command = match requests::current() {
        Some(ticket) => Command::Under { ticket, command: Box::new(command(reply)) },
        None => command(reply),
    };
    handle.commands.try_send(command).map_err(|error| match error {
        tokio::sync::mpsc::error::TrySendError::Full(_) => Error::Busy(name()),
        tokio::sync::mpsc::error::TrySendError::Closed(_) => Error::Removed(name()),
    })?;
    answer.await.map_err(|_| Error::Removed(name()))?
}

/// The record and the shim of a container that runs. A shim that is just being found, or another
/// being started in its place, is waited for.
async fn running(
    handle: &Handle,
    verb: &'static str,
) -> Result<(Arc<Record>, crate::drivers::shims::Shim), Error> {
    let (record, shim) = live(handle, verb).await?;
    match record.state {
        State::Paused(_) => {
            let (name, state) = (record.name.clone(), record.state.name());
            Err(Error::State { verb, name, state, hint: "; resume it first" })
        }
        _ => Ok((record, shim)),
    }
}

/// As [`running`], or frozen.
async fn live(
    handle: &Handle,
    verb: &'static str,
) -> Result<(Arc<Record>, crate::drivers::shims::Shim), Error> {
    let mut handle = handle.clone();
    let found = async {
        loop {
            let record = Arc::clone(&handle.view.borrow_and_update().record);
            let shim = handle.shim.borrow_and_update().clone();
            match (&record.state, shim) {
                (State::Running(_) | State::Paused(_), Some(shim)) => return Ok((record, shim)),
                (state, _) if state.current().is_none() => return Err(record),
                _ => {}
            }
            let gone = tokio::select! {
                changed = handle.view.changed() => changed.is_err(),
                changed = handle.shim.changed() => changed.is_err(),
            };
            if gone {
                return Err(record);
            }
        }
    };
    match tokio::time::timeout(REACH_LIMIT, found).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(record)) => {
            let (name, state) = (record.name.clone(), record.state.name());
            Err(Error::State { verb, name, state, hint: "" })
        }
        Err(_) => Err(Error::Unreached(handle.record().name.clone())),
    }
}

/// Whether start `number` of a container is over within `limit`.
async fn wait_end(handle: &Handle, number: u64, limit: Duration) -> bool {
    let mut view = handle.view.clone();
    let over = view.wait_for(|view| {
        view.gone || !view.record.state.is_live() || view.record.state.number() > number
    });
    // A task that is gone has nothing that runs.
    tokio::time::timeout(limit, over).await.is_ok()
}
