//! The OCI runtime spec as types: version 1.3, Linux's part, as config.json has it.
//!
//! Why not a crate for it: the runtime reads one document in a process that lives for milliseconds,
//! and the whole of its memory was mostly code of generated parsers; and a field whose name or word
//! such a crate spells in its own way is a field that is silently ignored, or a document refused.
//!
//! Properties that the spec does not know are ignored, as it demands. Accessors are named after
//! the properties.

mod json;
mod model;
mod read;
mod words;

use std::path::Path;

pub use model::*;
pub use words::*;

use crate::error::{Error, ErrorKind, Failure, Step};

/// The newest version of the spec whose properties are all known.
pub(crate) const VERSION: &str = "1.3.0";

impl Spec {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The field that is not what the spec says, by its path in the document.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        read::document(bytes, "")
    }

    /// Reads a bundle's `config.json`.
    ///
    /// # Errors
    /// As [`Spec::parse`], and when there is none.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).step(|| format!("read {}", path.display()))?;
        Self::parse(&bytes)
    }
}

impl Process {
    /// Reads the `process` of a spec, as it comes alone for an exec.
    ///
    /// # Errors
    /// As [`Spec::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        read::document(bytes, "process")
    }
}

impl LinuxResources {
    /// Reads the `linux.resources` of a spec, as they come alone for an update.
    ///
    /// # Errors
    /// As [`Spec::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        read::document(bytes, "linux.resources")
    }
}

#[cfg(any(test, fuzzing))]
impl LinuxSeccomp {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        read::document(bytes, "linux.seccomp")
    }
}

/// For callers that read JSON with serde; errors name the field all the same.
fn through_serde<'de, T: read::Read, D: serde::Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    use serde::Deserialize;
    let value = serde_json::Value::deserialize(from)?;
    read::document(value.to_string().as_bytes(), "").map_err(|error| {
        serde::de::Error::custom(match error {
            Error::Spec { field, reason } => Failure::new(ErrorKind::Invalid, field, reason),
            other => Failure::new(ErrorKind::Invalid, "", other.to_string()),
        })
    })
}

macro_rules! readable_by_serde {
    ($($name:ident),* $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                through_serde(from)
            }
        }
    )*};
}

readable_by_serde!(Spec, Process, LinuxResources, LinuxSeccomp, LinuxDevice, LinuxDeviceCgroup);

#[cfg(test)]
mod tests;
