//! Stdio URIs of the shim protocol. Pure.
//!
//! `""`: nowhere. `/path` and `fifo:///path`: a named pipe. `file:///path`: a file.
//! `binary:///path?key=value…`: a program that is given the streams, with its arguments as the
//! query says them. `wharf:`: held in the shim.

use std::path::PathBuf;

/// Where one stream goes or comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Nowhere,
    Held,
    /// A named pipe, or a file that exists.
    Path(PathBuf),
    /// A file, made if it is not there.
    File(PathBuf),
    Binary(Program),
}

/// A logging program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<String>,
}

/// `None`: it is no stdio URI.
pub(crate) fn parse(uri: &str) -> Option<Target> {
    if uri.is_empty() {
        return Some(Target::Nowhere);
    }
    if uri == wharf_proto::shim::STDIO_IN_SHIM {
        return Some(Target::Held);
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.starts_with('/').then(|| Target::Path(uri.into()));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') {
        return None;
    }
    let path = PathBuf::from(decode(path)?);
    match scheme {
        "fifo" => Some(Target::Path(path)),
        "file" => Some(Target::File(path)),
        "binary" => {
            let mut args = Vec::new();
            for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                args.push(decode(key)?);
                if !value.is_empty() {
                    args.push(decode(value)?);
                }
            }
            Some(Target::Binary(Program { path, args }))
        }
        _ => None,
    }
}

/// Percent signs to bytes, plus signs to spaces.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{Program, Target, parse};

    #[test]
    fn every_scheme() {
        let program = Program {
            path: "/usr/bin/l".into(),
            args: vec!["-f".into(), "a b/c".into(), "x".into()],
        };
        for (uri, target) in [
            ("", Target::Nowhere),
            ("wharf:", Target::Held),
            ("/run/f", Target::Path("/run/f".into())),
            ("fifo:///run/f", Target::Path("/run/f".into())),
            ("file:///var/log/x%20y?maxsize=1", Target::File("/var/log/x y".into())),
            ("binary:///usr/bin/l?-f=a+b%2Fc&x", Target::Binary(program)),
        ] {
            assert_eq!(parse(uri), Some(target), "{uri}");
        }
        for uri in ["x", "file://relative", "npipe:///x", "http://x", "file:///%zz", "file:///%2"] {
            assert_eq!(parse(uri), None, "{uri}");
        }
    }
}
