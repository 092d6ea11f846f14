//! `--ulimit name=soft[:hard]`.

use anyhow::{Result, anyhow, bail};
use wharf_client::v1::Rlimit;

/// "nofile=1024:2048", "core=-1" (no limit).
pub(crate) fn ulimit(given: &str) -> Result<Rlimit> {
    let refuse = || anyhow!("{given:?} is not NAME=SOFT[:HARD], as in nofile=1024:2048");
    let (name, limits) = given.split_once('=').ok_or_else(refuse)?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase()) {
        return Err(refuse());
    }
    let limit = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        text => text.parse::<u64>().map_err(|_| refuse()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (limit(soft)?, limit(hard)?);
    if soft > hard {
        bail!("{given:?}: the soft limit is above the hard one");
    }
    Ok(Rlimit { name: name.to_owned(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits() {
        let both = ulimit("nofile=1024:2048").expect("both");
        assert_eq!((both.name.as_str(), both.soft, both.hard), ("nofile", 1024, 2048));
        let one = ulimit("nproc=7").expect("one");
        assert_eq!((one.soft, one.hard), (7, 7));
        assert_eq!(ulimit("core=-1").expect("no limit").hard, u64::MAX);
        assert_eq!(ulimit("core=0:unlimited").expect("no limit").hard, u64::MAX);
        for given in
            ["", "nofile", "=1", "nofile=", "nofile=a", "nofile=2:1", "NOFILE=1", "nofile=-2"]
        {
            assert!(ulimit(given).is_err(), "{given}");
        }
    }
}
