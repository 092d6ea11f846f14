//! References to images, as Docker reads them.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::drivers::content::Digest;

const DEFAULT_REGISTRY: &str = "docker.io";
/// Docker Hub's names of old.
const REGISTRY_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];
/// Where Docker Hub really is.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME_LEN: usize = 255;
const MAX_TAG_LEN: usize = 128;

/// Why a text is not a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing at all.
    #[error("an image reference can't be empty")]
    Empty,
    /// The part before the first slash.
    #[error("{0:?} is not an image reference: its registry is not HOST or HOST:PORT")]
    Registry(String),
    /// Docker's most common mistake.
    #[error("{0:?} is not an image reference: a repository is written in lower case")]
    UpperCase(String),
    /// The name.
    #[error(
        "{0:?} is not an image reference: a repository is a-z 0-9 with single . _ or - between, \
         and slashes"
    )]
    Repository(String),
    /// Longer than any registry takes.
    #[error("{0:?} is not an image reference: a repository has at most {MAX_NAME_LEN} characters")]
    TooLong(String),
    /// After the colon.
    #[error("{0:?} is not an image reference: a tag is up to {MAX_TAG_LEN} of a-z A-Z 0-9 _ . -")]
    Tag(String),
    /// After the @.
    #[error("{0:?} is not an image reference: after @ comes sha256: and 64 hexadecimal digits")]
    Digest(String),
    /// Too easily taken for an id.
    #[error("{0:?} is not an image reference: 64 hexadecimal digits are an id")]
    LooksLikeId(String),
}

/// A full reference: registry, repository, and a tag or a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// "docker.io", "localhost:5000".
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where to connect to: Docker Hub is not at its own name.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { &self.registry }
    }

    /// Whether the registry is Docker Hub.
    #[must_use]
    pub fn is_docker_hub(&self) -> bool {
        self.registry == DEFAULT_REGISTRY
    }

    /// "library/alpine".
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The tag, if it has one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if it has one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// When it is no tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag(tag.into()));
        }
        Ok(Self { tag: Some(tag.into()), digest: None, ..self.clone() })
    }

    /// Whether the registry is this host itself, where plain HTTP is nobody's to listen to.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = host_of(&self.registry);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// The host of HOST:PORT, without the brackets of an IPv6 address.
fn host_of(registry: &str) -> &str {
    if let Some(rest) = registry.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    registry.split_once(':').map_or(registry, |(host, _)| host)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let shown = || text.chars().take(300).collect::<String>();
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId(shown()));
        }
        let (named, digest) = match text.split_once('@') {
            None => (text, None),
            Some((named, digest)) => {
                (named, Some(digest.parse().map_err(|_| ReferenceError::Digest(shown()))?))
            }
        };
        let (registry, rest) = split_registry(named);
        if !is_registry(registry) {
            return Err(ReferenceError::Registry(shown()));
        }
        let (repository, tag) = match rest.split_once(':') {
            None => (rest, None),
            Some((_, tag)) if !is_tag(tag) => return Err(ReferenceError::Tag(shown())),
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
        };
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase(shown()));
        }
        if !repository.split('/').all(is_path_component) {
            return Err(ReferenceError::Repository(shown()));
        }
        let registry =
            if REGISTRY_ALIASES.contains(&registry) { DEFAULT_REGISTRY } else { registry };
        let official = registry == DEFAULT_REGISTRY && !repository.contains('/');
        let repository = if official { OFFICIAL } else { "" }.to_owned() + repository;
        if registry.len() + 1 + repository.len() > MAX_NAME_LEN {
            return Err(ReferenceError::TooLong(shown()));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// A first component is a registry if it looks like a host, and Docker Hub's user if not.
fn split_registry(named: &str) -> (&str, &str) {
    match named.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, named),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => {
            if !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
                return false;
            }
            match port.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if port.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.is_none_or(|host| host.split('.').all(is_label))
        && port.is_none_or(|port| {
            !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
        })
}

/// Runs of a-z 0-9 with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = text.split(|c: char| c.is_ascii() && is_word(c as u8));
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| is_word(*b))
        && bytes.last().is_some_and(|b| is_word(*b))
        && separators.into_iter().all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    (1..=MAX_TAG_LEN).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::Reference;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{HEX}");
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".into()),
            ("user/app", "docker.io/user/app:latest".into()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".into()),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest".into()),
            ("registry-1.docker.io/a/b", "docker.io/a/b:latest".into()),
            ("localhost/app", "localhost/app:latest".into()),
            ("localhost:5000/app:v1", "localhost:5000/app:v1".into()),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest".into()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".into()),
            ("quay.io/a_b/c__d-e.f", "quay.io/a_b/c__d-e.f:latest".into()),
            ("gcr.io/p/i---x:T_1.2-3", "gcr.io/p/i---x:T_1.2-3".into()),
            (&format!("alpine@{digest}"), format!("docker.io/library/alpine@{digest}")),
            (&format!("alpine:3@{digest}"), format!("docker.io/library/alpine:3@{digest}")),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full);
            assert_eq!(full.parse(), Ok(reference), "a full name is itself");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let too_long = "a/".repeat(150) + "a";
        for text in [
            "",
            "Alpine",
            "alpine:",
            "alpine:-x",
            "alpine:a b",
            ":tag",
            "/alpine",
            "alpine/",
            "a//b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a/../b",
            "../etc/passwd",
            "exa_mple.com/app",
            "host:port/app",
            "host:123456/app",
            "[fe80/app",
            "alpine@sha256:123",
            "alpine@md5:d41d8cd98f00b204e9800998ecf8427e",
            "http://example.com/app",
            HEX,
            "äpfel",
            &too_long,
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }

    #[test]
    fn plain_http_is_for_this_host_only() {
        for (text, loopback) in [
            ("localhost:5000/a", true),
            ("127.0.0.1:5000/a", true),
            ("127.3.2.1/a", true),
            ("[::1]:5000/a", true),
            ("localhost.example.com/a", false),
            ("10.0.0.1:5000/a", false),
            ("127.0.0.1.example.com/a", false),
            ("alpine", false),
        ] {
            let reference: Reference = text.parse().expect("a reference");
            assert_eq!(reference.is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn docker_hub_is_elsewhere() {
        let reference: Reference = "alpine".parse().expect("a reference");
        assert_eq!(reference.registry(), "docker.io");
        assert_eq!(reference.registry_host(), "registry-1.docker.io");
    }
}
