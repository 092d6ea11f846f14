//! Where a registry's content may be had: containerd's `hosts.toml`, one a registry.
//!
//! ```toml
//! server = "https://registry-1.docker.io"      # left out: the registry itself
//! [host."http://mirror.lan:5000"]              # asked before it, in the order of the file
//! capabilities = ["pull", "resolve"]
//! [host."https://cache.lan"]
//! ca = "cache-ca.pem"                          # or a list; from the file's folder
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::de::DeTable;

use crate::drivers::oci::Reference;

const FILE: &str = "hosts.toml";
/// For registries that have no folder of their own.
const DEFAULT_FOLDER: &str = "_default";

/// Why a `hosts.toml` is no good.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// It, or a certificate that it names, can't be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or not of this form.
    #[error("{}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// It asks for something that is not understood.
    #[error("{}: {problem}", path.display())]
    Problem {
        /// Which.
        path: PathBuf,
        /// What.
        problem: String,
    },
}

/// How to talk to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Whose content a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Somebody's copy: never told a password, and never the last word.
    Mirror,
    /// The registry.
    Origin,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// What a tag means.
    pub(super) resolve: bool,
    /// Content by digest.
    pub(super) pull: bool,
}

/// One host to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) scheme: Scheme,
    /// HOST or HOST:PORT.
    pub(super) address: String,
    pub(super) role: Role,
    pub(super) capabilities: Capabilities,
    /// Certificates to trust beside the host's own, in PEM.
    pub(super) ca: Vec<Vec<u8>>,
    /// Whether any certificate will do.
    pub(super) skip_verify: bool,
}

impl Host {
    fn origin(scheme: Scheme, address: &str) -> Self {
        Self {
            scheme,
            address: address.to_owned(),
            role: Role::Origin,
            capabilities: Capabilities { resolve: true, pull: true },
            ca: Vec::new(),
            skip_verify: false,
        }
    }

    fn default_of(reference: &Reference) -> Self {
        let scheme = if reference.is_loopback() { Scheme::Http } else { Scheme::Https };
        Self::origin(scheme, reference.registry_host())
    }
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    skip_verify: Option<bool>,
    client: Option<toml::Value>,
    header: Option<toml::Value>,
    override_path: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

#[derive(Debug, Deserialize)]
struct Whole {
    server: Option<String>,
    #[serde(flatten)]
    origin: Entry,
    #[serde(default)]
    host: std::collections::BTreeMap<String, Entry>,
}

/// The hosts to ask for `reference`, in this order. `folder` has a folder for each registry.
pub(super) fn of(folder: &Path, reference: &Reference) -> Result<Vec<Host>, HostsError> {
    let registry = reference.registry();
    // A colon is no good in the names of some file systems: containerd takes both.
    let plain = registry.replace(':', "_") + "_";
    for name in [registry, &plain, DEFAULT_FOLDER] {
        let path = folder.join(name).join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text, &path, reference),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(HostsError::Read { path, source }),
        }
    }
    Ok(vec![Host::default_of(reference)])
}

fn parse(text: &str, path: &Path, reference: &Reference) -> Result<Vec<Host>, HostsError> {
    let syntax = |source| HostsError::Syntax { path: path.into(), source };
    let mut whole: Whole = toml::from_str(text).map_err(syntax)?;
    let mut hosts = Vec::new();
    for url in in_order(text).map_err(syntax)? {
        if let Some(entry) = whole.host.remove(&url) {
            hosts.push(host(&url, Role::Mirror, &entry, path)?);
        }
    }
    hosts.push(match &whole.server {
        Some(url) => host(url, Role::Origin, &whole.origin, path)?,
        None => {
            let default = Host::default_of(reference);
            let scheme = match default.scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            host(&format!("{scheme}://{}", default.address), Role::Origin, &whole.origin, path)?
        }
    });
    Ok(hosts)
}

/// The hosts' names as the file has them: tables are sorted, and the order matters.
fn in_order(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let table = DeTable::parse(text)?;
    let hosts = table.get_ref().get("host").and_then(|hosts| hosts.get_ref().as_table());
    let mut names: Vec<(usize, String)> = hosts
        .into_iter()
        .flat_map(|hosts| hosts.keys().map(|key| (key.span().start, key.get_ref().to_string())))
        .collect();
    names.sort();
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

fn host(url: &str, role: Role, entry: &Entry, path: &Path) -> Result<Host, HostsError> {
    let problem = |problem: String| HostsError::Problem { path: path.into(), problem };
    let (scheme, address) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        Some((other, _)) => return Err(problem(format!("{url}: {other} is not http or https"))),
        None => (Scheme::Https, url),
    };
    let address = address.trim_end_matches('/').trim_end_matches("/v2");
    if address.is_empty() || address.contains('/') {
        return Err(problem(format!("{url}: a host with a path is not supported")));
    }
    let unsupported = [
        ("client", entry.client.is_some()),
        ("header", entry.header.is_some()),
        ("override_path", entry.override_path == Some(true)),
    ];
    if let Some((key, _)) = unsupported.iter().find(|(_, is_set)| *is_set) {
        return Err(problem(format!("{url}: the key `{key}` is not supported yet")));
    }
    let mut capabilities = Capabilities { resolve: true, pull: true };
    if let Some(words) = &entry.capabilities {
        let has = |word: &str| words.iter().any(|w| w == word);
        capabilities = Capabilities { resolve: has("resolve"), pull: has("pull") };
    }
    let files: &[PathBuf] = match &entry.ca {
        None => &[],
        Some(OneOrMany::One(file)) => std::slice::from_ref(file),
        Some(OneOrMany::Many(files)) => files,
    };
    let folder = path.parent().unwrap_or(path);
    let read = |file: &PathBuf| {
        let file = folder.join(file);
        fs::read(&file).map_err(|source| HostsError::Read { path: file, source })
    };
    Ok(Host {
        scheme,
        address: address.to_owned(),
        role,
        capabilities,
        ca: files.iter().map(read).collect::<Result<_, _>>()?,
        skip_verify: entry.skip_verify.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::{HostsError, Role, Scheme, of};

    fn hosts(name: &str, text: &str, reference: &str) -> Result<Vec<super::Host>, HostsError> {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).expect("mkdir");
        std::fs::write(folder.join("hosts.toml"), text).expect("write");
        std::fs::write(folder.join("ca.pem"), "PEM").expect("write");
        of(dir.path(), &reference.parse().expect("a reference"))
    }

    #[test]
    fn mirrors_come_first_in_the_files_order() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://z.lan"]
            ca = "ca.pem"
            capabilities = ["pull"]
            [host."http://a.lan:5000"]
            skip_verify = true
        "#;
        let hosts = hosts("docker.io", text, "alpine").expect("hosts");
        let seen: Vec<_> = hosts.iter().map(|h| (h.address.as_str(), h.scheme, h.role)).collect();
        assert_eq!(
            seen,
            [
                ("z.lan", Scheme::Https, Role::Mirror),
                ("a.lan:5000", Scheme::Http, Role::Mirror),
                ("registry-1.docker.io", Scheme::Https, Role::Origin),
            ]
        );
        assert_eq!(hosts[0].ca, [b"PEM"]);
        assert!(!hosts[0].capabilities.resolve && hosts[0].capabilities.pull);
        assert!(hosts[1].skip_verify);
    }

    #[test]
    fn without_a_file_the_registry_itself() {
        let dir = tempfile::tempdir().expect("tempdir");
        let of = |text: &str| of(dir.path(), &text.parse().expect("a reference")).expect("hosts");
        assert_eq!(of("alpine")[0].address, "registry-1.docker.io");
        assert_eq!(of("localhost:5000/a")[0].scheme, Scheme::Http);
        assert_eq!(of("quay.io/a/b")[0].scheme, Scheme::Https);
    }

    #[test]
    fn folders_as_containerd_names_them() {
        let text = r#"[host."http://mirror"]"#;
        for name in ["reg.lan:5000", "reg.lan_5000_", "_default"] {
            assert_eq!(hosts(name, text, "reg.lan:5000/a").expect(name).len(), 2, "{name}");
        }
        assert_eq!(hosts("other", text, "reg.lan:5000/a").expect("default").len(), 1);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "server = 7",
            "[host.\"ftp://x\"]",
            "[host.\"https://x/path\"]",
            "[host.\"https://x\"]\nclient = \"c.pem\"",
            "[host.\"https://x\"]\nca = \"missing.pem\"",
            "[host",
        ] {
            assert!(hosts("docker.io", text, "alpine").is_err(), "{text}");
        }
    }
}
