//! A volume as it is kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Namespace, VolumeName},
    store::Record,
};

/// A volume, kept under "namespace/name".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Where its name is unique.
    pub namespace: Namespace,
    /// Unique in the namespace.
    pub name: VolumeName,
    /// It was made for one container, and nobody gave it a name.
    pub anonymous: bool,
    /// For people and programs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// As asked.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub created_unix_ns: i64,
    /// Its folder is being taken away.
    #[serde(default)]
    pub removing: bool,
}

impl Record for Volume {
    const TREE: &'static str = "volumes";
}

/// A namespace has no slash in it, so no two keys are the same.
pub(super) fn key(namespace: &Namespace, name: &str) -> Vec<u8> {
    format!("{namespace}/{name}").into_bytes()
}

impl Volume {
    pub(super) fn key(&self) -> Vec<u8> {
        key(&self.namespace, self.name.as_str())
    }
}
