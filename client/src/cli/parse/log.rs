//! `--log-driver` and `--log-opt`.

use anyhow::{Context as _, Result, bail};
use wharf_client::v1::LogConfig;

use super::size;

/// What is asked; `None`: nothing is.
pub(crate) fn log(driver: Option<&str>, options: &[String]) -> Result<Option<LogConfig>> {
    if driver.is_none() && options.is_empty() {
        return Ok(None);
    }
    let mut log =
        LogConfig { driver: driver.unwrap_or_default().to_owned(), ..LogConfig::default() };
    for option in options {
        set(&mut log, option).with_context(|| format!("--log-opt {option:?}"))?;
    }
    Ok(Some(log))
}

fn set(log: &mut LogConfig, option: &str) -> Result<()> {
    let (name, value) = option.split_once('=').context("it is not NAME=VALUE")?;
    match name {
        // Docker's word for no limit.
        "max-size" if value == "-1" => log.max_size_bytes = Some(0),
        "max-size" => {
            let bytes = u64::try_from(size::bytes(value)?).context("it is negative")?;
            log.max_size_bytes = Some(bytes);
        }
        "max-file" => log.max_files = Some(value.parse().context("it is no number")?),
        "mode" => match value {
            "blocking" => log.drop_when_full = false,
            "non-blocking" => log.drop_when_full = true,
            _ => bail!("blocking or non-blocking is needed"),
        },
        _ => bail!("it is not known: max-size, max-file and mode are"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::log;

    #[test]
    fn options() {
        let all = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(log(None, &[]).expect("fine"), None);
        let given = all(&["max-size=10m", "max-file=3", "mode=non-blocking"]);
        let got = log(Some("json-file"), &given).expect("fine").expect("something");
        assert_eq!(got.driver, "json-file");
        assert_eq!((got.max_size_bytes, got.max_files), (Some(10 << 20), Some(3)));
        assert!(got.drop_when_full);
        let none = log(None, &all(&["max-size=-1"])).expect("fine").expect("something");
        assert_eq!(none.max_size_bytes, Some(0));
        for bad in ["max-size", "max-size=x", "max-file=x", "mode=fast", "labels=a"] {
            assert!(log(None, &all(&[bad])).is_err(), "{bad}");
        }
    }
}
