//! Volumes: folders that outlive the containers they are mounted in.
//!
//! ```text
//! <root>/volumes/<namespace>/<name>/   data/    what is mounted
//!                                      pending  until the record that names it is committed
//!                                      fill/    the image's files on their way into it
//! ```
//!
//! A volume that a container needs is recorded by the same commit as the container. A folder with
//! `pending` and no record was on its way when the supervisor ended, and goes; one without either is
//! not ours, and is reported and left alone. What is to be removed is marked first, so that a removal
//! that was begun is finished.

mod error;
mod fill;
mod prepared;
mod record;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

pub use error::Error;
pub use prepared::Prepared;
pub use record::Volume;
use tokio::sync::RwLock;

use crate::{
    drivers::snapshots::{RootView, Trash, Usage, measure},
    faultpoint,
    ids::{Namespace, VolumeName, random_hex},
    services::{
        events::{Event, Events, now_unix_ns},
        requests,
    },
    store::{Durability, Ops, Store},
};

/// Docker's mark of a volume that nobody named.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// Who uses volumes: the containers.
pub trait VolumeUsers: Send + Sync {
    /// Names of containers by the volumes they have, of all namespaces.
    fn users(&self) -> HashMap<(Namespace, VolumeName), Vec<String>>;
}

/// A volume that is wanted.
#[derive(Clone, Debug, Default)]
pub struct NewVolume {
    /// Made up when empty.
    pub name: Option<VolumeName>,
    /// "local", or empty.
    pub driver: String,
    /// For the driver: `type=none`, `o=bind`, `device=/path` for a folder of the host.
    pub options: BTreeMap<String, String>,
    /// For people and programs.
    pub labels: BTreeMap<String, String>,
}

/// The service; clones share it.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    trash: Trash,
    store: Store,
    events: Events,
    users: OnceLock<Arc<dyn VolumeUsers>>,
    /// Read by who relies on a volume that no container's record names yet; written by who takes
    /// volumes away.
    gate: Arc<RwLock<()>>,
    /// One at a time makes and fills.
    making: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volumes").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

/// A volume that a container names.
#[derive(Clone, Debug)]
pub struct Asked {
    /// None: one of its own.
    pub name: Option<VolumeName>,
    /// Where it is mounted: what the image has there goes into an empty one.
    pub target: String,
    /// Do not fill it.
    pub no_copy: bool,
}

impl Volumes {
    /// The volumes in the data folder `data`, whose folder is made when missing. Blocks.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open(data: &Path, store: Store, events: Events) -> Result<Self, Error> {
        let root = data.join("volumes");
        make_private(&root)?;
        let trash = root.join(".trash");
        make_private(&trash)?;
        let opened = Trash::open(&trash);
        let trash = opened.map_err(|e| Error::io("empty", &trash, io::Error::other(e)))?;
        let inner = Inner {
            root,
            trash,
            store,
            events,
            users: OnceLock::new(),
            gate: Arc::default(),
            making: tokio::sync::Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Says who uses volumes, once and before the first is removed.
    pub fn set_users(&self, users: Arc<dyn VolumeUsers>) {
        let first = self.inner.users.set(users);
        debug_assert!(first.is_ok(), "set once");
    }

    fn folder(&self, volume: &Volume) -> PathBuf {
        self.inner.root.join(volume.namespace.as_str()).join(volume.name.as_str())
    }

    /// What is mounted.
    #[must_use]
    pub fn source(&self, volume: &Volume) -> PathBuf {
        match volume.options.get("device") {
            Some(device) => PathBuf::from(device),
            None => self.folder(volume).join("data"),
        }
    }

    /// What is mounted for a volume of a container that is about to start.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn source_of(&self, namespace: &Namespace, name: &str) -> Result<PathBuf, Error> {
        Ok(self.source(&self.get(namespace, name)?))
    }

    /// One volume.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, namespace: &Namespace, name: &str) -> Result<Volume, Error> {
        let found = self.inner.store.get::<Volume>(&record::key(namespace, name))?;
        found.filter(|v| !v.removing).ok_or_else(|| Error::NotFound(name.into()))
    }

    /// All volumes of a namespace, in the order of their names.
    ///
    /// # Errors
    /// When the records can't be read.
    pub fn list(&self, namespace: &Namespace) -> Result<Vec<Volume>, Error> {
        let start = record::key(namespace, "");
        let mut volumes = Vec::new();
        for item in self.inner.store.from::<Volume>(&start)? {
            match item {
                Ok((key, volume)) if key.starts_with(&start) => volumes.push(volume),
                Ok(_) => break,
                Err(error) => {
                    tracing::error!(error = crate::fault::chain(&error), "volume set aside");
                }
            }
        }
        volumes.retain(|volume| !volume.removing);
        Ok(volumes)
    }

    /// Space that a volume takes. Blocks.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn usage(&self, volume: &Volume) -> Result<Usage, Error> {
        let source = self.source(volume);
        measure(&source).map_err(|e| Error::io("measure", &source, io::Error::other(e)))
    }

    /// Makes a volume. One that is there already with the same options is as wanted.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind.
    pub async fn create(&self, namespace: &Namespace, new: NewVolume) -> Result<Volume, Error> {
        check(&new)?;
        let anonymous = new.name.is_none();
        let name = match new.name {
            Some(name) => name,
            // The same each time that the request comes.
            None => match (requests::derived_id("volume"), requests::derived_id("volume/2")) {
                (Some(one), Some(two)) => format!("{one}{two}").parse()?,
                _ => self.made_up()?,
            },
        };
        let _gate = Arc::clone(&self.inner.gate).read_owned().await;
        let _alone = self.inner.making.lock().await;
        if let Ok(there) = self.get(namespace, name.as_str()) {
            let same = there.options == new.options
                && (new.labels.is_empty() || there.labels == new.labels);
            return if same { Ok(there) } else { Err(Error::Exists(name.to_string())) };
        }
        let volume = self.make(namespace, name, anonymous, new.options, new.labels).await?;
        let mut ops = Ops::new();
        let committed = match self.record(&volume, &mut ops) {
            Ok(()) => self.inner.store.commit(ops, Durability::Power).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match committed {
            Ok(()) => self.settle(&volume),
            Err(error) => {
                self.inner.trash.throw(&self.folder(&volume));
                return Err(error);
            }
        }
        Ok(volume)
    }

    /// The volumes that a container is to have, made where they are missing and filled where they
    /// are empty; in the order asked. `view` gives the image's files.
    ///
    /// # Errors
    /// [`Error`]; nothing is left behind.
    pub async fn prepare(
        &self,
        namespace: &Namespace,
        asked: &[Asked],
        view: impl FnOnce() -> Result<RootView, crate::drivers::snapshots::Error> + Send + 'static,
    ) -> Result<(Vec<Volume>, Prepared), Error> {
        let gate = Arc::clone(&self.inner.gate).read_owned().await;
        let _alone = self.inner.making.lock().await;
        let mut prepared =
            Prepared { new: Vec::new(), volumes: self.clone(), kept: false, _gate: gate };
        let mut volumes = Vec::with_capacity(asked.len());
        let mut fills = Vec::new();
        for one in asked {
            let name = match &one.name {
                Some(name) => name.clone(),
                None => self.made_up()?,
            };
            let there = self.get(namespace, name.as_str()).ok();
            let there = there.or_else(|| prepared.new.iter().find(|v| v.name == name).cloned());
            let volume = match there {
                Some(volume) => volume,
                None => {
                    let anonymous = one.name.is_none();
                    let none = BTreeMap::new();
                    let volume = self.make(namespace, name, anonymous, none.clone(), none).await?;
                    prepared.new.push(volume.clone());
                    volume
                }
            };
            if !one.no_copy && !volume.options.contains_key("device") {
                fills.push((volume.clone(), one.target.clone()));
            }
            volumes.push(volume);
        }
        let folders: Vec<_> = fills
            .into_iter()
            .map(|(volume, target)| (volume.name.to_string(), self.folder(&volume), target))
            .collect();
        blocking(move || fill::fill_all(&folders, view)).await?;
        Ok((volumes, prepared))
    }

    /// Takes a volume away.
    ///
    /// # Errors
    /// When it is not there, or a container has it.
    pub async fn remove(&self, namespace: &Namespace, name: &str) -> Result<(), Error> {
        let mut ops = Ops::new();
        requests::stamp(&mut ops, None)?;
        match self.remove_with(namespace, name, ops).await {
            // By this same request, before it came again.
            Err(Error::NotFound(_)) if requests::was_done() => Ok(()),
            other => other,
        }
    }

    async fn remove_with(&self, namespace: &Namespace, name: &str, ops: Ops) -> Result<(), Error> {
        let _gate = self.inner.gate.write().await;
        let volume = self.get(namespace, name)?;
        let users = self.users();
        if let Some(users) = users.get(&(namespace.clone(), volume.name.clone()))
            && let Some(container) = users.first()
        {
            return Err(Error::InUse { volume: name.into(), container: container.clone() });
        }
        self.take_away(volume, ops).await
    }

    /// Takes away the anonymous ones of `names` that nobody uses (any more): with a container that had
    /// them.
    ///
    /// # Errors
    /// When one can't be taken away.
    pub async fn remove_orphans(
        &self,
        namespace: &Namespace,
        names: &[String],
    ) -> Result<(), Error> {
        for name in names {
            match self.get(namespace, name) {
                Ok(volume) if volume.anonymous => {}
                _ => continue,
            }
            match self.remove_with(namespace, name, Ops::new()).await {
                Ok(()) | Err(Error::NotFound(_) | Error::InUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes away those that nobody uses and that `wanted` lets through. Answers with them and their
    /// bytes.
    ///
    /// # Errors
    /// When the records can't be read or one can't be taken away.
    pub async fn prune(
        &self,
        namespace: &Namespace,
        wanted: impl Fn(&Volume) -> bool,
    ) -> Result<(Vec<Volume>, u64), Error> {
        let _gate = self.inner.gate.write().await;
        let users = self.users();
        let mut gone = Vec::new();
        let mut bytes = 0;
        for volume in self.list(namespace)? {
            let key = (namespace.clone(), volume.name.clone());
            if users.contains_key(&key) || !wanted(&volume) {
                continue;
            }
            if !volume.options.contains_key("device") {
                let (volumes, one) = (self.clone(), volume.clone());
                bytes += blocking(move || volumes.usage(&one)).await.map_or(0, |u| u.bytes);
            }
            self.take_away(volume.clone(), Ops::new()).await?;
            gone.push(volume);
        }
        Ok((gone, bytes))
    }

    /// Containers by the volumes they have.
    #[must_use]
    pub fn users(&self) -> HashMap<(Namespace, VolumeName), Vec<String>> {
        self.inner.users.get().map(|users| users.users()).unwrap_or_default()
    }

    /// After the records were lost: folders that are volumes get records again. One that was only
    /// begun does not. Blocks.
    ///
    /// # Errors
    /// When the records or folders can't be read or written.
    pub fn take_in_again(&self) -> Result<(), Error> {
        let mut ops = Ops::new();
        for folder in folders(&self.inner.root)? {
            let text =
                |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Ok(namespace) = text(&folder).parse::<Namespace>() else { continue };
            for folder in folders(&folder)? {
                let Ok(name) = text(&folder).parse::<VolumeName>() else { continue };
                let begun = folder.join("pending").exists() || !folder.join("data").is_dir();
                let key = record::key(&namespace, name.as_str());
                if begun || self.inner.store.get::<Volume>(&key)?.is_some() {
                    continue;
                }
                let is_id = name.as_str().len() == 64
                    && name.as_str().bytes().all(|b| b.is_ascii_hexdigit());
                let volume = Volume {
                    namespace: namespace.clone(),
                    name,
                    anonymous: is_id,
                    labels: BTreeMap::new(),
                    options: BTreeMap::new(),
                    created_unix_ns: now_unix_ns(),
                    removing: false,
                };
                tracing::warn!(path = %folder.display(), "volume is taken in again");
                ops.put(&key, &volume)?;
            }
        }
        if !ops.is_empty() {
            self.inner.store.commit_blocking(ops, Durability::Power)?;
        }
        Ok(())
    }

    /// At start, before anything is made: finishes what was begun. Blocks.
    ///
    /// # Errors
    /// When the records or folders can't be read.
    pub fn sweep(&self) -> Result<(), Error> {
        let mut known = HashSet::new();
        let mut ops = Ops::new();
        let mut all_read = true;
        for item in self.inner.store.all::<Volume>()? {
            match item {
                Ok((key, volume)) if volume.removing => {
                    take(&self.inner.trash, &self.folder(&volume))?;
                    ops.delete::<Volume>(&key);
                }
                Ok((_, volume)) => {
                    self.settle(&volume);
                    known.insert(self.folder(&volume));
                }
                Err(error) => {
                    all_read = false;
                    tracing::error!(error = crate::fault::chain(&error), "volume set aside");
                }
            }
        }
        if !ops.is_empty() {
            self.inner.store.commit_blocking(ops, Durability::Process)?;
        }
        if !all_read {
            return Ok(());
        }
        for namespace in folders(&self.inner.root)? {
            if namespace.ends_with(".trash") {
                continue;
            }
            for folder in folders(&namespace)? {
                if known.contains(&folder) {
                    continue;
                }
                if folder.join("pending").exists() {
                    take(&self.inner.trash, &folder)?;
                } else {
                    tracing::warn!(path = %folder.display(), "a folder that is no volume: left alone");
                }
            }
        }
        Ok(())
    }

    fn made_up(&self) -> Result<VolumeName, Error> {
        let text =
            random_hex::<32>().map_err(|e| Error::io("read", Path::new("/dev/urandom"), e))?;
        Ok(text.parse()?)
    }

    /// The folder, and what its record will be.
    async fn make(
        &self,
        namespace: &Namespace,
        name: VolumeName,
        anonymous: bool,
        options: BTreeMap<String, String>,
        mut labels: BTreeMap<String, String>,
    ) -> Result<Volume, Error> {
        if anonymous {
            labels.insert(ANONYMOUS_LABEL.into(), String::new());
        }
        let volume = Volume {
            namespace: namespace.clone(),
            name,
            anonymous,
            labels,
            options,
            created_unix_ns: now_unix_ns(),
            removing: false,
        };
        let folder = self.folder(&volume);
        let trash = self.inner.trash.clone();
        blocking(move || {
            // Left by one that was not recorded; one that is not ours has no mark, and stops us.
            if folder.join("pending").exists() {
                take(&trash, &folder)?;
            }
            if let Some(parent) = folder.parent() {
                make_private(parent)?;
            }
            let make = |path: &Path| {
                DirBuilder::new().mode(0o700).create(path).map_err(|e| Error::io("make", path, e))
            };
            // Made by one that ended before it was marked.
            let _ = fs::remove_dir(&folder);
            make(&folder)?;
            faultpoint::step_blocking("volume.folder.made")
                .map_err(|e| Error::io("make", &folder, e))?;
            let mark = folder.join("pending");
            File::create(&mark).map_err(|e| Error::io("make", &mark, e))?;
            faultpoint::step_blocking("volume.made").map_err(|e| Error::io("make", &folder, e))?;
            let data = folder.join("data");
            make(&data)?;
            fs::set_permissions(&data, fs::Permissions::from_mode(0o755))
                .and_then(|()| File::open(&folder)?.sync_all())
                .map_err(|e| Error::io("make", &data, e))
        })
        .await?;
        Ok(volume)
    }

    fn record(&self, volume: &Volume, ops: &mut Ops) -> Result<(), Error> {
        ops.put(&volume.key(), volume)?;
        let event = Event::now(&volume.namespace, "volume.create", volume.name.as_str());
        self.inner.events.append(ops, &event)?;
        Ok(())
    }

    /// Its record is committed: the mark goes.
    fn settle(&self, volume: &Volume) {
        let mark = self.folder(volume).join("pending");
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %mark.display(), %error, "mark of a new volume stays");
            }
            _ => {}
        }
    }

    /// The record and the folder; `ops` becomes true with the decision.
    async fn take_away(&self, mut volume: Volume, mut ops: Ops) -> Result<(), Error> {
        volume.removing = true;
        ops.put(&volume.key(), &volume)?;
        self.inner.store.commit(ops, Durability::Power).await?;
        faultpoint::reach("volume.remove.marked").await;
        let (folder, trash) = (self.folder(&volume), self.inner.trash.clone());
        blocking(move || take(&trash, &folder)).await?;
        faultpoint::reach("volume.remove.folder").await;
        let mut ops = Ops::new();
        ops.delete::<Volume>(&volume.key());
        let event = Event::now(&volume.namespace, "volume.delete", volume.name.as_str());
        self.inner.events.append(&mut ops, &event)?;
        Ok(self.inner.store.commit(ops, Durability::Process).await?)
    }
}

fn check(new: &NewVolume) -> Result<(), Error> {
    if !matches!(new.driver.as_str(), "" | "local") {
        let problem = format!("{:?} is not known: there is only \"local\"", new.driver);
        return Err(Error::Field { field: "driver", problem });
    }
    if new.options.is_empty() {
        return Ok(());
    }
    let get = |key: &str| new.options.get(key).map(String::as_str).unwrap_or_default();
    let binds = get("o").split(',').any(|o| o == "bind" || o == "rbind");
    let known = new.options.keys().all(|k| ["type", "o", "device"].contains(&k.as_str()));
    if !known || !matches!(get("type"), "none" | "") || !binds || !get("device").starts_with('/') {
        let problem = "only a folder of the host can be made a volume: type=none, o=bind and \
                       device=/an/absolute/path; nothing is mounted on the host";
        return Err(Error::Field { field: "options", problem: problem.into() });
    }
    if !Path::new(get("device")).is_dir() {
        let problem = format!("device: {} is not a folder of the host", get("device"));
        return Err(Error::Field { field: "options", problem });
    }
    Ok(())
}

fn take(trash: &Trash, folder: &Path) -> Result<(), Error> {
    trash.take(folder).map_err(|e| Error::io("remove", folder, io::Error::other(e)))
}

fn make_private(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Error::io("make", dir, e))
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Error::io("work on", Path::new("volumes"), io::Error::other(error))),
    }
}
