//! Credentials from a `config.json` of Docker's: what `docker login` and `wharf login` keep, and
//! the helpers that it names. For calls that bring none of their own.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Credentials;
use crate::drivers::oci::Reference;

/// Docker Hub's entry.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// How long a helper may take.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_ANSWER_BYTES: u64 = 256 << 10;
/// A helper's user name for "the secret is an identity token".
const TOKEN_USER: &str = "<token>";

/// Why credentials can't be had.
#[derive(Debug, thiserror::Error)]
pub enum KeychainError {
    /// The file can't be read.
    #[error("read the credentials in {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not one of Docker's.
    #[error("the credentials in {}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// An entry is no `user:password` in base64.
    #[error("the credentials in {}: the entry of {registry} is no user and password", path.display())]
    Entry {
        /// Which.
        path: PathBuf,
        /// Of which registry.
        registry: String,
    },
    /// A helper can't be started or spoken to.
    #[error("the credential helper {helper}")]
    Helper {
        /// Its program.
        helper: String,
        /// Why.
        source: io::Error,
    },
    /// A helper refuses.
    #[error("the credential helper {helper}: {said}")]
    Refused {
        /// Its program.
        helper: String,
        /// Its own words.
        said: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// What the file at `path` has for the registry of `reference`. None where there is no file.
///
/// # Errors
/// When the file or a helper is no good.
pub async fn credentials(
    path: &Path,
    reference: &Reference,
) -> Result<Option<Credentials>, KeychainError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeychainError::Read { path: path.into(), source }),
    };
    let file: File = serde_json::from_slice(&text)
        .map_err(|source| KeychainError::Syntax { path: path.into(), source })?;
    let registry = reference.registry();
    let key = if reference.is_docker_hub() { HUB_KEY } else { registry };
    let helper = file.cred_helpers.get(registry).or_else(|| file.cred_helpers.get(key));
    if let Some(helper) = helper {
        return ask(helper, key).await;
    }
    if !file.creds_store.is_empty()
        && let Some(found) = ask(&file.creds_store, key).await?
    {
        return Ok(Some(found));
    }
    let entry = file.auths.get(key).or_else(|| {
        let host = |key: &str| {
            let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
            rest.split('/').next().unwrap_or_default().to_owned()
        };
        file.auths.iter().find(|(known, _)| host(known) == registry).map(|(_, entry)| entry)
    });
    entry
        .map(|entry| {
            entry.credentials().ok_or_else(|| KeychainError::Entry {
                path: path.into(),
                registry: registry.to_owned(),
            })
        })
        .transpose()
        .map(|found| found.filter(|found| !found.is_empty()))
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        let mut found = Credentials {
            username: self.username.clone(),
            password: self.password.clone(),
            identity_token: self.identitytoken.clone(),
            registry_token: self.registrytoken.clone(),
        };
        if !self.auth.is_empty() {
            let text = String::from_utf8(decode(&self.auth)?).ok()?;
            let (username, password) = text.split_once(':')?;
            found.username = username.to_owned();
            found.password = password.trim_end_matches('\0').to_owned();
        }
        Some(found)
    }
}

/// With or without padding: both are about.
fn decode(text: &str) -> Option<Vec<u8>> {
    let padding = DecodePaddingMode::Indifferent;
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding);
    GeneralPurpose::new(&alphabet::STANDARD, config).decode(text).ok()
}

/// Asks `docker-credential-<name> get`. None: it has nothing for this registry.
async fn ask(name: &str, key: &str) -> Result<Option<Credentials>, KeychainError> {
    let helper = format!("docker-credential-{name}");
    let failed = |source| KeychainError::Helper { helper: helper.clone(), source };
    if name.contains('/') {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let mut child = tokio::process::Command::new(&helper)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let talk = async {
        let mut stdin = child.stdin.take().expect("was piped");
        stdin.write_all(key.as_bytes()).await?;
        drop(stdin);
        let mut answer = Vec::new();
        let stdout = child.stdout.take().expect("was piped");
        stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
        Ok::<_, io::Error>((answer, child.wait().await?))
    };
    let (answer, status) = tokio::time::timeout(PATIENCE, talk)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)?;
    if !status.success() {
        let said = String::from_utf8_lossy(&answer).trim().chars().take(300).collect::<String>();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(KeychainError::Refused { helper, said });
    }
    let answer: HelperAnswer = serde_json::from_slice(&answer).map_err(|e| {
        KeychainError::Refused { helper: helper.clone(), said: format!("it answers no JSON: {e}") }
    })?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials { identity_token: answer.secret, ..Credentials::default() }
    } else {
        Credentials::password(&answer.username, &answer.secret)
    }))
}

#[cfg(test)]
mod tests {
    use super::{Credentials, credentials, decode};

    #[test]
    fn base64() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("dXNlcjpwYXNz", Some(b"user:pass")),
            ("YTpi", Some(b"a:b")),
            ("YTo=", Some(b"a:")),
            ("YQ", Some(b"a")),
            ("/+8=", Some(b"\xff\xef")),
            ("a b", None),
        ] {
            assert_eq!(decode(text).as_deref(), bytes, "{text}");
        }
    }

    #[tokio::test]
    async fn what_docker_wrote_is_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.json");
        let get = async |reference: &str| {
            let reference = reference.parse().expect("a reference");
            credentials(&path, &reference).await
        };
        assert_eq!(get("alpine").await.expect("no file"), None);
        let text = r#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOnNlYTpob3JzZQ=="},
                "reg.lan:5000": {"username": "u", "password": "p"},
                "https://old.lan/v1/": {"auth": "YTpi"},
                "token.lan": {"auth": "YTo=", "identitytoken": "t"},
                "bad.lan": {"auth": "!"},
                "empty.lan": {}
            },
            "HttpHeaders": {"x": "y"}
        }"#;
        std::fs::write(&path, text).expect("write");
        let password = |user: &str, password: &str| Some(Credentials::password(user, password));
        assert_eq!(get("alpine").await.expect("hub"), password("hub", "sea:horse"));
        assert_eq!(get("reg.lan:5000/a").await.expect("plain"), password("u", "p"));
        assert_eq!(get("old.lan/a").await.expect("a URL"), password("a", "b"));
        let token = get("token.lan/a").await.expect("a token").expect("some");
        assert_eq!(token.identity_token, "t");
        assert_eq!(get("empty.lan/a").await.expect("empty"), None);
        assert_eq!(get("other.lan/a").await.expect("other"), None);
        let error = get("bad.lan/a").await.expect_err("bad");
        assert!(error.to_string().contains("bad.lan"), "{error}");
    }
}
