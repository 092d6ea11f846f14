//! What can go wrong between us and a registry.

use oci_client::errors::{OciDistributionError, OciErrorCode};
use wharf_proto::kind::Kind;

use super::HostsError;

use crate::{
    drivers::content::Digest,
    fault::{Detail, Fault},
};

/// An error of a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client can't be set up: no certificates, say.
    #[error("set up the connection to {registry}")]
    Setup {
        /// Which registry.
        registry: String,
        /// Why.
        source: Box<OciDistributionError>,
    },
    /// The registry does not have it.
    #[error("{what} is not in the registry, or may not be seen without logging in")]
    NotFound {
        /// Reference or digest.
        what: String,
        /// What the registry says.
        source: Box<OciDistributionError>,
    },
    /// Credentials are missing or wrong.
    #[error("{registry} does not let us in: check user name and password")]
    Unauthenticated {
        /// Which registry.
        registry: String,
        /// What the registry says.
        source: Box<OciDistributionError>,
    },
    /// Known, and not allowed.
    #[error("{registry} denies {what}")]
    Denied {
        /// Which registry.
        registry: String,
        /// Reference or digest.
        what: String,
        /// What the registry says.
        source: Box<OciDistributionError>,
    },
    /// Too many requests.
    #[error("{registry} has had enough requests from here for now")]
    RateLimited {
        /// Which registry.
        registry: String,
        /// What the registry says.
        source: Box<OciDistributionError>,
    },
    /// Not reached, or it fell over.
    #[error("{registry} can't be reached for {what}")]
    Unavailable {
        /// Which registry.
        registry: String,
        /// Reference or digest.
        what: String,
        /// Why.
        source: Box<OciDistributionError>,
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
        source: std::io::Error,
    },
    /// It answers with what no registry answers.
    #[error("{registry} gives a bad answer for {what}")]
    BadAnswer {
        /// Which registry.
        registry: String,
        /// Reference or digest.
        what: String,
        /// What is bad.
        source: Box<OciDistributionError>,
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
    pub(super) fn classify(registry: &str, what: &str, source: OciDistributionError) -> Self {
        let (registry, what, word) = (registry.to_owned(), what.to_owned(), Word::of(&source));
        let source = Box::new(source);
        match word {
            Word::NotFound => Self::NotFound { what, source },
            Word::Unauthenticated => Self::Unauthenticated { registry, source },
            Word::Denied => Self::Denied { registry, what, source },
            Word::RateLimited => Self::RateLimited { registry, source },
            Word::Unavailable => Self::Unavailable { registry, what, source },
            Word::BadAnswer => Self::BadAnswer { registry, what, source },
        }
    }

    /// Whether another try may go better.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Unavailable { .. } | Self::BrokenOff { .. })
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
    fn of(error: &OciDistributionError) -> Self {
        use OciDistributionError as E;
        match error {
            E::ImageManifestNotFoundError(_) => Self::NotFound,
            E::UnauthorizedError { .. } | E::AuthenticationFailure(_) => Self::Unauthenticated,
            E::RegistryError { envelope, .. } => {
                envelope.errors.first().map_or(Self::BadAnswer, |e| Self::of_code(&e.code))
            }
            E::ServerError { code, .. } => Self::of_status(*code),
            E::RequestError(_) | E::IoError(_) => Self::Unavailable,
            _ => Self::BadAnswer,
        }
    }

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
            Self::Hosts(_) | Self::NoHost { .. } => Kind::Precondition,
            Self::BadAnswer { .. } | Self::TooLarge { .. } => Kind::Corrupt,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Setup { .. } => "REGISTRY_SETUP",
            Self::Hosts(_) | Self::NoHost { .. } => "REGISTRY_SETTINGS",
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
            | Self::TooLarge { registry, .. } => {
                Detail::Resource { kind: "registry", name: registry.clone() }
            }
            Self::Hosts(error) => Detail::State(error.to_string()),
            Self::NoHost { what } | Self::NotFound { what, .. } => {
                Detail::Resource { kind: "image", name: what.clone() }
            }
            Self::BrokenOff { digest, .. } => {
                Detail::Resource { kind: "blob", name: digest.to_string() }
            }
        }
    }
}
