//! All containers by id and by name, in memory. Reads never wait for a container or its shim.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::{mpsc, watch};

use super::{Error, driver::Command, record::Record};
use crate::{
    drivers::shims::Shim,
    ids::{ContainerId, ContainerName, Namespace},
};

/// A container as it is seen from outside its task.
#[derive(Clone, Debug)]
pub struct View {
    /// As it was last committed.
    pub record: Arc<Record>,
    /// It was removed; the record is its last.
    pub gone: bool,
}

/// The way to one container: to its task, its view, its shim.
#[derive(Clone, Debug)]
pub struct Handle {
    /// To its task.
    pub commands: mpsc::Sender<Command>,
    /// What was last committed.
    pub view: watch::Receiver<View>,
    /// While it runs and its shim answers.
    pub shim: watch::Receiver<Option<Shim>>,
    /// How many clients are attached.
    pub attached: Arc<watch::Sender<usize>>,
}

/// A client that is attached, for as long as this lives: a container that removes itself waits for
/// it to have read everything.
#[derive(Debug)]
pub struct Attachment(Arc<watch::Sender<usize>>);

impl Drop for Attachment {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Handle {
    /// One more client is attached.
    #[must_use]
    pub fn attach(&self) -> Attachment {
        self.attached.send_modify(|count| *count += 1);
        Attachment(Arc::clone(&self.attached))
    }

    /// The record as it is now.
    #[must_use]
    pub fn record(&self) -> Arc<Record> {
        Arc::clone(&self.view.borrow().record)
    }
}

/// A name that was taken for a container that is not there yet; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    table: Arc<Table>,
    namespace: Namespace,
    name: ContainerName,
    id: ContainerId,
    kept: bool,
}

impl Reservation {
    /// The name stays taken from now on.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.kept {
            self.table.free_name(&self.namespace, &self.name, &self.id);
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    by_id: BTreeMap<ContainerId, Handle>,
    names: HashMap<(Namespace, ContainerName), ContainerId>,
}

/// All containers.
#[derive(Debug, Default)]
pub struct Table(RwLock<Inner>);

impl Table {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for `id`.
    ///
    /// # Errors
    /// [`Error::NameTaken`].
    pub fn reserve(
        self: &Arc<Self>,
        namespace: &Namespace,
        name: &ContainerName,
        id: &ContainerId,
    ) -> Result<Reservation, Error> {
        let mut inner = self.write();
        let key = (namespace.clone(), name.clone());
        match inner.names.get(&key) {
            Some(by) if by != id => {
                return Err(Error::NameTaken { name: name.clone(), by: by.clone() });
            }
            _ => inner.names.insert(key, id.clone()),
        };
        Ok(Reservation {
            table: Arc::clone(self),
            namespace: namespace.clone(),
            name: name.clone(),
            id: id.clone(),
            kept: false,
        })
    }

    /// Gives a name back, if `id` has it.
    pub fn free_name(&self, namespace: &Namespace, name: &ContainerName, id: &ContainerId) {
        let mut inner = self.write();
        let key = (namespace.clone(), name.clone());
        if inner.names.get(&key) == Some(id) {
            inner.names.remove(&key);
        }
    }

    /// Whether another container's folder has this name already.
    #[must_use]
    pub fn short_id_taken(&self, id: &ContainerId) -> bool {
        with_prefix(&self.read(), id.short()).next().is_some()
    }

    /// Adds a container; its name is taken already.
    pub fn insert(&self, id: ContainerId, handle: Handle) {
        self.write().by_id.insert(id, handle);
    }

    /// Forgets a container and its name.
    pub fn remove(&self, record: &Record) {
        self.write().by_id.remove(&record.id);
        self.free_name(&record.namespace, &record.name, &record.id);
    }

    /// The container called `text`: a name, an id, or the unique beginning of an id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn find(&self, namespace: &Namespace, text: &str) -> Result<Handle, Error> {
        let inner = self.read();
        if let Ok(name) = text.parse::<ContainerName>()
            && let Some(id) = inner.names.get(&(namespace.clone(), name))
            && let Some(handle) = inner.by_id.get(id)
        {
            return Ok(handle.clone());
        }
        let hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex {
            return Err(Error::NotFound(text.into()));
        }
        let lower = text.to_ascii_lowercase();
        let mut found = with_prefix(&inner, &lower)
            .filter(|(_, handle)| handle.view.borrow().record.namespace == *namespace);
        match (found.next(), found.next()) {
            (Some((_, handle)), None) => Ok(handle.clone()),
            (Some(_), Some(_)) => Err(Error::Ambiguous(text.into())),
            (None, _) => Err(Error::NotFound(text.into())),
        }
    }

    /// The records of all containers.
    #[must_use]
    pub fn records(&self) -> Vec<Arc<Record>> {
        self.read().by_id.values().map(Handle::record).collect()
    }

    /// The ways to all containers.
    #[must_use]
    pub fn handles(&self) -> Vec<Handle> {
        self.read().by_id.values().cloned().collect()
    }
}

fn with_prefix<'a>(
    inner: &'a Inner,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a ContainerId, &'a Handle)> {
    // The smallest id that begins so.
    let first: Option<ContainerId> = format!("{prefix:0<64}").parse().ok();
    let from = first.map_or(Bound::Unbounded, Bound::Included);
    inner
        .by_id
        .range((from, Bound::Unbounded))
        .take_while(move |(id, _)| id.as_str().starts_with(prefix))
}
