//! As what a container's output is kept.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Names are those of Docker and Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Kubernetes' format, exact to the byte.
    #[default]
    Cri,
    /// Docker's.
    JsonFile,
    /// Only who is attached gets it.
    None,
}

impl FromStr for LogDriver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cri" => Ok(Self::Cri),
            "json-file" => Ok(Self::JsonFile),
            "none" => Ok(Self::None),
            other => {
                Err(format!("{other:?} is not known: \"cri\", \"json-file\" or \"none\" is needed"))
            }
        }
    }
}

impl fmt::Display for LogDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cri => "cri",
            Self::JsonFile => "json-file",
            Self::None => "none",
        })
    }
}
