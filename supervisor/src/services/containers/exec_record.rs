//! What is written down of an exec: the intent before the shim is asked, then what was told of it.
//!
//! ```text
//! Added ── exec.create told ──▶ Started ── exec.start told ──▶ Ended ── exec.exit told ──▶ gone
//! ```
//! Each step and its event are one commit, so that whoever takes over knows what is still to be told,
//! and tells nothing twice.

use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::{
    ids::ContainerId,
    services::events::Event,
    store::{self, Need, Ops, Store},
};

/// How far an exec is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    /// It is to be added, or was.
    Added,
    /// Its start was told.
    Started,
    /// Its end was told.
    Ended,
}

/// An exec, kept under "container/exec".
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ExecRecord {
    pub(super) exec_id: String,
    pub(super) stage: Stage,
}

impl store::Record for ExecRecord {
    const TREE: &'static str = "execs";
}

fn key(container: &ContainerId, exec_id: &str) -> Vec<u8> {
    format!("{container}/{exec_id}").into_bytes()
}

/// What is written down of an exec.
pub(super) fn find(
    store: &Store,
    container: &ContainerId,
    exec_id: &str,
) -> Result<Option<Stage>, store::Error> {
    let found = store.get::<ExecRecord>(&key(container, exec_id))?;
    Ok(found.map(|record| record.stage))
}

/// All that is written down of a container's execs. One that can't be read is passed over.
pub(super) fn all(store: &Store, container: &ContainerId) -> Result<Vec<ExecRecord>, store::Error> {
    let prefix = key(container, "");
    let all = store.from::<ExecRecord>(&prefix)?;
    let theirs = all.map_while(|item| match item {
        Ok((key, record)) => key.starts_with(&prefix).then_some(Some(record)),
        Err(_) => Some(None),
    });
    Ok(theirs.flatten().collect())
}

/// The commit that takes an exec to a stage and tells it.
pub(super) fn advance(
    container: &Record,
    exec_id: &str,
    stage: Stage,
    more: impl FnOnce(Event) -> Event,
) -> Result<Ops, store::Error> {
    let topic = match stage {
        Stage::Added => "exec.create",
        Stage::Started => "exec.start",
        Stage::Ended => "exec.exit",
    };
    let event = Event::now(&container.namespace, topic, container.id.as_str())
        .with("name", &container.name)
        .with("execId", exec_id);
    let mut ops = Ops::new();
    if stage == Stage::Added {
        ops.needs(Need::Growth);
    }
    let record = ExecRecord { exec_id: exec_id.into(), stage };
    ops.put(&key(&container.id, exec_id), &record)?;
    ops.append(&more(event))?;
    Ok(ops)
}

/// Nothing more is to be told of an exec.
pub(super) fn forget(ops: &mut Ops, container: &ContainerId, exec_id: &str) {
    ops.delete::<ExecRecord>(&key(container, exec_id));
}
