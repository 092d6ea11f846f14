//! What an error tells its caller, whatever module it comes from.
//!
//! Modules have error enums of their own; each implements [`Fault`], and the edges of the API turn
//! any fault into their protocol with one function.

use wharf_proto::kind::Kind;

/// An error that can be answered with.
pub trait Fault: std::error::Error + Send + Sync + 'static {
    /// What the caller can do about it.
    fn kind(&self) -> Kind;
    /// A constant a program can match on, in SCREAMING_SNAKE_CASE.
    fn reason(&self) -> &'static str;
    /// Which field, state or resource.
    fn detail(&self) -> Detail {
        Detail::None
    }
}

/// What the error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing in particular.
    None,
    /// A field of the request, by its path: `spec.mounts[2].source`.
    Field(String),
    /// The state that is in the way.
    State(String),
    /// A resource that is missing or taken.
    Resource {
        /// "container", "image", "blob", …
        kind: &'static str,
        /// As it was asked for.
        name: String,
    },
}

/// The text of an error and of everything beneath it, joined with colons.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The kind of an I/O error that no module has a better word for.
#[must_use]
pub fn io_kind(error: &std::io::Error) -> Kind {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
            Kind::Exhausted
        }
        Some(libc::EACCES | libc::EPERM) => Kind::Denied,
        _ => Kind::Internal,
    }
}
