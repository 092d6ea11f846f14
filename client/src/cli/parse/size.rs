//! Sizes ("512m") and CPUs ("1.5").

use anyhow::{Result, anyhow, bail};

/// Bytes of "512", "512b", "512k", "1.5g", "2GiB"; units are powers of 1024.
pub(crate) fn bytes(given: &str) -> Result<i64> {
    let refuse = || anyhow!("{given:?} is not a size: a number with b, k, m, g or t, as in 512m");
    let split = given.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(given.len());
    let (number, unit) = given.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(refuse()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && part.is_empty() || unit == "ib" {
        return Err(refuse());
    }
    let digits = |digits: &str| match digits {
        "" => Some(0_i64),
        digits => digits.parse().ok(),
    };
    let scale = 1_i64 << shift;
    // Nine digits of the fraction are more than a byte is worth up to 1 GiB.
    let part = &part[..part.len().min(9)];
    let fraction = digits(part).ok_or_else(refuse)?;
    let fraction = i128::from(fraction) * i128::from(scale) / 10_i128.pow(part.len() as u32);
    digits(whole)
        .and_then(|whole| whole.checked_mul(scale))
        .and_then(|whole| whole.checked_add(i64::try_from(fraction).ok()?))
        .ok_or_else(|| anyhow!("{given:?} is too large"))
}

/// As [`bytes`], and -1 for no limit.
pub(crate) fn bytes_or_unlimited(given: &str) -> Result<i64> {
    if given == "-1" { Ok(-1) } else { bytes(given) }
}

/// Billionths of a CPU of "1.5".
pub(crate) fn nano_cpus(given: &str) -> Result<i64> {
    let refuse = || anyhow!("{given:?} is not a number of CPUs, as in 1.5");
    let (whole, part) = given.split_once('.').unwrap_or((given, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && part.is_empty() || !all_digits(whole) || !all_digits(part) {
        return Err(refuse());
    }
    if part.trim_end_matches('0').len() > 9 {
        bail!("{given:?} has more than nine decimal places");
    }
    let fraction: i64 = format!("{:0<9.9}", part).parse().map_err(|_| refuse())?;
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| refuse())? };
    whole
        .checked_mul(1_000_000_000)
        .and_then(|whole| whole.checked_add(fraction))
        .ok_or_else(|| anyhow!("{given:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (given, expected) in [
            ("0", 0),
            ("512", 512),
            ("512b", 512),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("512MB", 512 << 20),
            ("1.5g", 3 << 29),
            (".5k", 512),
            ("2GiB", 2 << 30),
            ("1 T", 1 << 40),
        ] {
            assert_eq!(bytes(given).expect(given), expected, "{given}");
        }
        for given in
            ["", "m", ".", "-5", "5x", "5ib", "1..5g", "9999999999999999999", "9999999999g"]
        {
            assert!(bytes(given).is_err(), "{given}");
        }
        assert_eq!(bytes_or_unlimited("-1").expect("unlimited"), -1);
        assert!(bytes_or_unlimited("-2").is_err());
    }

    #[test]
    fn cpus() {
        for (given, expected) in [
            ("1", 1_000_000_000),
            ("1.5", 1_500_000_000),
            (".25", 250_000_000),
            ("0.000000001", 1),
            ("2.", 2_000_000_000),
            ("0.5000000000000", 500_000_000),
        ] {
            assert_eq!(nano_cpus(given).expect(given), expected, "{given}");
        }
        for given in ["", ".", "-1", "one", "1e3", "0.0000000001", "99999999999"] {
            assert!(nano_cpus(given).is_err(), "{given}");
        }
    }
}
