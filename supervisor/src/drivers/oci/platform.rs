//! Which of an index's images runs here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT")]
pub struct PlatformError(String);

/// What an image is built for, in Go's words: linux, amd64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// "linux".
    #[serde(default)]
    pub os: String,
    /// "amd64".
    #[serde(default)]
    pub architecture: String,
    /// "v8".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This host's.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.map(str::to_owned),
        }
    }

    /// The same, with what people and registries leave out or spell otherwise.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.architecture = match self.architecture.as_str() {
            "x86_64" | "x86-64" => "amd64".into(),
            "aarch64" => "arm64".into(),
            "i386" | "i686" => "386".into(),
            "armhf" => "arm".into(),
            _ => self.architecture,
        };
        let default = match self.architecture.as_str() {
            "arm64" => Some("v8"),
            "arm" => Some("v7"),
            "amd64" => Some("v1"),
            _ => None,
        };
        self.variant = self
            .variant
            .filter(|v| !v.is_empty())
            .map(|v| if v.starts_with(|c: char| c.is_ascii_digit()) { format!("v{v}") } else { v });
        if self.variant.as_deref() == default {
            self.variant = None;
        }
        self
    }

    /// How well an image for `offered` serves where `self` is wanted: None not at all, else higher
    /// is better.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        let (want, have) = (self.clone().normalised(), offered.clone().normalised());
        if (&want.os, &want.architecture) != (&have.os, &have.architecture) {
            return None;
        }
        if want.variant == have.variant {
            return Some(1000);
        }
        // An older variant runs on a newer processor, not the other way.
        let level = |p: &Self| match (&*p.architecture, p.variant.as_deref()) {
            ("arm", None) => Some(7),
            ("arm64", None) => Some(8),
            (_, None) => Some(1),
            (_, Some(v)) => v.strip_prefix('v').and_then(|v| v.parse::<u32>().ok()),
        };
        let (want, have) = (level(&want)?, level(&have)?);
        (have < want).then_some(have)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(is_word) {
            return Err(PlatformError(text.chars().take(100).collect()));
        }
        Ok(Self {
            os: parts[0].to_lowercase(),
            architecture: parts[1].to_lowercase(),
            variant: parts.get(2).map(|v| v.to_lowercase()),
        }
        .normalised())
    }
}

#[cfg(test)]
mod tests {
    use super::Platform;

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    #[test]
    fn the_best_that_runs() {
        let rank = |want: &str, have: &str| platform(want).rank(&platform(have));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/x86_64", "linux/amd64"), Some(1000));
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(1000));
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None, "too new");
        assert!(rank("linux/arm/v7", "linux/arm/v6") > rank("linux/arm/v7", "linux/arm/v5"));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
    }

    #[test]
    fn parses_and_shows() {
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64");
        assert_eq!(platform("Linux/ARM/7").to_string(), "linux/arm");
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
