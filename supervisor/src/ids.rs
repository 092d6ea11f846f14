//! Names of things, checked once where they come in.

use std::{fmt, fs::File, io::Read as _, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not a name of its kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a container's id.
    #[error("{0:?} is not a container id: 64 hexadecimal digits")]
    Container(String),
    /// Not a container's name.
    #[error(
        "container name {0:?} is not 2 to 128 characters of a-z A-Z 0-9 _ . - that begin with a letter or digit"
    )]
    Name(String),
    /// Not a volume's name.
    #[error(
        "volume name {0:?} is not 2 to 128 characters of a-z A-Z 0-9 _ . - that begin with a letter or digit"
    )]
    Volume(String),
    /// Not a namespace.
    #[error(
        "namespace {0:?} is not 1 to 76 characters of a-z A-Z 0-9 _ . - that begin with a letter or digit"
    )]
    Namespace(String),
}

fn is_word(text: &str, len: std::ops::RangeInclusive<usize>) -> bool {
    len.contains(&text.len())
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $error:ident, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.into())) } else { Err(IdError::$error(text.into())) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// 64 hexadecimal digits, in lower case.
    ContainerId,
    Container,
    |text| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
);
name!(
    /// What people call a container; unique in its namespace.
    ContainerName,
    Name,
    |text| is_word(text, 2..=128)
);
name!(
    /// What people call a volume, or 64 random digits; unique in its namespace.
    VolumeName,
    Volume,
    |text| is_word(text, 2..=128)
);
name!(
    /// A space of names of its own.
    Namespace,
    Namespace,
    |text| is_word(text, 1..=76)
);

/// Digits of a short id.
pub const SHORT_LEN: usize = 12;

impl ContainerId {
    /// A new id, from the kernel's random numbers.
    ///
    /// # Errors
    /// When /dev/urandom can't be read.
    pub fn random() -> std::io::Result<Self> {
        Ok(Self(random_hex::<32>()?.into()))
    }

    /// The first [`SHORT_LEN`] digits: what people see, and the name of its folder.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..SHORT_LEN]
    }
}

/// `2 * BYTES` random hexadecimal digits.
///
/// # Errors
/// When /dev/urandom can't be read.
pub fn random_hex<const BYTES: usize>() -> std::io::Result<String> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::{ContainerId, ContainerName, Namespace};

    #[test]
    fn ids_are_64_lower_hex_digits() {
        let id = ContainerId::random().expect("urandom");
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_eq!(id.short().len(), 12);
        assert!("../../etc".parse::<ContainerId>().is_err());
        assert!("A".repeat(64).parse::<ContainerId>().is_err());
    }

    #[test]
    fn names_are_docker_names() {
        for good in ["ab", "web-1", "a.b_c", "9x"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        for bad in ["a", "", "-ab", ".ab", "a/b", "a b", "ä1", &"x".repeat(129)] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
        assert!("k8s.io".parse::<Namespace>().is_ok());
        assert!("..".parse::<Namespace>().is_err());
    }
}
