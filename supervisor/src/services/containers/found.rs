//! Containers that run and that no record tells of, because the metadata was damaged: each bundle
//! holds the record of its container as it was when it was started, and is taken at its word.
//!
//! Where the store knows less than a bundle does (it is of an older day, from a backup), the bundle's
//! record stands.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wharf_proto::task::Mount;

use super::{
    Error,
    driver::Tools,
    machine::{Run, State},
    record::Record,
};
use crate::{
    ids::SHORT_LEN,
    services::events::Event,
    store::{Durability, Need, Ops},
};

/// In a bundle: [`Kept`].
pub(super) const FILE: &str = "wharf.json";
const VERSION: u32 = 1;

/// What a bundle tells of its container.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    record: Record,
    /// Options of the mounts of its root file system.
    #[serde(default)]
    mounted: Vec<String>,
}

/// The shim's state, as far as it matters here.
#[derive(Deserialize)]
struct ShimState {
    is_started: bool,
    runtime: Task,
}

#[derive(Deserialize)]
struct Task {
    pid: u32,
}

impl Kept {
    /// As it is written.
    pub(super) fn text(record: &Record, rootfs: &[Mount]) -> String {
        let options =
            rootfs.iter().flat_map(|mount| [&mount.source].into_iter().chain(&mount.options));
        let kept =
            Self { version: VERSION, record: record.clone(), mounted: options.cloned().collect() };
        serde_json::to_string(&kept).expect("a record that was committed is JSON")
    }

    fn read(bundle: &Path) -> io::Result<Self> {
        let bytes = fs::read(bundle.join(FILE))?;
        let kept: Self = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        let fits = bundle.file_name().is_some_and(|name| name == kept.record.id.short());
        if kept.version != VERSION || !fits {
            return Err(io::Error::other("it is of another version or container"));
        }
        Ok(kept)
    }
}

fn bundles(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_bundle(path)).collect()
}

/// Whether it may be one of ours, by its name.
pub(super) fn is_bundle(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.len() == SHORT_LEN && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// See [`super::Containers::mounted`].
pub(super) fn mounted(folder: &Path) -> Vec<String> {
    let kept = bundles(folder).into_iter().filter_map(|bundle| Kept::read(&bundle).ok());
    kept.flat_map(|kept| kept.mounted).collect()
}

/// Puts the records of bundles into the store where it has none, or an older one.
pub(super) fn take_in(tools: &Tools) -> Result<(), Error> {
    for bundle in bundles(&tools.bundles) {
        let kept = match Kept::read(&bundle) {
            Ok(kept) => kept,
            // It had not been written yet when the supervisor ended, or an older one wrote the bundle.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::error!(path = %bundle.display(), %error, "bundle is not understood");
                continue;
            }
        };
        let record = kept.record;
        let known = match tools.store.get::<Record>(record.key()) {
            Ok(known) => known,
            // It was set aside before; whatever is there now is not overwritten.
            Err(_) => continue,
        };
        if known.is_none_or(|known| known.revision < record.revision) {
            let record = as_it_runs(tools, record, &bundle);
            let mut ops = Ops::new();
            ops.needs(Need::Removal);
            ops.put(record.key(), &record)?;
            let event = Event::now(&record.namespace, "container.found", record.id.as_str())
                .with("name", &record.name)
                .with("image", &record.spec.image);
            tools.events.append(&mut ops, &event)?;
            tools.store.commit_blocking(ops, Durability::Power)?;
            tracing::warn!(
                container = record.id.short(),
                name = %record.name,
                "a container that the metadata has lost is taken in again"
            );
        }
    }
    Ok(())
}

/// The record of a start, as it is now: the shim's own state says whether it was executed.
fn as_it_runs(tools: &Tools, mut record: Record, bundle: &Path) -> Record {
    record.name = free_name(tools, &record);
    record.revision += 1;
    let State::Starting { number, log_start } = &record.state else { return record };
    let path = bundle.join("state.json");
    let state = fs::read(&path).ok().and_then(|b| serde_json::from_slice::<ShimState>(&b).ok());
    let Some(ShimState { is_started: true, runtime: Task { pid } }) = state else { return record };
    let seconds = fs::metadata(&path).map_or(0, |meta| meta.mtime());
    record.state = State::Running(Run {
        number: *number,
        pid,
        started_unix_ns: seconds.saturating_mul(1_000_000_000),
        boot_id: tools.boot_id.clone(),
        log_start: log_start.clone(),
    });
    record
}

/// Its name, or if another has that by now, one with its id.
fn free_name(tools: &Tools, record: &Record) -> crate::ids::ContainerName {
    let Ok(all) = tools.store.all::<Record>() else { return record.name.clone() };
    let taken = all.flatten().any(|(_, other)| {
        other.id != record.id && other.namespace == record.namespace && other.name == record.name
    });
    let longer = || format!("{}-{}", record.name, record.id.short()).parse().ok();
    taken.then(longer).flatten().unwrap_or_else(|| record.name.clone())
}
