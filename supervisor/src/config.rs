//! Settings: flags over WHARF_* variables over the file over the defaults.
//!
//! The file is TOML. Every key is in `docs/config.md`; a key that is not known is refused with the
//! nearest one that is, since a misspelt limit must not silently be no limit.

mod file;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use file::{File, GcFile, read};
use serde::Deserialize;

use crate::{
    drivers::{
        logs::LogDriver,
        registry::Settings,
        signatures::{Key, Policy, Require, Requirement, Rule, RuleFile},
    },
    services::{
        containers::user_namespace::{self, UserNamespace},
        images::Pressure,
    },
};

/// Read when it exists and no other is named.
pub const DEFAULT_FILE: &str = "/etc/wharf/config.toml";

/// Why the settings are no good.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read the configuration {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML, or a value is of the wrong kind.
    #[error("configuration {}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// A key that does not exist.
    #[error("configuration {}: key `{key}` is not known{}", path.display(), nearest_text(nearest.as_deref()))]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// With its table: `log.max_size`.
        key: String,
        /// The one that was meant, perhaps.
        nearest: Option<String>,
    },
    /// A value that makes no sense.
    #[error("{key} = {value:?}: {problem}")]
    Value {
        /// Which.
        key: &'static str,
        /// As given.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

fn nearest_text(nearest: Option<&str>) -> String {
    nearest.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default()
}

/// Where the API is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket; whoever can open it is root on this host.
    Unix(PathBuf),
    /// TCP with mutual TLS.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |problem: &str| ConfigError::Value {
            key: "address",
            value: text.into(),
            problem: problem.into(),
        };
        if let Some(addr) = text.strip_prefix("tcp:") {
            let addr = addr.trim_start_matches("//");
            return addr.parse().map(Self::Tcp).map_err(|_| {
                wrong("an IP address and a port are needed, as in tcp:127.0.0.1:7420")
            });
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        let path = if path.starts_with("//") { path.trim_start_matches('/') } else { path };
        let path = if path.starts_with('/') || !text.starts_with("unix://") {
            PathBuf::from(path)
        } else {
            Path::new("/").join(path)
        };
        if !path.is_absolute() {
            return Err(wrong("unix:/absolute/path or tcp:ADDRESS:PORT is needed"));
        }
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(wrong("the path of a unix socket has at most 107 bytes (unix(7))"));
        }
        Ok(Self::Unix(path))
    }
}

const MAX_SOCKET_PATH: usize = 107;

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(addr) => write!(f, "tcp:{addr}"),
        }
    }
}

/// Network of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace of its own with nothing but a loopback.
    None,
    /// The host's.
    Host,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Host => "host",
        })
    }
}

/// How containers get their root file systems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotterChoice {
    /// Overlay where it can be had, else copying.
    #[default]
    Auto,
    /// Overlay.
    Overlay,
    /// Copying.
    Native,
}

/// What becomes of containers when the daemon is asked to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnStop {
    /// They run on.
    #[default]
    Leave,
    /// They are stopped first.
    Stop,
}

/// How the daemon writes its own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What the command line and the environment said.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--config`
    pub file: Option<PathBuf>,
    /// `--root`
    pub root: Option<PathBuf>,
    /// `--state`
    pub state: Option<PathBuf>,
    /// `--address`
    pub address: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--shim`
    pub shim: Option<PathBuf>,
}

/// Files of mutual TLS, in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server's certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the clients' certificates.
    pub client_ca: PathBuf,
}

/// Settings, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// What must survive a reboot.
    pub root: PathBuf,
    /// What ends with the host.
    pub state: PathBuf,
    /// Where the API is served.
    pub address: Address,
    /// Group that may use the socket besides root.
    pub group: Option<String>,
    /// As in tracing's EnvFilter.
    pub log_level: String,
    /// Of the daemon's log.
    pub log_format: LogFormat,
    /// The shim's program; unset: beside wharfd, else in PATH.
    pub shim: Option<PathBuf>,
    /// How containers get their root file systems.
    pub snapshotter: SnapshotterChoice,
    /// Containers' cgroups are below this one.
    pub cgroup_parent: String,
    /// Of containers that name none.
    pub default_network: Network,
    /// Between the stop signal and SIGKILL.
    pub stop_timeout: Duration,
    /// What becomes of containers when wharfd is asked to end.
    pub on_stop: OnStop,
    /// What all containers have to end in, together.
    pub shutdown_timeout: Duration,
    /// What a new supervisor has to come up before the old one takes everything back.
    pub upgrade_timeout: Duration,
    /// What runs containers that do not say.
    pub default_runtime: String,
    /// Programs of OCI runtimes and foreign shims by name.
    pub runtimes: BTreeMap<String, PathBuf>,
    /// Between copies of the metadata.
    pub metadata_copy_every: Duration,
    /// Calls with one answer at once.
    pub max_calls: usize,
    /// Streams, and calls that wait, at once.
    pub max_streams: usize,
    /// For a call with one answer.
    pub call_deadline: Duration,
    /// A container's log is rotated beyond this size; 0: never.
    pub container_log_max_bytes: u64,
    /// As what a container's output is kept, unless it says so itself.
    pub container_log_driver: LogDriver,
    /// Rotated logs kept.
    pub container_log_max_files: u32,
    /// For TCP.
    pub tls: Option<Tls>,
    /// Mirrors, certificates and credentials of registries.
    pub registries: Settings,
    /// When images go to make room.
    pub gc: Pressure,
    /// Whose users containers have that do not say.
    pub default_userns: UserNamespace,
    /// Where ranges for them come from.
    pub userns_range: user_namespace::Source,
}

impl Config {
    /// Reads the file, if there is one, and puts everything together.
    ///
    /// # Errors
    /// [`ConfigError`] that names file, key and value.
    pub fn load(over: Overrides) -> Result<Self, ConfigError> {
        let file = match &over.file {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => File::default(),
        };
        let state =
            absolute("state", over.state.or(file.state).unwrap_or_else(|| "/run/wharf".into()))?;
        let address = match over.address.or(file.address) {
            Some(text) => text.parse()?,
            None => format!("unix:{}", state.join("wharfd.sock").display()).parse()?,
        };
        let tls = file.tls.map(|t| Tls { cert: t.cert, key: t.key, client_ca: t.client_ca });
        if let (Address::Tcp(addr), None) = (&address, &tls) {
            return Err(ConfigError::Value {
                key: "address",
                value: format!("tcp:{addr}"),
                problem: "whoever reaches it is root on this host: TCP needs [tls] with cert, \
                          key and client_ca in the configuration"
                    .into(),
            });
        }
        let cgroup_parent = file.cgroup_parent.unwrap_or_else(|| "/wharf".into());
        if !cgroup_parent.starts_with('/') || cgroup_parent.split('/').any(|part| part == "..") {
            return Err(ConfigError::Value {
                key: "cgroup_parent",
                value: cgroup_parent,
                problem: "an absolute path without .. is needed, as in /wharf".into(),
            });
        }
        let mut runtimes = BTreeMap::new();
        for (name, runtime) in file.runtimes {
            runtimes.insert(name, absolute("runtimes.NAME.path", runtime.path)?);
        }
        for (key, value) in
            [("limits.calls", file.limits.calls), ("limits.streams", file.limits.streams)]
        {
            if value.is_some_and(|value| !(1..=1_000_000).contains(&value)) {
                let problem = "a number from 1 to 1000000 is needed".into();
                let value = value.unwrap_or_default().to_string();
                return Err(ConfigError::Value { key, value, problem });
            }
        }
        Ok(Self {
            default_runtime: file.default_runtime.unwrap_or_default(),
            runtimes,
            max_calls: file.limits.calls.unwrap_or(1024),
            max_streams: file.limits.streams.unwrap_or(8192),
            metadata_copy_every: Duration::from_secs(
                file.metadata_copy_seconds.unwrap_or(300).max(1),
            ),
            call_deadline: Duration::from_secs(file.limits.call_seconds.unwrap_or(600).max(1)),
            root: absolute("root", over.root.or(file.root).unwrap_or("/var/lib/wharf".into()))?,
            state,
            address,
            group: file.group,
            log_level: over.log_level.or(file.log_level).unwrap_or_else(|| "info".into()),
            log_format: file.log_format.unwrap_or_default(),
            shim: over.shim.or(file.shim),
            snapshotter: file.snapshotter.unwrap_or_default(),
            cgroup_parent,
            default_network: file.default_network.unwrap_or(Network::None),
            stop_timeout: Duration::from_secs(file.stop_timeout_seconds.unwrap_or(10)),
            on_stop: file.on_stop.unwrap_or_default(),
            shutdown_timeout: Duration::from_secs(file.shutdown_timeout_seconds.unwrap_or(15)),
            upgrade_timeout: Duration::from_secs(file.upgrade_timeout_seconds.unwrap_or(20).max(1)),
            container_log_driver: file.container_log.driver.unwrap_or_default(),
            container_log_max_bytes: file.container_log.max_bytes.unwrap_or(64 << 20),
            container_log_max_files: file.container_log.max_files.unwrap_or(3),
            tls,
            registries: Settings {
                hosts_folder: file
                    .registry_hosts
                    .map(|path| absolute("registry_hosts", path))
                    .transpose()?
                    .unwrap_or_else(|| Settings::default().hosts_folder),
                mirrors: file.registry_mirrors,
                insecure: file.insecure_registries,
                policy: policy(file.signatures)?,
                auth_file: file
                    .registry_auth_file
                    .map(|path| absolute("registry_auth_file", path))
                    .transpose()?,
            },
            gc: pressure(&file.gc)?,
            default_userns: parsed("default_userns", file.default_userns)?,
            userns_range: parsed("userns_range", file.userns_range)?,
        })
    }
}

fn parsed<T: FromStr<Err = String> + Default>(
    key: &'static str,
    value: Option<String>,
) -> Result<T, ConfigError> {
    let Some(value) = value else { return Ok(T::default()) };
    value.parse().map_err(|problem| ConfigError::Value { key, value, problem })
}

/// Keys are read at once: a policy that can't be kept is no setting to start with.
fn policy(files: Vec<RuleFile>) -> Result<Policy, ConfigError> {
    let mut rules = Vec::with_capacity(files.len());
    for file in files {
        let wrong = |key, value: &Path, problem: String| ConfigError::Value {
            key,
            value: value.display().to_string(),
            problem,
        };
        let mut keys = Vec::with_capacity(file.keys.len());
        for path in &file.keys {
            let text = fs::read_to_string(path)
                .map_err(|e| wrong("signatures.keys", path, e.to_string()))?;
            let key = Key::from_pem(&text);
            keys.push(key.map_err(|e| wrong("signatures.keys", path, e.to_string()))?);
        }
        let requirement = match file.require {
            Require::Nothing => Requirement::Nothing,
            Require::Never => Requirement::Never,
            Require::Signature if keys.is_empty() => {
                let problem = "it asks for a signature: `keys` are needed".to_owned();
                return Err(wrong("signatures.pattern", Path::new(&file.pattern), problem));
            }
            Require::Signature => Requirement::Signature(keys),
        };
        rules.push(Rule { pattern: file.pattern, requirement, identity: file.identity });
    }
    Ok(Policy { rules })
}

fn pressure(file: &GcFile) -> Result<Pressure, ConfigError> {
    let default = Pressure::default();
    let high = file.high_percent.unwrap_or(default.high_percent);
    let low = file.low_percent.unwrap_or(high.saturating_sub(5));
    for (key, value, most) in [("gc.high_percent", high, 100), ("gc.low_percent", low, high)] {
        if value > most {
            return Err(ConfigError::Value {
                key,
                value: value.to_string(),
                problem: format!("at most {most} is needed"),
            });
        }
    }
    let images = file.images.unwrap_or(default.images);
    Ok(Pressure { high_percent: high, low_percent: low, images })
}

fn absolute(key: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err(ConfigError::Value {
        key,
        value: path.display().to_string(),
        problem: "an absolute path is needed".into(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Address, Config, ConfigError, Overrides, file::parse};

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        for (text, key, nearest) in [
            ("defalt_network = 'host'", "defalt_network", Some("default_network")),
            (
                "[container_log]\nmax_byte = 1",
                "container_log.max_byte",
                Some("container_log.max_bytes"),
            ),
            ("zzz = 1", "zzz", None),
        ] {
            let error = parse(Path::new("c"), text).expect_err("unknown key");
            let ConfigError::UnknownKey { key: k, nearest: n, .. } = error else {
                panic!("{error}")
            };
            assert_eq!((k.as_str(), n.as_deref()), (key, nearest));
        }
    }

    #[test]
    fn the_page_documents_every_key() {
        let page = include_str!("../../docs/config.md");
        let example = page.split("```").nth(1).expect("an example");
        let example = example.strip_prefix("toml").expect("in TOML");
        parse(Path::new("docs/config.md"), example).expect("the example is valid");
        let mut documented = super::file::keys_of("", &example.parse().expect("TOML"));
        // Below [runtimes] stand names of the user's own.
        documented.retain(|key| !key.starts_with("runtimes."));
        let mut known: Vec<String> = super::file::KEYS.iter().map(|k| (*k).into()).collect();
        documented.sort();
        known.sort();
        assert_eq!(documented, known);
    }

    #[test]
    fn addresses() {
        let unix = |p: &str| Address::Unix(PathBuf::from(p));
        assert_eq!("unix:/run/w.sock".parse::<Address>().expect("ok"), unix("/run/w.sock"));
        assert_eq!("unix:///run/w.sock".parse::<Address>().expect("ok"), unix("/run/w.sock"));
        assert_eq!("/run/w.sock".parse::<Address>().expect("ok"), unix("/run/w.sock"));
        assert!(matches!("tcp:127.0.0.1:1".parse::<Address>(), Ok(Address::Tcp(_))));
        for bad in ["tcp:localhost", "unix:w.sock", "", &format!("unix:/{}", "x".repeat(110))] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tcp_needs_tls() {
        let over = Overrides { address: Some("tcp:127.0.0.1:1".into()), ..Default::default() };
        let error = Config::load(over).expect_err("no tls");
        assert!(error.to_string().contains("[tls]"), "{error}");
    }

    #[test]
    fn the_socket_is_in_the_state_folder() {
        let over = Overrides { state: Some("/run/x".into()), ..Default::default() };
        let config = Config::load(over).expect("defaults");
        assert_eq!(config.address, Address::Unix("/run/x/wharfd.sock".into()));
    }
}
