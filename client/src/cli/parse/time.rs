//! Durations ("1h30m") and moments ("10m" ago, RFC 3339, seconds since the epoch).

use std::time::Duration;

use anyhow::{Result, anyhow};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// "90s", "1h30m", "1.5h", "500ms"; a bare number is seconds.
pub(crate) fn duration(given: &str) -> Result<Duration> {
    let refuse = || anyhow!("{given:?} is not a duration, as in 90s, 10m or 1h30m");
    if let Ok(seconds) = given.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = given;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(refuse)?;
        let (number, tail) = rest.split_at(split);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(refuse()),
        };
        let number: f64 = number.parse().map_err(|_| refuse())?;
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| refuse())?;
        total = total.checked_add(part).ok_or_else(refuse)?;
        rest = tail;
    }
    if given.is_empty() { Err(refuse()) } else { Ok(total) }
}

/// A moment: so long before `now`, a date, or seconds since the epoch. Dates with no zone are UTC.
pub(crate) fn moment(given: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(at) = given.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(at) = given.parse::<DateTime>()
        && given.contains('-')
    {
        return Ok(at.to_zoned(TimeZone::UTC)?.timestamp());
    }
    if let Some(at) = epoch(given) {
        return Ok(at);
    }
    duration(given)
        .ok()
        .and_then(|ago| SignedDuration::try_from(ago).ok())
        .and_then(|ago| now.checked_sub(ago).ok())
        .ok_or_else(|| {
            anyhow!(
                "{given:?} is not a time: use 10m (ago), 2026-01-31T12:00:00Z or seconds since the epoch"
            )
        })
}

fn epoch(given: &str) -> Option<Timestamp> {
    let (seconds, nanos) = given.split_once('.').unwrap_or((given, "0"));
    if nanos.is_empty() || nanos.len() > 9 || !nanos.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Timestamp::new(seconds.parse().ok()?, format!("{nanos:0<9}").parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (given, expected) in [
            ("10", Duration::from_secs(10)),
            ("0", Duration::ZERO),
            ("90s", Duration::from_secs(90)),
            ("1h30m", Duration::from_secs(5400)),
            ("1.5h", Duration::from_secs(5400)),
            ("250ms", Duration::from_millis(250)),
            ("1m0.5s", Duration::from_millis(60_500)),
        ] {
            assert_eq!(duration(given).expect(given), expected, "{given}");
        }
        for given in ["", "s", "10x", "m10", "-5s", "1h30", "1..2s"] {
            assert!(duration(given).is_err(), "{given}");
        }
    }

    #[test]
    fn moments() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        for (given, expected) in [
            ("10m", "2026-03-01T11:50:00Z"),
            ("2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("2026-02-01T01:00:00+01:00", "2026-02-01T00:00:00Z"),
            ("2026-02-01T10:00:00", "2026-02-01T10:00:00Z"),
            ("2026-02-01", "2026-02-01T00:00:00Z"),
            ("1136073600", "2006-01-01T00:00:00Z"),
            ("1136073600.5", "2006-01-01T00:00:00.5Z"),
        ] {
            let expected: Timestamp = expected.parse().expect("a time");
            assert_eq!(moment(given, now).expect(given), expected, "{given}");
        }
        for given in ["", "yesterday", "10 minutes", "1136073600."] {
            assert!(moment(given, now).is_err(), "{given}");
        }
    }
}
