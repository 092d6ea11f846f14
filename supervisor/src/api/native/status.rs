//! Faults as gRPC statuses with details: the one place where kinds become codes.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use wharf_proto::v1::ERROR_DOMAIN;

use crate::fault::{Detail, Fault, chain};

/// The status that tells a caller what went wrong and what it is about.
#[must_use]
pub fn from_fault(fault: &dyn Fault) -> Status {
    let text = chain_of(fault);
    let detail = fault.detail();
    let mut details = ErrorDetails::new();
    details.set_error_info(fault.reason(), ERROR_DOMAIN, metadata(&detail));
    match detail {
        Detail::None => {}
        Detail::Field(field) => {
            details.add_bad_request_violation(field, text.clone());
        }
        Detail::State(state) => {
            details.add_precondition_failure_violation("STATE", state, text.clone());
        }
        Detail::Resource { kind, name } => {
            details.set_resource_info(kind, name, "", text.clone());
        }
    }
    Status::with_error_details(Code::from_i32(fault.kind().code()), text, details)
}

fn chain_of(fault: &dyn Fault) -> String {
    let mut text = fault.to_string();
    if let Some(source) = fault.source() {
        text.push_str(": ");
        text.push_str(&chain(source));
    }
    text
}

fn metadata(detail: &Detail) -> HashMap<String, String> {
    let pair = match detail {
        Detail::None => return HashMap::new(),
        Detail::Field(field) => ("field".into(), field.clone()),
        Detail::State(state) => ("state".into(), state.clone()),
        Detail::Resource { kind, name } => ((*kind).into(), name.clone()),
    };
    HashMap::from([pair])
}
