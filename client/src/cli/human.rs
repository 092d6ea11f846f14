//! Numbers and names as people read them, in Docker's words. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use wharf_client::v1::{Container, ContainerState};

use crate::cli::health;

/// "2 minutes", "About an hour", of a number of seconds.
pub(crate) fn age(seconds: i64) -> String {
    let counted = |count: i64, unit: &str| format!("{count} {unit}");
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        i64::MIN..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => counted(seconds, "seconds"),
        60..120 => "About a minute".to_owned(),
        _ if minutes < 60 => counted(minutes, "minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => counted(hours, "hours"),
        _ if hours < 24 * 7 * 2 => counted(hours / 24, "days"),
        _ if hours < 24 * 30 * 2 => counted(hours / 24 / 7, "weeks"),
        _ if hours < 24 * 365 * 2 => counted(hours / 24 / 30, "months"),
        _ => counted(hours / 24 / 365, "years"),
    }
}

/// "2 minutes ago"; "N/A" for no time.
pub(crate) fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(
        || "N/A".to_owned(),
        |at| format!("{} ago", age(now.as_second() - at.as_second())),
    )
}

/// Three digits and a decimal unit: "7.8MB".
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would round up to 1000 belongs to the next unit.
    while value >= 999.5 && unit < UNITS.len() - 1 {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    let number = format!("{value:.decimals$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number}{}", UNITS[unit])
}

/// A binary unit for memory: "1.952GiB".
pub(crate) fn memory(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    let number = format!("{value:.3}");
    format!("{}{}", number.trim_end_matches('0').trim_end_matches('.'), UNITS[unit])
}

/// At most so many characters, the last one an ellipsis if something is missing.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// In double quotes, with escapes for what is not printable.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// 12 digits of an id or digest.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

pub(crate) fn timestamp(at: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok())
}

/// "2026-03-01 12:00:00 +0000 UTC", as Docker prints times in lists.
pub(crate) fn date(at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string())
}

/// RFC 3339 with nine decimals, as Docker prints times of events and logs.
pub(crate) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// "running", "exited": Docker's word for the state.
pub(crate) fn state(container: &Container) -> &'static str {
    match container.state() {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Stopped if container.restarting => "restarting",
        ContainerState::Stopped => "exited",
        ContainerState::Unknown | ContainerState::Unspecified => "unknown",
    }
}

/// "Up 3 seconds", "Exited (0) 5 seconds ago".
pub(crate) fn status(container: &Container, now: Timestamp) -> String {
    let incarnation = container.incarnation.as_ref();
    let up = || {
        let started = timestamp(incarnation.and_then(|i| i.started_at));
        let since = started.map_or(0, |at| now.as_second() - at.as_second());
        format!("Up {}", age(since))
    };
    match container.state() {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => {
            format!("{}{}", up(), health::suffix(container.health.as_ref()))
        }
        ContainerState::Paused => format!("{} (Paused)", up()),
        ContainerState::Stopped => match incarnation.and_then(|i| i.exit.as_ref()) {
            Some(exit) => {
                let finished = timestamp(exit.finished_at);
                let what = if container.restarting { "Restarting" } else { "Exited" };
                format!("{what} ({}) {}", exit.exit_code, ago(finished, now))
            }
            None => "Exited".to_owned(),
        },
        ContainerState::Unknown | ContainerState::Unspecified => "Unknown".to_owned(),
    }
}

/// A reference as people write it: without docker.io/ and library/.
pub(crate) fn familiar(reference: &str) -> &str {
    let Some(rest) = reference.strip_prefix("docker.io/") else { return reference };
    rest.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(rest)
}

/// Repository, tag and digest of a reference.
pub(crate) fn split_reference(reference: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    // A colon before the last slash belongs to the registry's port.
    match rest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag), digest),
        _ => (rest, None, digest),
    }
}

#[cfg(test)]
mod tests {
    use wharf_client::v1::{Exit, Incarnation};

    use super::*;

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (-5, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (13 * 86400, "13 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (800 * 86400, "2 years"),
        ] {
            assert_eq!(age(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (7_797_760, "7.8MB"),
            (4_260_000, "4.26MB"),
            (999_999, "1MB"),
            (72_800_000, "72.8MB"),
            (187_000_000, "187MB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
        assert_eq!(memory(2 << 30), "2GiB");
        assert_eq!(memory(512), "512B");
    }

    #[test]
    fn texts() {
        assert_eq!(shorten("abc", 3), "abc");
        assert_eq!(shorten("abcd", 3), "ab…");
        assert_eq!(quote("a\"b\n\u{1}"), "\"a\\\"b\\n\\x01\"");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short_id("0123"), "0123");
    }

    #[test]
    fn references() {
        assert_eq!(familiar("docker.io/library/alpine:3"), "alpine:3");
        assert_eq!(familiar("docker.io/me/app:1"), "me/app:1");
        assert_eq!(familiar("docker.io/library/a/b:1"), "library/a/b:1");
        assert_eq!(familiar("localhost:5000/a:1"), "localhost:5000/a:1");
        assert_eq!(split_reference("localhost:5000/a"), ("localhost:5000/a", None, None));
        assert_eq!(split_reference("a:1@sha256:0"), ("a", Some("1"), Some("sha256:0")));
    }

    #[test]
    fn statuses() {
        let now: Timestamp = "2026-03-01T12:00:10Z".parse().expect("a time");
        let at = |seconds| {
            let at = now.as_second() - seconds;
            Some(prost_types::Timestamp { seconds: at, nanos: 0 })
        };
        let mut container = Container::default();
        container.set_state(ContainerState::Created);
        assert_eq!(status(&container, now), "Created");
        container.set_state(ContainerState::Running);
        container.incarnation = Some(Incarnation { started_at: at(3), ..Incarnation::default() });
        assert_eq!(status(&container, now), "Up 3 seconds");
        container.set_state(ContainerState::Stopped);
        let exit = Exit { exit_code: 137, finished_at: at(120), ..Exit::default() };
        container.incarnation = Some(Incarnation { exit: Some(exit), ..Incarnation::default() });
        assert_eq!(status(&container, now), "Exited (137) 2 minutes ago");
    }
}
