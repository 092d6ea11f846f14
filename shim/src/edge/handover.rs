//! The whole state of a shim as the next version of its program reads it.
//!
//! The form is versioned. A program reads the versions that it knows and refuses others in its
//! check, before the old program has given anything up.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::server::ServerParts;
use crate::flow::{Identity, Parts, Shim, Ticket};
use crate::sys::SysError;
use crate::sys::handover::{Handover, dry, read_state};

/// Of the state's form.
const VERSION: u32 = 1;

/// Why a state is not taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResumeError {
    #[error("state has version {found}, this program reads version {VERSION}")]
    Version { found: u32 },
    #[error("state is not valid")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// Everything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    pub(crate) identity: Identity,
    /// Where events go.
    pub(crate) events: Option<String>,
    pub(crate) debug: bool,
    /// Who asked, and is to be told.
    pub(crate) ticket: Ticket,
    shim: Parts,
    server: ServerParts,
}

/// Read before the rest: another version may have another rest.
#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl State {
    pub(crate) fn new(shim: &mut Shim, server: ServerParts, ticket: Ticket) -> Self {
        Self {
            version: VERSION,
            identity: shim.identity.clone(),
            events: shim.events_address.clone(),
            debug: crate::sys::journal::is_debug(),
            ticket,
            shim: shim.take_parts(),
            server,
        }
    }

    /// Becomes another program. Returns only when that failed.
    pub(crate) fn hand_to(&mut self, binary: &Path) -> SysError {
        let args = [
            ("-namespace", self.identity.namespace.clone()),
            ("-id", self.identity.id.as_str().to_owned()),
            ("-bundle", self.identity.bundle.display().to_string()),
        ];
        let args: Vec<String> =
            args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let handover = match Handover::new(|| serde_json::to_vec(self)) {
            Ok(handover) => handover,
            Err(error) => return error,
        };
        match handover.check(binary, &args) {
            Ok(()) => handover.exec(binary, &args),
            Err(error) => error,
        }
    }

    pub(crate) fn into_parts(self) -> (Parts, ServerParts) {
        (self.shim, self.server)
    }
}

fn parse(bytes: &[u8]) -> Result<State, ResumeError> {
    let Head { version } = serde_json::from_slice(bytes)?;
    if version != VERSION {
        return Err(ResumeError::Version { found: version });
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// Says whether this program would understand the state. Takes nothing over.
pub(crate) fn check(number: i32) -> Result<(), ResumeError> {
    let bytes = read_state(number)?;
    dry(|| parse(&bytes)).map(drop)
}

/// Takes the state over.
pub(crate) fn resume(number: i32) -> Result<State, ResumeError> {
    parse(&read_state(number)?)
}

#[cfg(test)]
mod tests {
    use super::{ResumeError, parse};
    use crate::sys::handover::dry;

    /// The form of each released version, which every later program reads. Never edited.
    const RELEASED: [&str; 1] = [include_str!("../../tests/states/v1.json")];

    #[test]
    fn released_forms_are_read() {
        for text in RELEASED {
            let state = dry(|| parse(text.as_bytes())).expect("understood");
            assert_eq!(state.events.as_deref(), Some("/run/c.ttrpc"));
            let again = serde_json::to_vec(&state).expect("plain data");
            let read: serde_json::Value = serde_json::from_slice(&again).expect("json");
            let was: serde_json::Value = serde_json::from_str(text).expect("json");
            assert_eq!(read["shim"]["readers"], was["shim"]["readers"]);
            assert_eq!(
                read["shim"]["processes"]["2"]["output"],
                was["shim"]["processes"]["2"]["output"]
            );
        }
    }

    #[test]
    fn other_versions_are_refused_before_anything_else() {
        let error = parse(br#"{"version":2,"else":1}"#).expect_err("not known");
        assert!(matches!(error, ResumeError::Version { found: 2 }), "{error}");
    }
}
