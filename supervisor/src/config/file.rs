//! The configuration's file: its form, its keys, and how it is read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{ConfigError, LogFormat, Network, OnStop, SnapshotterChoice};
use crate::{
    drivers::{logs::LogDriver, signatures::RuleFile},
    services::images::Relieve,
};

/// The file, every key optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct File {
    pub(super) root: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) address: Option<String>,
    pub(super) group: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) shim: Option<PathBuf>,
    pub(super) snapshotter: Option<SnapshotterChoice>,
    pub(super) cgroup_parent: Option<String>,
    pub(super) default_network: Option<Network>,
    pub(super) stop_timeout_seconds: Option<u64>,
    pub(super) on_stop: Option<OnStop>,
    pub(super) shutdown_timeout_seconds: Option<u64>,
    pub(super) upgrade_timeout_seconds: Option<u64>,
    pub(super) metadata_copy_seconds: Option<u64>,
    pub(super) default_runtime: Option<String>,
    pub(super) runtimes: BTreeMap<String, RuntimeFile>,
    pub(super) limits: LimitsFile,
    pub(super) container_log: ContainerLog,
    pub(super) tls: Option<TlsFile>,
    pub(super) registry_hosts: Option<PathBuf>,
    pub(super) registry_auth_file: Option<PathBuf>,
    #[serde(rename = "registry-mirrors")]
    pub(super) registry_mirrors: Vec<String>,
    #[serde(rename = "insecure-registries")]
    pub(super) insecure_registries: Vec<String>,
    pub(super) signatures: Vec<RuleFile>,
    pub(super) gc: GcFile,
    pub(super) default_userns: Option<String>,
    pub(super) userns_range: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ContainerLog {
    pub(super) driver: Option<LogDriver>,
    pub(super) max_bytes: Option<u64>,
    pub(super) max_files: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GcFile {
    pub(super) high_percent: Option<u8>,
    pub(super) low_percent: Option<u8>,
    pub(super) images: Option<Relieve>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuntimeFile {
    pub(super) path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LimitsFile {
    pub(super) calls: Option<usize>,
    pub(super) streams: Option<usize>,
    pub(super) call_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TlsFile {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    pub(super) client_ca: PathBuf,
}

/// All keys there are, with their tables.
pub(super) const KEYS: &[&str] = &[
    "root",
    "state",
    "address",
    "group",
    "log_level",
    "log_format",
    "shim",
    "snapshotter",
    "cgroup_parent",
    "default_network",
    "stop_timeout_seconds",
    "on_stop",
    "shutdown_timeout_seconds",
    "upgrade_timeout_seconds",
    "metadata_copy_seconds",
    "default_runtime",
    "runtimes",
    "limits",
    "limits.calls",
    "limits.streams",
    "limits.call_seconds",
    "container_log",
    "container_log.driver",
    "container_log.max_bytes",
    "container_log.max_files",
    "tls",
    "tls.cert",
    "tls.key",
    "tls.client_ca",
    "registry_hosts",
    "registry_auth_file",
    "registry-mirrors",
    "insecure-registries",
    "signatures",
    "gc",
    "gc.high_percent",
    "gc.low_percent",
    "gc.images",
    "default_userns",
    "userns_range",
];

pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.into(), source })?;
    parse(path, &text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let syntax = |source| ConfigError::Syntax { path: path.into(), source };
    let table: toml::Table = text.parse().map_err(syntax)?;
    for key in keys_of("", &table) {
        // Names of runtimes are free; what is in them is checked when it is read.
        if !KEYS.contains(&key.as_str()) && !key.starts_with("runtimes.") {
            return Err(ConfigError::UnknownKey { path: path.into(), nearest: nearest(&key), key });
        }
    }
    toml::from_str(text).map_err(syntax)
}

pub(super) fn keys_of(prefix: &str, table: &toml::Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        if let toml::Value::Table(inner) = value {
            keys.extend(keys_of(&format!("{key}."), inner));
        }
        keys.push(key);
    }
    keys.sort_by_key(|k| k.matches('.').count());
    keys
}

/// The known key that is most like `key`, if any is like it at all.
fn nearest(key: &str) -> Option<String> {
    KEYS.iter()
        .map(|known| (strsim::jaro_winkler(known, key), known))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| (*known).into())
}
