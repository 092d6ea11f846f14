//! Where a registry's content may be had: containerd's `hosts.toml`, one a registry.
//!
//! ```toml
//! server = "https://registry-1.docker.io"      # left out: the registry itself
//! [host."http://mirror.lan:5000"]              # asked before it, in the order of the file
//! capabilities = ["pull", "resolve"]
//! [host."https://cache.lan"]
//! ca = "cache-ca.pem"                          # or a list; from the file's folder
//! ```
//!
//! A registry's folder without that file may hold Docker's: `*.crt` to trust, `*.cert` with `*.key`
//! to show. What the daemon's own settings say (Docker's `registry-mirrors` and
//! `insecure-registries`) holds for registries that have neither.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::de::DeTable;

use super::settings::Settings;
use crate::drivers::oci::Reference;

const FILE: &str = "hosts.toml";
/// Path of the registries' API.
const API: &str = "/v2";
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
    /// Whether it takes content.
    pub(super) push: bool,
}

impl Capabilities {
    const ALL: Self = Self { resolve: true, pull: true, push: true };
}

/// What holds where TLS fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fallback {
    /// The failure.
    None,
    /// Plain HTTP: Docker's meaning of an insecure registry.
    Http,
}

/// One host to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) scheme: Scheme,
    /// HOST or HOST:PORT.
    pub(super) address: String,
    /// Of its API: "/v2", or what it has in front or in place of that.
    pub(super) path: String,
    pub(super) role: Role,
    pub(super) capabilities: Capabilities,
    /// Certificates to trust beside the host's own, in PEM.
    pub(super) ca: Vec<Vec<u8>>,
    /// The certificate to show, with its key, in PEM.
    pub(super) identity: Option<Vec<u8>>,
    /// Sent with each request to this host, and to no other.
    pub(super) headers: Vec<(String, String)>,
    /// Whether any certificate will do.
    pub(super) skip_verify: bool,
    pub(super) fallback: Fallback,
}

impl Host {
    fn plain(role: Role, scheme: Scheme, address: &str) -> Self {
        Self {
            scheme,
            address: address.to_owned(),
            path: API.to_owned(),
            role,
            capabilities: Capabilities::ALL,
            ca: Vec::new(),
            identity: None,
            headers: Vec::new(),
            skip_verify: false,
            fallback: Fallback::None,
        }
    }

    fn default_of(reference: &Reference) -> Self {
        let scheme = if reference.is_loopback() { Scheme::Http } else { Scheme::Https };
        Self::plain(Role::Origin, scheme, reference.registry_host())
    }

    /// What the daemon's own settings make of the registry.
    fn configured(settings: &Settings, reference: &Reference) -> Result<Vec<Self>, HostsError> {
        let mut hosts = Vec::new();
        // Docker's key is about Docker Hub alone.
        if reference.is_docker_hub() {
            for url in &settings.mirrors {
                let (scheme, address, path) = split_url(url, Join::Api).map_err(|problem| {
                    HostsError::Problem { path: "registry-mirrors".into(), problem }
                })?;
                hosts.push(Self { path, ..Self::plain(Role::Mirror, scheme, &address) });
            }
        }
        let mut origin = Self::default_of(reference);
        if settings.is_insecure(reference.registry()) && origin.scheme == Scheme::Https {
            (origin.skip_verify, origin.fallback) = (true, Fallback::Http);
        }
        hosts.push(origin);
        Ok(hosts)
    }

    /// "https://host:port/v2".
    pub(super) fn base(&self, scheme: Scheme) -> String {
        let scheme = match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        format!("{scheme}://{}{}", self.address, self.path)
    }
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<PathBuf>>,
    skip_verify: Option<bool>,
    client: Option<OneOrMany<OneOrMany<PathBuf>>>,
    #[serde(default)]
    header: std::collections::BTreeMap<String, OneOrMany<String>>,
    override_path: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

#[derive(Debug, Deserialize)]
struct Whole {
    server: Option<String>,
    #[serde(flatten)]
    origin: Entry,
    #[serde(default)]
    host: std::collections::BTreeMap<String, Entry>,
}

/// The hosts to ask for `reference`, in this order; the registry itself is the last.
pub(super) fn of(settings: &Settings, reference: &Reference) -> Result<Vec<Host>, HostsError> {
    let registry = reference.registry();
    // A colon is no good in the names of some file systems: containerd takes both.
    let plain = registry.replace(':', "_") + "_";
    let mut names = vec![registry, &*plain];
    if !settings.is_insecure(registry)
        && (settings.mirrors.is_empty() || !reference.is_docker_hub())
    {
        names.push(DEFAULT_FOLDER);
    }
    for name in names {
        let folder = settings.hosts_folder.join(name);
        let path = folder.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => return parse(&text, &path, reference, |path| fs::read(path)),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(HostsError::Read { path, source }),
        }
        if folder.is_dir() {
            let mut hosts = Host::configured(settings, reference)?;
            let origin = hosts.last_mut().expect("the registry itself is always there");
            add_dockers_files(&folder, origin)?;
            return Ok(hosts);
        }
    }
    Host::configured(settings, reference)
}

/// Reads the text of a `hosts.toml` of `registry`, but no file that it names: whether it is one.
///
/// # Errors
/// When it is not.
pub fn check(text: &str, reference: &Reference) -> Result<usize, HostsError> {
    parse(text, Path::new(FILE), reference, |_| Ok(Vec::new())).map(|hosts| hosts.len())
}

/// `*.crt` to trust, and `*.cert` with its `*.key` to show.
fn add_dockers_files(folder: &Path, host: &mut Host) -> Result<(), HostsError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|source| HostsError::Read { path: path.into(), source })
    };
    let entries = fs::read_dir(folder)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>());
    let mut paths = entries.map_err(|source| HostsError::Read { path: folder.into(), source })?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => host.ca.push(read(&path)?),
            Some("cert") if host.identity.is_none() => {
                let mut pem = read(&path)?;
                pem.push(b'\n');
                pem.extend(read(&path.with_extension("key"))?);
                host.identity = Some(pem);
            }
            _ => {}
        }
    }
    if host.scheme == Scheme::Http && !(host.ca.is_empty() && host.identity.is_none()) {
        // Certificates are for TLS, on loopback too.
        host.scheme = Scheme::Https;
    }
    Ok(())
}

/// Reads a file that a `hosts.toml` names.
type ReadFile = fn(&Path) -> io::Result<Vec<u8>>;

fn parse(
    text: &str,
    path: &Path,
    reference: &Reference,
    read: ReadFile,
) -> Result<Vec<Host>, HostsError> {
    let syntax = |source| HostsError::Syntax { path: path.into(), source };
    let mut whole: Whole = toml::from_str(text).map_err(syntax)?;
    let mut hosts = Vec::new();
    for url in in_order(text).map_err(syntax)? {
        if let Some(entry) = whole.host.remove(&url) {
            hosts.push(host(&url, Role::Mirror, &entry, path, read)?);
        }
    }
    hosts.push(match &whole.server {
        Some(url) => host(url, Role::Origin, &whole.origin, path, read)?,
        None => {
            let default = Host::default_of(reference);
            let scheme = match default.scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            let url = format!("{scheme}://{}", default.address);
            host(&url, Role::Origin, &whole.origin, path, read)?
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

/// Whether a URL's path already is that of the API.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Join {
    /// `/v2` comes after it, unless it ends so.
    Api,
    /// It is, as it stands (`override_path`).
    Nothing,
}

/// Scheme, address, and path of the API.
fn split_url(url: &str, join: Join) -> Result<(Scheme, String, String), String> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        Some((other, _)) => return Err(format!("{url}: {other} is not http or https")),
        None => (Scheme::Https, url),
    };
    let (address, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b);
    if address.is_empty() || !address.bytes().all(is_plain) {
        return Err(format!("{url}: {address:?} is not HOST or HOST:PORT"));
    }
    let is_path = |b: u8| b.is_ascii_alphanumeric() || b"-._~/%+@:".contains(&b);
    if !path.bytes().all(is_path) || path.split('/').any(|part| part == "..") {
        return Err(format!("{url}: {path:?} is not the path of an API"));
    }
    let mut path = path.trim_end_matches('/').to_owned();
    if join == Join::Api && !path.ends_with(API) {
        path.push_str(API);
    }
    Ok((scheme, address.to_owned(), path))
}

fn host(
    url: &str,
    role: Role,
    entry: &Entry,
    path: &Path,
    read_file: ReadFile,
) -> Result<Host, HostsError> {
    let problem = |problem: String| HostsError::Problem { path: path.into(), problem };
    let join = if entry.override_path == Some(true) { Join::Nothing } else { Join::Api };
    let (scheme, address, api) = split_url(url, join).map_err(problem)?;
    let mut capabilities = Capabilities::ALL;
    if let Some(words) = &entry.capabilities {
        let has = |word: &str| words.iter().any(|w| w == word);
        capabilities =
            Capabilities { resolve: has("resolve"), pull: has("pull"), push: has("push") };
    }
    let folder = path.parent().unwrap_or(path);
    let read = |file: &PathBuf| {
        let file = folder.join(file);
        read_file(&file).map_err(|source| HostsError::Read { path: file, source })
    };
    let ca = entry.ca.as_ref().map_or(&[][..], OneOrMany::as_slice);
    let identity = match entry.client.as_ref().map_or(&[][..], OneOrMany::as_slice) {
        [] => None,
        // ["cert.pem", "key.pem"] is two certificates with their keys by containerd's letter; who
        // writes it means a pair.
        [one] if one.as_slice().len() <= 2 => Some(pem_of(one.as_slice(), read)?),
        [one] => {
            let count = one.as_slice().len();
            return Err(problem(format!("{url}: `client` names {count} files, not one or two")));
        }
        more => {
            let count = more.len();
            return Err(problem(format!(
                "{url}: `client` names {count} certificates, one is shown"
            )));
        }
    };
    let mut headers = Vec::new();
    for (name, values) in &entry.header {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(problem(format!("{url}: {name:?} is not the name of a header")));
        }
        for value in values.as_slice() {
            if !value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
                return Err(problem(format!("{url}: the value of {name} is not one of a header")));
            }
            headers.push((name.clone(), value.clone()));
        }
    }
    Ok(Host {
        scheme,
        address,
        path: api,
        role,
        capabilities,
        ca: ca.iter().map(read).collect::<Result<_, _>>()?,
        identity,
        headers,
        skip_verify: entry.skip_verify.unwrap_or(false),
        fallback: Fallback::None,
    })
}

/// A certificate and its key, which may stand in one file.
fn pem_of(
    files: &[PathBuf],
    read: impl Fn(&PathBuf) -> Result<Vec<u8>, HostsError>,
) -> Result<Vec<u8>, HostsError> {
    let mut pem = Vec::new();
    for file in files {
        pem.extend(read(file)?);
        pem.push(b'\n');
    }
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use super::{Fallback, HostsError, Role, Scheme, of};
    use crate::drivers::registry::Settings;

    fn settings(folder: &std::path::Path) -> Settings {
        Settings { hosts_folder: folder.into(), ..Settings::default() }
    }

    fn hosts(name: &str, text: &str, reference: &str) -> Result<Vec<super::Host>, HostsError> {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).expect("mkdir");
        std::fs::write(folder.join("hosts.toml"), text).expect("write");
        std::fs::write(folder.join("ca.pem"), "PEM").expect("write");
        std::fs::write(folder.join("c.pem"), "CERT").expect("write");
        std::fs::write(folder.join("k.pem"), "KEY").expect("write");
        of(&settings(dir.path()), &reference.parse().expect("a reference"))
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
        let of = |text: &str| {
            of(&settings(dir.path()), &text.parse().expect("a reference")).expect("hosts")
        };
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
            "[host.\"https://x/a b\"]",
            "[host.\"https://user@x\"]",
            "[host.\"https://x/../y\"]",
            "[host.\"https://x\"]\nclient = \"missing.pem\"",
            "[host.\"https://x\"]\nclient = [\"c.pem\", \"c.pem\", \"c.pem\"]",
            "[host.\"https://x\".header]\n\"a b\" = \"c\"",
            "[host.\"https://x\".header]\na = \"c\\r\\nd: e\"",
            "[host.\"https://x\"]\nca = \"missing.pem\"",
            "[host",
        ] {
            assert!(hosts("docker.io", text, "alpine").is_err(), "{text}");
        }
    }

    #[test]
    fn every_key_of_containerds() {
        let text = r#"
            server = "https://reg.lan"
            [host."https://cache.lan/artifacts"]
            client = [["c.pem", "k.pem"]]
            [host."https://whole.lan/api/x"]
            override_path = true
            client = "c.pem"
            [host."https://whole.lan/api/x".header]
            x-one = "1"
            x-two = ["2", "3"]
            [host."https://v2.lan/v2"]
            capabilities = ["pull", "resolve", "push"]
        "#;
        let hosts = hosts("reg.lan", text, "reg.lan/a").expect("hosts");
        let bases: Vec<_> = hosts.iter().map(|h| h.base(h.scheme)).collect();
        assert_eq!(
            bases,
            [
                "https://cache.lan/artifacts/v2",
                "https://whole.lan/api/x",
                "https://v2.lan/v2",
                "https://reg.lan/v2",
            ]
        );
        assert_eq!(hosts[0].identity.as_deref(), Some(&b"CERT\nKEY\n"[..]));
        assert_eq!(hosts[1].identity.as_deref(), Some(&b"CERT\n"[..]));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(hosts[1].headers, [pair("x-one", "1"), pair("x-two", "2"), pair("x-two", "3")]);
    }

    #[test]
    fn dockers_settings_and_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let settings = Settings {
            mirrors: vec!["https://mirror.lan".into(), "http://old.lan:5000/".into()],
            insecure: vec!["reg.lan:5000".into(), "10.0.0.0/8".into()],
            ..settings(dir.path())
        };
        let of = |text: &str| of(&settings, &text.parse().expect("a reference")).expect("hosts");
        let hub: Vec<_> = of("alpine").iter().map(|h| (h.base(h.scheme), h.role)).collect();
        assert_eq!(
            hub,
            [
                ("https://mirror.lan/v2".to_owned(), Role::Mirror),
                ("http://old.lan:5000/v2".into(), Role::Mirror),
                ("https://registry-1.docker.io/v2".into(), Role::Origin),
            ]
        );
        for (text, fallback) in [
            ("reg.lan:5000/a", Fallback::Http),
            ("10.1.2.3:80/a", Fallback::Http),
            ("11.1.2.3/a", Fallback::None),
            ("reg.lan/a", Fallback::None),
        ] {
            let hosts = of(text);
            assert_eq!((hosts.len(), hosts[0].fallback), (1, fallback), "{text}");
            assert_eq!(hosts[0].skip_verify, fallback == Fallback::Http);
        }
        let folder = dir.path().join("quay.io");
        std::fs::create_dir(&folder).expect("mkdir");
        for (name, text) in [("ca.crt", "CA"), ("client.cert", "CERT"), ("client.key", "KEY")] {
            std::fs::write(folder.join(name), text).expect("write");
        }
        let quay = &of("quay.io/a/b")[0];
        assert_eq!(quay.ca, [b"CA"]);
        assert_eq!(quay.identity.as_deref(), Some(&b"CERT\nKEY"[..]));
        std::fs::remove_file(folder.join("client.key")).expect("remove");
        assert!(super::of(&settings, &"quay.io/a".parse().expect("a reference")).is_err());
    }
}
