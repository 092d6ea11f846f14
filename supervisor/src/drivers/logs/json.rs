//! Lines of Docker's json-file format. Pure.
//!
//! `{"log":"<text>","stream":"<stdout|stderr>","time":"<RFC 3339>"}`; a text without a newline at its
//! end goes on in the next entry of its stream.

use std::borrow::Cow;

use serde::Deserialize;

use super::{Cursor, Entry, cri};

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// Reads a line, given without its newline; `None` for one that no shim writes.
pub(super) fn parse(line: &[u8], cursor: Cursor) -> Option<Entry> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(Entry {
        time_unix_ns: cri::parse_time(&line.time)?,
        stream: match &*line.stream {
            "stdout" => cri::Stream::Stdout,
            "stderr" => cri::Stream::Stderr,
            _ => return None,
        },
        partial: !line.log.ends_with('\n'),
        data: line.log.into_owned().into_bytes(),
        cursor,
    })
}

/// Whether a line (of the log) ends a line (of the container).
pub(super) fn ends_line(line: &[u8]) -> bool {
    serde_json::from_slice::<Line<'_>>(line).map_or(true, |line| line.log.ends_with('\n'))
}

#[cfg(test)]
mod tests {
    use super::{Cursor, cri::Stream, ends_line, parse};

    const AT: Cursor = Cursor { inode: 1, offset: 2 };

    #[test]
    fn whole_and_partial_lines() {
        let line =
            br#"{"log":"a \u00e9\"\n","stream":"stderr","time":"1970-01-01T00:00:01.000000002Z"}"#;
        let entry = parse(line, AT).expect("a line");
        assert_eq!(entry.data, "a é\"\n".as_bytes());
        assert_eq!(
            (entry.time_unix_ns, entry.stream, entry.partial),
            (1_000_000_002, Stream::Stderr, false)
        );
        assert!(ends_line(line));
        let part =
            br#"{"log":"a","stream":"stdout","time":"1970-01-01T00:00:00Z","attrs":{"x":"y"}}"#;
        assert!(parse(part, AT).expect("a line").partial);
        assert!(!ends_line(part));
    }

    #[test]
    fn other_lines_are_none() {
        for bad in [
            &b"{"[..],
            b"{}",
            br#"{"log":"a","stream":"stdin","time":"1970-01-01T00:00:00Z"}"#,
            br#"{"log":"a","stream":"stdout","time":"now"}"#,
        ] {
            assert_eq!(parse(bad, AT), None, "{bad:?}");
        }
    }
}
