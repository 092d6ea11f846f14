//! What is wrong with all that is kept, and with what runs: found, told, and on request put right.
//!
//! Nothing is deleted: a record that can't be read and a file that is nobody's are moved to
//! `<root>/set-aside`. What is taken away are processes, cgroups and mounts that are Wharf's own and
//! no container's any more. All of it blocks, but for what says otherwise.
//!
//! While a supervisor runs, things come and go: it looks twice, and tells what it has seen both times.

mod examine;
mod repair;

use std::{collections::HashMap, fmt, path::PathBuf};

pub use examine::{Depth, Doctor};
pub use repair::Repaired;

use super::{
    containers::record::Record as Container,
    events::{Event, Events},
    images::{self, Images, KnownAs},
    volumes::Volume,
};
use crate::{
    drivers::{
        aside::{Aside, Item},
        leftovers::ShimProcess,
        snapshots::LayerRecord,
    },
    fault,
    store::{self, Durability, Ops, Record, Store, Unreadable},
};

/// Records whose loss may make anything look like garbage.
const KEEPERS: [&str; 4] = [Container::TREE, images::Image::TREE, LayerRecord::TREE, Volume::TREE];
/// Beginning of the names of records that were set aside.
const RECORD: &str = "record-";
/// And of whole stores.
const STORE: &str = "meta-";

/// What something is that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Something that was set aside.
    SetAside,
    /// A record that can't be read.
    Record,
    /// A container on which something was begun and not finished.
    Intent,
    /// A layer or blob that a record names.
    Missing,
    /// A shim, or what it has started.
    Process,
    /// A cgroup of a container.
    Cgroup,
    /// A mount on the host.
    Mount,
    /// A file or folder.
    File,
    /// Room on the disk.
    Space,
}

impl Subject {
    /// As the API and people say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SetAside => "set-aside",
            Self::Record => "record",
            Self::Intent => "intent",
            Self::Missing => "missing",
            Self::Process => "process",
            Self::Cgroup => "cgroup",
            Self::Mount => "mount",
            Self::File => "file",
            Self::Space => "space",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub subject: Subject,
    /// Which: a path, a pid, a name.
    pub what: String,
    /// What is wrong with it.
    pub problem: String,
    /// What `--repair` does, or what can be done by hand.
    pub remedy: String,
    repair: Repair,
}

impl Finding {
    /// Whether `--repair` does something about it.
    #[must_use]
    pub fn is_repairable(&self) -> bool {
        self.repair != Repair::ByHand
    }
}

/// What is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Repair {
    ByHand,
    Settle(Item),
    Record(Unreadable),
    Finish(String, String),
    Kill(ShimProcess),
    Cgroup(PathBuf),
    Unmount(PathBuf),
    Move(PathBuf),
}

/// Records of all kinds that can't be read, but for those that nobody misses.
///
/// # Errors
/// When a tree can't be read.
pub fn unreadable(store: &Store) -> Result<Vec<Unreadable>, store::Error> {
    let mut found = store.unreadable::<Container>()?;
    found.extend(images::unreadable(store)?);
    found.extend(store.unreadable::<LayerRecord>()?);
    found.extend(store.unreadable::<Volume>()?);
    Ok(found)
}

/// Moves a record out of the store; its bytes are on the disk before it leaves.
///
/// # Errors
/// When it can't be written or taken out.
pub fn set_record_aside(
    store: &Store,
    aside: &Aside,
    unreadable: &Unreadable,
) -> Result<Item, store::Error> {
    let Unreadable { tree, key, problem } = unreadable;
    let bytes = store.raw(tree, key)?.unwrap_or_default();
    let name = format!("{RECORD}{tree}-{}", String::from_utf8_lossy(key));
    let item = aside.write(&bytes, &name, problem).map_err(store::Error::Backup)?;
    store.remove_raw(tree, key)?;
    Ok(item)
}

/// Puts into the journal what was set aside at this start.
///
/// # Errors
/// When it can't be written.
pub fn tell(store: &Store, events: &Events, items: &[Item]) -> Result<(), store::Error> {
    if items.is_empty() {
        return Ok(());
    }
    let mut ops = Ops::new();
    let namespace = "default".parse().expect("a name");
    for item in items {
        let event = Event::now(&namespace, "system.set-aside", &item.name())
            .with("path", item.path.display())
            .with("why", &item.why);
        events.append(&mut ops, &event)?;
    }
    store.commit_blocking(ops, Durability::Power)
}

/// Whether it is a whole store that was set aside.
#[must_use]
pub fn is_store(item: &Item) -> bool {
    item.name().starts_with(STORE)
}

/// Whether something is set aside that might need anything: then nothing is garbage.
#[must_use]
pub fn needs_all(root: &std::path::Path) -> bool {
    let keeper = |name: &str| {
        name.starts_with(STORE)
            || name
                .strip_prefix(RECORD)
                .is_some_and(|tree| KEEPERS.iter().any(|keeper| tree.starts_with(keeper)))
    };
    Aside::of(root).list().iter().any(|item| keeper(&item.name()))
}

/// Takes images in again from the content store, after their records were lost.
pub async fn find_images(images: Images, known: HashMap<String, Vec<KnownAs>>) {
    match images.take_in_again(&known).await {
        Ok(count) => tracing::info!(count, "images are taken in again from their content"),
        Err(error) => tracing::warn!(error = fault::chain(&error), "images are not looked for"),
    }
}
