//! What can go wrong between us and a registry.

use std::time::Duration;

use oci_client::errors::{OciEnvelope, OciErrorCode};
use reqwest::StatusCode;
use wharf_proto::kind::Kind;

use super::{HostsError, KeychainError};

use crate::{
    drivers::content::Digest,
    fault::{Detail, Fault},
};

/// Characters of a registry's own words that are told.
const MAX_SAID: usize = 500;

/// What came back, or did not.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No answer.
    #[error("no answer")]
    Http(#[source] reqwest::Error),
    /// An answer that says so.
    #[error("it answers {status}{said}")]
    Answer {
        /// In full: "404 Not Found".
        status: StatusCode,
        /// ": " and its own words, if it has any.
        said: String,
    },
    /// What is wrong with an answer.
    #[error("{0}")]
    Said(String),
}

impl From<reqwest::Error> for Cause {
    fn from(error: reqwest::Error) -> Self {
        // An URL may be signed: that is as good as a password.
        Self::Http(error.without_url())
    }
}

impl Cause {
    pub(super) fn of_answer(status: StatusCode, body: &[u8]) -> Self {
        let text = match serde_json::from_slice::<OciEnvelope>(body) {
            Ok(envelope) => {
                let words = envelope.errors.iter().map(|e| e.message.trim().to_owned());
                words.filter(|w| !w.is_empty()).collect::<Vec<_>>().join("; ")
            }
            Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
        };
        // An error page is nobody's words.
        let text = if text.starts_with('<') { String::new() } else { text };
        let plain = text.chars().filter(|c| !c.is_control()).take(MAX_SAID);
        let said = plain.collect::<String>();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        Self::Answer { status, said }
    }
}

/// An error of a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client can't be set up: no certificates, say.
    #[error("set up the connection to {registry}")]
    Setup {
        /// Which registry.
        registry: String,
        /// Why.
        source: Cause,
    },
    /// The registry does not have it.
    #[error("{what} is not in the registry, or may not be seen without logging in")]
    NotFound {
        /// Reference or digest.
        what: String,
        /// What the registry says.
        source: Cause,
    },
    /// Credentials are missing or wrong.
    #[error("{registry} does not let us in: check user name and password")]
    Unauthenticated {
        /// Which registry.
        registry: String,
        /// What the registry says.
        source: Cause,
    },
    /// Known, and not allowed.
    #[error("{registry} denies {what}")]
    Denied {
        /// Which registry.
        registry: String,
        /// Reference or digest.
        what: String,
        /// What the registry says.
        source: Cause,
    },
    /// Too many requests.
    #[error("{registry} has had enough requests from here for now")]
    RateLimited {
        /// Which registry.
        registry: String,
        /// How long it wants to be left alone, if it says.
        after: Option<Duration>,
        /// What the registry says.
        source: Cause,
    },
    /// Not reached, or it fell over.
    #[error("{registry} can't be reached for {what}")]
    Unavailable {
        /// Which registry.
        registry: String,
        /// Reference or digest.
        what: String,
        /// Why.
        source: Cause,
    },
    /// The bytes stopped coming, again and again.
    #[error("{registry} broke off {digest} after {received} of {expected} bytes")]
    BrokenOff {
        /// Which registry.
        registry: String,
        /// The blob.
        digest: Digest,
        /// Bytes that came.
        received: u64,
        /// Bytes that should have.
        expected: u64,
        /// Why, at last.
        source: Cause,
    },
    /// It answers with what no registry answers.
    #[error("{registry} gives a bad answer for {what}")]
    BadAnswer {
        /// Which registry.
        registry: String,
        /// Reference or digest.
        what: String,
        /// What is bad.
        source: Cause,
    },
    /// What its `hosts.toml` says is no good.
    #[error("settings of the registry")]
    Hosts(#[from] HostsError),
    /// Its `hosts.toml` lets nobody be asked.
    #[error("no host of the registry may be asked for {what}: see its hosts.toml")]
    NoHost {
        /// Reference or digest.
        what: String,
    },
    /// Not HOST or HOST:PORT.
    #[error("{0:?} is not a registry: HOST or HOST:PORT is needed")]
    NotARegistry(String),
    /// It has no list of its repositories.
    #[error("{registry} offers no search")]
    NoSearch {
        /// Which registry.
        registry: String,
        /// What it says.
        source: Cause,
    },
    /// The daemon's own credentials.
    #[error(transparent)]
    Keychain(#[from] KeychainError),
    /// A document larger than any image's.
    #[error("{registry} answers for {what} with more than {limit} bytes")]
    TooLarge {
        /// Which registry.
        registry: String,
        /// Reference or digest.
        what: String,
        /// Bytes allowed.
        limit: u64,
    },
}

impl Error {
    pub(super) fn unavailable(registry: &str, what: &str, source: Cause) -> Self {
        Self::Unavailable { registry: registry.into(), what: what.into(), source }
    }

    /// What an answer that is no success means. The registry's own code says more than the status.
    pub(super) fn of_status(
        registry: &str,
        what: &str,
        status: StatusCode,
        body: &[u8],
        after: Option<Duration>,
    ) -> Self {
        let envelope = serde_json::from_slice::<OciEnvelope>(body).ok();
        let code = envelope.as_ref().and_then(|envelope| envelope.errors.first()).map(|e| &e.code);
        let word = match Word::of_status(status.as_u16()) {
            Word::BadAnswer => code.map_or(Word::BadAnswer, Word::of_code),
            word => word,
        };
        let source = Cause::of_answer(status, body);
        let (registry, what) = (registry.to_owned(), what.to_owned());
        match word {
            Word::NotFound => Self::NotFound { what, source },
            Word::Unauthenticated => Self::Unauthenticated { registry, source },
            Word::Denied => Self::Denied { registry, what, source },
            Word::RateLimited => Self::RateLimited { registry, after, source },
            Word::Unavailable => Self::Unavailable { registry, what, source },
            Word::BadAnswer => Self::BadAnswer { registry, what, source },
        }
    }

    /// Whether another try may go better.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Unavailable { .. } | Self::BrokenOff { .. })
    }

    /// How long the registry wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { after, .. } => *after,
            _ => None,
        }
    }

    /// Whether nobody has answered at all.
    pub(super) fn is_no_answer(&self) -> bool {
        matches!(self, Self::Unavailable { source: Cause::Http(_), .. })
    }
}

enum Word {
    NotFound,
    Unauthenticated,
    Denied,
    RateLimited,
    Unavailable,
    BadAnswer,
}

impl Word {
    fn of_code(code: &OciErrorCode) -> Self {
        match code {
            OciErrorCode::BlobUnknown
            | OciErrorCode::ManifestUnknown
            | OciErrorCode::ManifestBlobUnknown
            | OciErrorCode::NameUnknown
            | OciErrorCode::NameInvalid
            | OciErrorCode::NotFound => Self::NotFound,
            OciErrorCode::Unauthorized => Self::Unauthenticated,
            OciErrorCode::Denied => Self::Denied,
            OciErrorCode::Toomanyrequests => Self::RateLimited,
            _ => Self::BadAnswer,
        }
    }

    fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            403 => Self::Denied,
            404 => Self::NotFound,
            408 | 500..=599 => Self::Unavailable,
            429 => Self::RateLimited,
            _ => Self::BadAnswer,
        }
    }
}

impl Fault for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::Unauthenticated { .. } => Kind::Unauthenticated,
            Self::Denied { .. } => Kind::Denied,
            Self::RateLimited { .. } => Kind::Exhausted,
            Self::Setup { .. } | Self::Unavailable { .. } | Self::BrokenOff { .. } => {
                Kind::Unavailable
            }
            Self::Hosts(_) | Self::NoHost { .. } | Self::Keychain(_) => Kind::Precondition,
            Self::NotARegistry(_) => Kind::Invalid,
            Self::NoSearch { .. } => Kind::Unsupported,
            Self::BadAnswer { .. } | Self::TooLarge { .. } => Kind::Corrupt,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Setup { .. } => "REGISTRY_SETUP",
            Self::Hosts(_) | Self::NoHost { .. } => "REGISTRY_SETTINGS",
            Self::Keychain(_) => "REGISTRY_CREDENTIALS",
            Self::NotARegistry(_) => "BAD_REGISTRY",
            Self::NoSearch { .. } => "NO_SEARCH",
            Self::NotFound { .. } => "NOT_IN_REGISTRY",
            Self::Unauthenticated { .. } => "REGISTRY_UNAUTHENTICATED",
            Self::Denied { .. } => "REGISTRY_DENIED",
            Self::RateLimited { .. } => "REGISTRY_RATE_LIMITED",
            Self::Unavailable { .. } | Self::BrokenOff { .. } => "REGISTRY_UNAVAILABLE",
            Self::BadAnswer { .. } | Self::TooLarge { .. } => "REGISTRY_BAD_ANSWER",
        }
    }

    fn detail(&self) -> Detail {
        match self {
            Self::Setup { registry, .. }
            | Self::Unauthenticated { registry, .. }
            | Self::Denied { registry, .. }
            | Self::RateLimited { registry, .. }
            | Self::Unavailable { registry, .. }
            | Self::BadAnswer { registry, .. }
            | Self::NoSearch { registry, .. }
            | Self::TooLarge { registry, .. } => {
                Detail::Resource { kind: "registry", name: registry.clone() }
            }
            Self::Hosts(error) => Detail::State(error.to_string()),
            Self::Keychain(error) => Detail::State(error.to_string()),
            Self::NotARegistry(_) => Detail::Field("registry".into()),
            Self::NoHost { what } | Self::NotFound { what, .. } => {
                Detail::Resource { kind: "image", name: what.clone() }
            }
            Self::BrokenOff { digest, .. } => {
                Detail::Resource { kind: "blob", name: digest.to_string() }
            }
        }
    }
}
