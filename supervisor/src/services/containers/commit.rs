//! An image from a container: its changes as one more layer, its configuration as the image's.
//!
//! ```text
//! note that it will be paused ─▶ pause ─▶ walk the changes into the content store ─▶ resume ─▶ forget
//!                                                          the note ─▶ config, manifest, record
//! ```
//!
//! The container is paused for the walk only. A supervisor that dies meanwhile leaves the note, and
//! the next one resumes the container.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{Containers, Error, launch, machine::State, record::Record, table::Handle};
use crate::{
    drivers::shims::{Bundle, Shim},
    faultpoint,
    ids::Namespace,
    services::{
        events::now_unix_ns,
        images::{self, Image, instructions},
    },
};

/// What to make of a container.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// The container.
    pub container: String,
    /// As people write it; empty: it is known by its id only.
    pub name: String,
    /// For the history.
    pub message: String,
    /// For the history.
    pub author: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Let it run on meanwhile: files may be caught half written.
    pub keep_running: bool,
}

/// Paths that every container has something mounted on, made where the image has none.
const OWN_PATHS: [&str; 13] = [
    "proc",
    "sys",
    "sys/fs",
    "sys/fs/cgroup",
    "dev",
    "dev/pts",
    "dev/shm",
    "dev/mqueue",
    "dev/console",
    "etc",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
];

/// The same as the walk of changes takes them.
pub(super) fn own_paths() -> HashSet<Vec<u8>> {
    OWN_PATHS.iter().map(|path| path.as_bytes().to_vec()).collect()
}

impl Containers {
    /// Makes an image of a container, which may run or have stopped.
    ///
    /// # Errors
    /// When the image it was made from is gone, an instruction is none, or the disk fails.
    pub async fn commit(
        &self,
        namespace: &Namespace,
        request: CommitRequest,
    ) -> Result<Image, Error> {
        let handle = self.tools.table.find(namespace, &request.container)?;
        let record = handle.record();
        let base = record.image.id.clone();
        let mut config =
            self.images.config_object(namespace, &base).await.map_err(|e| match e {
                images::Error::NotFound(_) => Error::State {
                    verb: "commit",
                    name: record.name.clone(),
                    state: "without its image",
                    hint: ": pull or load that again first",
                },
                other => other.into(),
            })?;
        take_over(&mut config, &record);
        instructions::apply(&mut config, &request.changes)
            .map_err(|e| Error::field("changes", e))?;
        let commit = images::Commit {
            base,
            name: Some(request.name).filter(|name| !name.is_empty()),
            config,
            created_by: record.process.args.join(" "),
            message: request.message,
            author: request.author,
            created_unix_ns: now_unix_ns(),
        };
        if matches!(record.state, State::Created) {
            // It has no layer of its own before its first start.
            self.ensure_snapshot(&record).await?;
        }
        let pause = if request.keep_running { None } else { Pause::begin(self, &handle).await? };
        let (snapshots, id) = (self.tools.snapshots.clone(), record.id.clone());
        let (chain_id, name) = (record.image.chain_id.clone(), record.name.clone());
        let write = move |layer: &mut images::LayerSink| {
            let own = own_paths();
            let told =
                snapshots.changes(&id, chain_id.as_ref(), &own, &mut |change| layer.change(change));
            drop(pause);
            told.map_err(|source| Error::Snapshot { name, source })
        };
        let check = || {
            // Files that went while they were read would be missing without a word.
            let is_there = self.tools.table.find(namespace, record.id.as_str()).is_ok()
                && !matches!(handle.record().state, State::Removing { .. });
            if is_there { Ok(()) } else { Err(Error::Removed(record.name.clone())) }
        };
        self.images.commit_layer(namespace, commit, write, check).await
    }

    pub(super) async fn ensure_snapshot(&self, record: &Record) -> Result<(), Error> {
        let (snapshots, record) = (self.tools.snapshots.clone(), record.clone());
        let made = tokio::task::spawn_blocking(move || {
            snapshots
                .prepare(&record.id, record.image.chain_id.as_ref())
                .map_err(|source| Error::Snapshot { name: record.name.clone(), source })
        });
        made.await.expect("preparation does not panic").map(drop)
    }
}

/// A container that stands still; it goes on when this is dropped.
#[derive(Debug)]
struct Pause {
    shim: Shim,
    bundle: Bundle,
    runtime: tokio::runtime::Handle,
}

impl Pause {
    /// None for a container that does not run.
    async fn begin(containers: &Containers, handle: &Handle) -> Result<Option<Self>, Error> {
        let record = handle.record();
        let shim = handle.shim.borrow().clone();
        let (State::Running(_), Some(shim)) = (&record.state, shim) else { return Ok(None) };
        let bundle = Bundle::of(&containers.tools.bundles, &record.id);
        let note = launch::note_pause(&bundle);
        note.map_err(|source| Error::Shim { name: record.name.clone(), source })?;
        // Before the call: it may take effect and its answer be lost.
        let pause = Self { shim, bundle, runtime: tokio::runtime::Handle::current() };
        match pause.shim.pause().await {
            Ok(()) => {
                faultpoint::reach("commit.paused").await;
                Ok(Some(pause))
            }
            // It has just ended.
            Err(_) if !matches!(handle.record().state, State::Running(_)) => Ok(None),
            Err(source) => Err(Error::Shim { name: record.name.clone(), source }),
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let (shim, bundle) = (self.shim.clone(), self.bundle.clone());
        self.runtime.spawn(async move { resume(&shim, &bundle).await });
    }
}

/// Lets a container go on that a commit has paused.
pub(super) async fn resume(shim: &Shim, bundle: &Bundle) {
    if let Err(error) = shim.resume().await {
        tracing::warn!(
            bundle = %bundle.path().display(),
            error = crate::fault::chain(&error),
            "not resumed after a commit"
        );
    }
    launch::forget_pause(bundle);
}

/// As Docker has it, the image gets what the container was given: a later `run` without arguments
/// does the same again.
fn take_over(config: &mut Map<String, Value>, record: &Record) {
    let spec = &record.spec;
    if !spec.entrypoint.is_empty() {
        let none = spec.entrypoint.len() == 1 && spec.entrypoint[0].is_empty();
        let entrypoint = if none { Value::Null } else { json!(spec.entrypoint) };
        config.insert("Entrypoint".into(), entrypoint);
        config.insert("Cmd".into(), Value::Null);
    }
    if !spec.args.is_empty() {
        config.insert("Cmd".into(), json!(spec.args));
    }
    let mut env: Vec<String> = Vec::new();
    let name = |entry: &str| entry.split('=').next().unwrap_or(entry).to_owned();
    let of_image = config.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
    let of_image = of_image.iter().filter_map(Value::as_str).map(str::to_owned);
    for entry in spec.env.iter().rev().cloned().collect::<Vec<_>>() {
        if !env.iter().any(|known| name(known) == name(&entry)) {
            env.insert(0, entry);
        }
    }
    for entry in of_image {
        if !env.iter().any(|known| name(known) == name(&entry)) {
            env.push(entry);
        }
    }
    if !env.is_empty() {
        config.insert("Env".into(), json!(env));
    }
    for (key, text) in [("WorkingDir", &spec.working_dir), ("User", &spec.user)] {
        if !text.is_empty() {
            config.insert(key.into(), json!(text));
        }
    }
    if !spec.labels.is_empty() {
        let mut labels = match config.remove("Labels") {
            Some(Value::Object(labels)) => labels,
            _ => Map::new(),
        };
        labels.extend(spec.labels.iter().map(|(k, v)| (k.clone(), json!(v))));
        config.insert("Labels".into(), Value::Object(labels));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::take_over;
    use crate::services::containers::{
        machine::State,
        process::Process,
        record::{ImageRef, Record},
        spec::Spec,
    };

    #[test]
    fn the_image_gets_what_the_container_was_given() {
        let record = Record {
            id: format!("{:064x}", 1).parse().expect("id"),
            namespace: "default".parse().expect("namespace"),
            name: "name".parse().expect("name"),
            spec: Spec {
                args: vec!["sh".into()],
                env: vec!["A=1".into(), "B=2".into(), "A=3".into()],
                labels: [("l".to_owned(), "m".to_owned())].into(),
                user: "bob".into(),
                ..Default::default()
            },
            image: ImageRef { id: String::new(), manifest_digest: String::new(), chain_id: None },
            process: Process::default(),
            created_unix_ns: 0,
            revision: 1,
            state: State::Created,
            remove_volumes: false,
            restarts: super::super::restart::Restarts::default(),
            health: None,
        };
        let mut config = json!({
            "Entrypoint": ["/e"], "Cmd": ["c"], "Env": ["PATH=/bin", "B=0"], "Labels": {"k": "v"},
        });
        let config = config.as_object_mut().expect("an object");
        take_over(config, &record);
        let expected = json!({
            "Entrypoint": ["/e"], "Cmd": ["sh"], "Env": ["B=2", "A=3", "PATH=/bin"],
            "Labels": {"k": "v", "l": "m"}, "User": "bob",
        });
        assert_eq!(json!(config), expected);
    }
}
