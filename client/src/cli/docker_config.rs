//! Docker's `config.json`: credentials of registries, read and written as Docker does.
//!
//! The file is `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`. What is not ours in it stays
//! as it is. A credential helper that it names (`credsStore`, `credHelpers`) keeps the secrets in its
//! place: `docker-credential-NAME get|store|erase`, spoken to over standard input and output.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use serde::Serialize as _;
use serde_json::{Map, Value, json};
use wharf_client::v1::Credentials;

/// Docker Hub's name and its entry.
pub(crate) const HUB: &str = "docker.io";
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// A helper's user name for "the secret is an identity token".
const TOKEN_USER: &str = "<token>";

/// The file, or what it would be.
#[derive(Debug)]
pub(crate) struct DockerConfig {
    path: PathBuf,
    content: Map<String, Value>,
}

/// Where a registry's secret is or goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    Helper(String),
    File(PathBuf),
}

/// The registry of a reference, as Docker reads it.
pub(crate) fn registry_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => canonical(first),
        _ => HUB,
    }
}

/// A registry as people write it: with a scheme, a path, or one of Docker Hub's names.
pub(crate) fn canonical(registry: &str) -> &str {
    let rest = registry.split_once("://").map_or(registry, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    }
}

fn key_of(registry: &str) -> &str {
    if registry == HUB { HUB_KEY } else { registry }
}

/// The caller's credentials for the registry of `reference`, if there are any.
pub(crate) fn credentials_for(reference: &str) -> Result<Option<Credentials>> {
    match DockerConfig::load()? {
        Some(config) => config.credentials(registry_of(reference)),
        None => Ok(None),
    }
}

impl DockerConfig {
    /// None: there is no home to look in.
    pub(crate) fn load() -> Result<Option<Self>> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = match (set("DOCKER_CONFIG"), set("HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => Path::new(&home).join(".docker"),
            (None, None) => return Ok(None),
        };
        Self::open(folder.join("config.json")).map(Some)
    }

    fn open(path: PathBuf) -> Result<Self> {
        let content = match fs::read(&path) {
            Ok(text) if text.trim_ascii().is_empty() => Map::new(),
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is not Docker's config.json", path.display()))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Map::new(),
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self { path, content })
    }

    fn helper(&self, registry: &str) -> Option<String> {
        let helpers = self.content.get("credHelpers");
        let own = helpers.and_then(|h| h.get(registry).or_else(|| h.get(key_of(registry))));
        let own = own.and_then(Value::as_str);
        let all = || self.content.get("credsStore").and_then(Value::as_str);
        own.or_else(all).filter(|name| !name.is_empty()).map(str::to_owned)
    }

    /// Credentials for a registry.
    pub(crate) fn credentials(&self, registry: &str) -> Result<Option<Credentials>> {
        if let Some(name) = self.helper(registry)
            && let Some(found) = Helper(&name).get(key_of(registry))?
        {
            return Ok(Some(found));
        }
        let Some(auths) = self.content.get("auths").and_then(Value::as_object) else {
            return Ok(None);
        };
        let same = |(key, _): &(&String, &Value)| canonical(key) == registry;
        let entry = auths.get(key_of(registry)).or_else(|| auths.iter().find(same).map(|e| e.1));
        let Some(entry) = entry else { return Ok(None) };
        let credentials = read_entry(entry).with_context(|| {
            format!("{}: the entry of {registry} is no user and password", self.path.display())
        })?;
        Ok(Some(credentials).filter(|c| *c != Credentials::default()))
    }

    /// Keeps credentials of a registry, with its helper if it has one.
    pub(crate) fn store(&mut self, registry: &str, credentials: &Credentials) -> Result<Keeper> {
        let key = key_of(registry);
        let token = &credentials.identity_token;
        if let Some(name) = self.helper(registry) {
            let (user, secret) = match token.is_empty() {
                true => (credentials.username.as_str(), credentials.password.as_str()),
                false => (TOKEN_USER, token.as_str()),
            };
            Helper(&name).store(key, user, secret)?;
            // As Docker does: an entry without a secret says that there is one.
            self.auths().insert(key.to_owned(), json!({}));
            self.save()?;
            return Ok(Keeper::Helper(name));
        }
        let password = if token.is_empty() { &*credentials.password } else { "" };
        let auth = STANDARD.encode(format!("{}:{password}", credentials.username));
        let mut entry = json!({ "auth": auth });
        if !token.is_empty() {
            entry["identitytoken"] = json!(token);
        }
        self.auths().insert(key.to_owned(), entry);
        self.save()?;
        Ok(Keeper::File(self.path.clone()))
    }

    /// Forgets a registry. False: nothing was known of it.
    pub(crate) fn erase(&mut self, registry: &str) -> Result<bool> {
        let key = key_of(registry);
        let erased = match self.helper(registry) {
            // Helpers say that all went well whether they had something or not.
            Some(name) => {
                let known = Helper(&name).get(key)?.is_some();
                Helper(&name).erase(key)? && known
            }
            None => false,
        };
        if !self.content.contains_key("auths") {
            return Ok(erased);
        }
        let auths = self.auths();
        let keys: Vec<String> = auths.keys().cloned().collect();
        let ours: Vec<String> = keys.into_iter().filter(|k| canonical(k) == registry).collect();
        for key in &ours {
            auths.shift_remove(key);
        }
        if ours.is_empty() {
            return Ok(erased);
        }
        self.save()?;
        Ok(true)
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let entry = self.content.entry("auths").or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        entry.as_object_mut().expect("was made one above")
    }

    /// Whole or not at all, for its owner's eyes only, indented as Docker's.
    fn save(&self) -> Result<()> {
        // A link is written through.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().context("config.json has no folder")?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let mut text = Vec::new();
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
        self.content.serialize(&mut serializer).context("write the credentials as JSON")?;
        let part = folder.join(format!("config.json.{}.part", std::process::id()));
        let mode = fs::metadata(&path).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
        let write = || -> io::Result<()> {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        let written = write().with_context(|| format!("write {}", path.display()));
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }
}

fn read_entry(entry: &Value) -> Result<Credentials> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut credentials = Credentials {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    };
    let auth = text("auth");
    if !auth.is_empty() {
        // With padding or without: both are about.
        let padding = DecodePaddingMode::Indifferent;
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding);
        let decoded = GeneralPurpose::new(&alphabet::STANDARD, config).decode(auth)?;
        let decoded = String::from_utf8(decoded)?;
        let (user, password) = decoded.split_once(':').context("there is no colon in it")?;
        credentials.username = user.to_owned();
        credentials.password = password.trim_end_matches('\0').to_owned();
    }
    Ok(credentials)
}

/// `docker-credential-NAME`.
struct Helper<'a>(&'a str);

impl Helper<'_> {
    fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }

    /// Its answer; None when it says that it has nothing.
    fn talk(&self, verb: &str, input: &str) -> Result<Option<Vec<u8>>> {
        let program = self.program();
        if self.0.contains('/') {
            bail!("{:?} is not the name of a credential helper", self.0);
        }
        let mut child = Command::new(&program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("start the credential helper {program}"))?;
        let mut stdin = child.stdin.take().context("the helper has no standard input")?;
        // One that does not read is judged by its answer.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| format!("run {program}"))?;
        if output.status.success() {
            return Ok(Some(output.stdout));
        }
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        Err(anyhow!("the credential helper {program}: {said} ({})", output.status))
    }

    fn get(&self, key: &str) -> Result<Option<Credentials>> {
        let Some(answer) = self.talk("get", key)? else { return Ok(None) };
        let answer: Value = serde_json::from_slice(&answer)
            .with_context(|| format!("{} answers with no JSON", self.program()))?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        Ok(Some(match text("Username") {
            TOKEN_USER => {
                Credentials { identity_token: text("Secret").to_owned(), ..Credentials::default() }
            }
            user => Credentials {
                username: user.to_owned(),
                password: text("Secret").to_owned(),
                ..Credentials::default()
            },
        }))
    }

    fn store(&self, key: &str, user: &str, secret: &str) -> Result<()> {
        let input = json!({"ServerURL": key, "Username": user, "Secret": secret}).to_string();
        self.talk("store", &input)?;
        Ok(())
    }

    fn erase(&self, key: &str) -> Result<bool> {
        Ok(self.talk("erase", key)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Credentials {
        Credentials { username: user.into(), password: password.into(), ..Credentials::default() }
    }

    #[test]
    fn registries_of_references() {
        for (reference, registry) in [
            ("alpine", HUB),
            ("team/app:1", HUB),
            ("docker.io/library/alpine", HUB),
            ("index.docker.io/x", HUB),
            ("localhost/app", "localhost"),
            ("localhost:5000/app", "localhost:5000"),
            ("quay.io/a/b@sha256:0", "quay.io"),
        ] {
            assert_eq!(registry_of(reference), registry, "{reference}");
        }
        assert_eq!(canonical("https://reg.lan:5000/v2/"), "reg.lan:5000");
        assert_eq!(canonical("https://index.docker.io/v1/"), HUB);
    }

    #[test]
    fn the_file_is_written_as_docker_does_and_keeps_what_is_not_ours() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("sub/config.json");
        let mut config = DockerConfig::open(path.clone()).expect("nothing yet");
        config.store(HUB, &password("u", "a:b")).expect("stores");
        let text = fs::read_to_string(&path).expect("a file");
        let expected = "{\n\t\"auths\": {\n\t\t\"https://index.docker.io/v1/\": {\n\t\t\t\"auth\": \
                        \"dTphOmI=\"\n\t\t}\n\t}\n}";
        assert_eq!(text, expected);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, text.replacen('{', "{\"detachKeys\": \"ctrl-x\", \"z\": [1],", 1))
            .expect("writes");
        let mut config = DockerConfig::open(path.clone()).expect("opens");
        assert_eq!(config.credentials(HUB).expect("reads"), Some(password("u", "a:b")));
        let token = Credentials { identity_token: "t".into(), ..password("me", "secret") };
        config.store("reg.lan:5000", &token).expect("stores");
        let config = DockerConfig::open(path.clone()).expect("opens");
        let found = config.credentials("reg.lan:5000").expect("reads").expect("some");
        assert_eq!((&*found.identity_token, &*found.password), ("t", ""));
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.starts_with("{\n\t\"detachKeys\": \"ctrl-x\",\n\t\"z\""), "{text}");
        assert!(!text.contains("secret"), "{text}");
        let mut config = config;
        assert!(config.erase(HUB).expect("erases"));
        assert!(!config.erase(HUB).expect("erases"));
        assert_eq!(config.credentials(HUB).expect("reads"), None);
        assert!(config.credentials("reg.lan:5000").expect("reads").is_some());
    }

    #[test]
    fn what_others_wrote_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("config.json");
        fs::write(
            &path,
            r#"{"auths": {"https://old.lan/v1/": {"auth": "YTpi"}, "bad.lan": {"auth": "!"},
                "plain.lan": {"username": "u", "password": "p"}, "none.lan": {}}}"#,
        )
        .expect("writes");
        let config = DockerConfig::open(path.clone()).expect("opens");
        assert_eq!(config.credentials("old.lan").expect("reads"), Some(password("a", "b")));
        assert_eq!(config.credentials("plain.lan").expect("reads"), Some(password("u", "p")));
        assert_eq!(config.credentials("none.lan").expect("reads"), None);
        assert!(config.credentials("bad.lan").is_err());
        fs::write(&path, "[1]").expect("writes");
        assert!(DockerConfig::open(path).is_err());
    }
}
