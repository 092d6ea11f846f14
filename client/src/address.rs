//! Addresses of a supervisor. Parsing only; nothing is looked up or opened here.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::error::Error;

/// Where a supervisor listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `unix:PATH`, `unix://PATH` or a bare absolute path.
    Unix(PathBuf),
    /// `tcp:HOST:PORT` or `tcp://HOST:PORT`.
    Tcp(String),
}

impl Address {
    /// Where `wharfd` listens when nobody says otherwise.
    pub const DEFAULT: &'static str = "unix:/run/wharf/wharfd.sock";
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::Address { given: given.to_owned(), reason };
        if given.starts_with('/') {
            return Ok(Self::Unix(given.into()));
        }
        let (scheme, rest) =
            given.split_once(':').ok_or_else(|| refuse("it is not unix:PATH or tcp:HOST:PORT"))?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        match scheme {
            "unix" if rest.is_empty() => Err(refuse("the path is missing")),
            // sockaddr_un.sun_path holds 108 bytes with the final NUL.
            "unix" if rest.len() > 107 => Err(refuse("a socket's path has at most 107 bytes")),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Self::Tcp(rest.to_owned()))
                }
                _ => Err(refuse("the port is missing or no number")),
            },
            _ => Err(refuse("only unix: and tcp: are known")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp:{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (given, shown) in [
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
            ("/run/a.sock", "unix:/run/a.sock"),
            ("tcp:127.0.0.1:80", "tcp:127.0.0.1:80"),
            ("tcp://[::1]:80", "tcp:[::1]:80"),
        ] {
            let address: Address = given.parse().expect(given);
            assert_eq!(address.to_string(), shown);
        }
        for given in ["", "run/a.sock", "unix:", "tcp:host", "tcp::80", "tcp:h:x", "http://a:1"] {
            assert!(given.parse::<Address>().is_err(), "{given}");
        }
        assert!(format!("unix:/{}", "a".repeat(107)).parse::<Address>().is_err());
    }
}
