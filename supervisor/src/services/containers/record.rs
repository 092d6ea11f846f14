//! A container as it is kept.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{health::Health, machine::State, process::Process, restart::Restarts, spec::Spec};
use crate::{
    drivers::content::Digest,
    ids::{ContainerId, ContainerName, Namespace},
    store,
};

/// A container as it is kept. Its state is also the intent of what is being done: whoever finds
/// `Starting` or `Removing` at a start of the supervisor finishes or undoes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Key of the record.
    pub id: ContainerId,
    /// Where its name is unique.
    pub namespace: Namespace,
    /// Unique in the namespace.
    pub name: ContainerName,
    /// As asked, with defaults filled in.
    pub spec: Spec,
    /// What it was made from.
    pub image: ImageRef,
    /// What runs.
    pub process: Process,
    /// Nanoseconds since the epoch.
    pub created_unix_ns: i64,
    /// Raised at each change.
    pub revision: u64,
    /// Where it is.
    pub state: State,
    /// Its volumes that have no name go with it: said when its removal began.
    #[serde(default)]
    pub remove_volumes: bool,
    /// By its restart policy.
    #[serde(default)]
    pub restarts: Restarts,
    /// How it is, if that is checked. Kept apart: it changes often.
    #[serde(skip)]
    pub health: Option<Arc<Health>>,
}

/// An image at the moment when a container was made from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// Digest of the config.
    pub id: String,
    /// Digest of the manifest.
    pub manifest_digest: String,
    /// Of the top layer; none: no layers.
    pub chain_id: Option<Digest>,
}

impl store::Record for Record {
    const TREE: &'static str = "containers";
}

impl Record {
    /// Key in the store.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.id.as_str().as_bytes()
    }
}
