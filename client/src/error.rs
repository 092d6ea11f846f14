//! What can go wrong, with what the server said about it kept as data.

use std::{collections::HashMap, error::Error as _, io, time::Duration};

use tonic::Status;
use tonic_types::StatusExt as _;
use wharf_proto::kind::Kind;

use crate::address::Address;

/// An error of the client library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address can't be read.
    #[error("address {given:?} can't be used: {reason}")]
    Address { given: String, reason: &'static str },
    /// Certificates or key for TLS can't be used.
    #[error("the certificates or the key for TLS can't be used")]
    Tls { source: tonic::transport::Error },
    /// Not a value for the metadata of a call.
    #[error("namespace {given:?} has characters other than [a-zA-Z0-9._-]")]
    Namespace { given: String },
    /// Nothing was sent: no connection could be made.
    #[error("no supervisor answers at {address}")]
    Connect { address: Address, source: io::Error },
    /// The connection broke before the answer; whether the call took effect is not known.
    #[error("the connection to the supervisor broke during {call}")]
    Broken { call: &'static str, source: TransportFailure },
    /// The supervisor answered with an error.
    #[error("{}", .0.message)]
    Refused(Box<Refusal>),
    /// No answer in time; whether the call took effect is not known.
    #[error("the supervisor gave no answer to {call} within {} s", .after.as_secs())]
    Deadline { call: &'static str, after: Duration },
    /// The supervisor broke its own protocol.
    #[error("the supervisor's answer to {call} lacks {what}")]
    Answer { call: &'static str, what: &'static str },
    /// A tar for an import could not be read.
    #[error("reading the archive failed")]
    Archive { source: io::Error },
}

/// An error status of the server.
#[derive(Debug)]
pub struct Refusal {
    pub kind: Kind,
    /// For people.
    pub message: String,
    /// The method that was called.
    pub call: &'static str,
    pub details: Details,
}

/// The details of a [`Refusal`], as far as the server gave any.
#[derive(Debug, Default)]
pub struct Details {
    /// Fields of the request that are wrong (BadRequest).
    pub fields: Vec<FieldError>,
    /// The states that are in the way (PreconditionFailure): kind, subject, description.
    pub states: Vec<(String, String, String)>,
    /// What is missing or taken (ResourceInfo).
    pub resource: Option<Resource>,
    /// A constant for programs (ErrorInfo): "ENTRYPOINT_NOT_FOUND".
    pub reason: Option<String>,
    /// More for programs (ErrorInfo).
    pub metadata: HashMap<String, String>,
}

/// One wrong field of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldError {
    pub field: String,
    pub description: String,
}

/// A resource that an error is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// "container", "image".
    pub kind: String,
    pub name: String,
}

impl Error {
    /// Sorts a status: made by the server, or by the transport beneath the call.
    pub(crate) fn from_status(call: &'static str, address: &Address, status: Status) -> Self {
        // Only the local transport gives a status a source; one that came over the wire has none.
        let Some(mut source) = status.source() else {
            return Self::Refused(Box::new(Refusal::new(call, &status)));
        };
        loop {
            if let Some(failure) = source.downcast_ref::<ConnectFailure>() {
                return Self::Connect { address: address.clone(), source: failure.to_io() };
            }
            match source.source() {
                Some(next) => source = next,
                // The innermost says what happened; those around it only that something did.
                None => {
                    let source = TransportFailure { text: source.to_string() };
                    return Self::Broken { call, source };
                }
            }
        }
    }

    /// Kind of the error, for the caller to act on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Address { .. } | Self::Tls { .. } | Self::Namespace { .. } => Kind::Invalid,
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Kind::Denied
            }
            Self::Connect { .. } | Self::Broken { .. } => Kind::Unavailable,
            Self::Refused(refusal) => refusal.kind,
            Self::Deadline { .. } => Kind::Deadline,
            Self::Answer { .. } | Self::Archive { .. } => Kind::Internal,
        }
    }

    /// What the server said, if it was the server that refused.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Address { .. }
            | Self::Tls { .. }
            | Self::Namespace { .. }
            | Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Deadline { .. }
            | Self::Answer { .. }
            | Self::Archive { .. } => None,
        }
    }

    /// The supervisor is away or going away: a call that may be repeated can be tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind() == Kind::Unavailable
    }
}

impl Refusal {
    fn new(call: &'static str, status: &Status) -> Self {
        let given = status.get_error_details();
        let details = Details {
            fields: given.bad_request().map_or_else(Vec::new, |bad| {
                let each = bad.field_violations.iter();
                each.map(|v| FieldError {
                    field: v.field.clone(),
                    description: v.description.clone(),
                })
                .collect()
            }),
            states: given.precondition_failure().map_or_else(Vec::new, |failure| {
                let each = failure.violations.iter();
                each.map(|v| (v.r#type.clone(), v.subject.clone(), v.description.clone())).collect()
            }),
            resource: given.resource_info().map(|info| Resource {
                kind: info.resource_type.clone(),
                name: info.resource_name.clone(),
            }),
            reason: given.error_info().map(|info| info.reason.clone()),
            metadata: given.error_info().map(|info| info.metadata.clone()).unwrap_or_default(),
        };
        let kind = Kind::from_code(status.code() as i32);
        let message = match status.message() {
            "" => format!("{call} failed: {}", status.code()),
            text => text.to_owned(),
        };
        Self { kind, message, call, details }
    }
}

/// What happened to a connection.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct TransportFailure {
    pub(crate) text: String,
}

/// What the connector fails with, so that it is recognised under the layers of the transport.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ConnectFailure {
    errno: Option<i32>,
    kind: io::ErrorKind,
    text: String,
}

impl From<io::Error> for ConnectFailure {
    fn from(error: io::Error) -> Self {
        Self { errno: error.raw_os_error(), kind: error.kind(), text: error.to_string() }
    }
}

impl ConnectFailure {
    fn to_io(&self) -> io::Error {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(self.kind, self.text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn keeps_details() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("spec.user", "no such user")
            .set_resource_info("image", "a:b", "", "")
            .set_error_info("ENTRYPOINT_NOT_FOUND", "wharf", HashMap::new())
            .add_precondition_failure_violation("state", "c1", "running");
        let status = Status::with_error_details(Code::FailedPrecondition, "no", details);
        let address = "/run/x".parse().expect("a path");
        let error = Error::from_status("Start", &address, status);
        assert_eq!(error.kind(), Kind::Precondition);
        let refusal = error.refusal().expect("from the server");
        assert_eq!(refusal.details.fields[0].field, "spec.user");
        assert_eq!(refusal.details.reason.as_deref(), Some("ENTRYPOINT_NOT_FOUND"));
        assert_eq!(refusal.details.resource.as_ref().map(|r| r.kind.as_str()), Some("image"));
        assert_eq!(refusal.details.states[0].2, "running");
    }
}
