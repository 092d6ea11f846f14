//! Lines of a container's log, as shims write them. Pure.
//!
//! `<RFC 3339 time with nanoseconds> <stdout|stderr> <P|F> <bytes>\n`; P: the line goes on in the
//! next entry of its stream, F: it is whole. Source: Kubernetes, CRI logging.

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and all of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Nanoseconds since the epoch.
    pub time_unix_ns: i64,
    /// Which output.
    pub stream: Stream,
    /// It goes on in the next entry.
    pub partial: bool,
    /// What the container wrote, without the newline of a whole line.
    pub data: &'a [u8],
}

/// Reads a line, given without its newline; `None` for one that no shim writes.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; the first says whether the line is whole.
    let partial = match fields.next()?.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    let data = fields.next()?;
    Some(Line { time_unix_ns: parse_time(time)?, stream, partial, data })
}

/// Whether a line (of the log) ends a line (of the container); a cheap [`parse`].
#[must_use]
pub fn ends_line(line: &[u8]) -> bool {
    line.splitn(4, |b| *b == b' ').nth(2).is_none_or(|tag| tag.first() != Some(&b'P'))
}

/// Nanoseconds since the epoch of an RFC 3339 time. Shims write UTC: the quick path.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::{Line, Stream, ends_line, parse};

    #[test]
    fn whole_and_partial_lines() {
        assert_eq!(
            parse(b"1970-01-01T00:00:01.000000002Z stderr P a b "),
            Some(Line {
                time_unix_ns: 1_000_000_002,
                stream: Stream::Stderr,
                partial: true,
                data: b"a b "
            })
        );
        let empty = parse(b"1970-01-01T00:00:00Z stdout F ").expect("a line");
        assert_eq!((empty.data, empty.partial), (&b""[..], false));
    }

    #[test]
    fn other_lines_are_none() {
        for bad in [
            &b""[..],
            b"x",
            b"1970-01-01T00:00:00Z stdin F x",
            b"now stdout F x",
            b"1970-01-01T00:00:00Z stdout X x",
            b"1970-01-01T00:00:00Z stdout F",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_tag_says_whether_a_line_ends() {
        assert!(ends_line(b"t stdout F x"));
        assert!(!ends_line(b"t stdout P x"));
        assert!(!ends_line(b"t stdout P:more x"));
    }
}
