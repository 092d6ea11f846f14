//! Health checks: their flags, and how they are shown.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};
use wharf_client::v1::{Health, HealthCheck};

use crate::cli::{human, parse::time};

/// Flags of `run` and `create`.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthArgs {
    /// Shell command that tells whether the container works
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    health_cmd: Option<String>,
    /// Between checks: 30s
    #[arg(long, value_name = "DURATION", help_heading = "Health")]
    health_interval: Option<String>,
    /// What a check may take: 30s
    #[arg(long, value_name = "DURATION", help_heading = "Health")]
    health_timeout: Option<String>,
    /// Failures in a row that make it unhealthy: 3
    #[arg(long, value_name = "NUMBER", help_heading = "Health")]
    health_retries: Option<u32>,
    /// Time it has to start, while failures do not count: 0s
    #[arg(long, value_name = "DURATION", help_heading = "Health")]
    health_start_period: Option<String>,
    /// Between checks while it starts: 5s
    #[arg(long, value_name = "DURATION", help_heading = "Health")]
    health_start_interval: Option<String>,
    /// No health check, not even the image's
    #[arg(
        long,
        help_heading = "Health",
        conflicts_with_all = ["health_cmd", "health_interval", "health_timeout", "health_retries",
                              "health_start_period", "health_start_interval"]
    )]
    no_healthcheck: bool,
}

impl HealthArgs {
    /// None if nothing is said.
    pub(crate) fn check(&self) -> Result<Option<HealthCheck>> {
        if self.no_healthcheck {
            let test = vec!["NONE".to_owned()];
            return Ok(Some(HealthCheck { test, ..HealthCheck::default() }));
        }
        let time = |given: &Option<String>, flag: &'static str| -> Result<_> {
            let parsed = given.as_deref().map(time::duration).transpose().context(flag)?;
            // Zero is what nobody says.
            Ok(parsed.filter(|d| !d.is_zero()).and_then(|d| d.try_into().ok()))
        };
        let test = self.health_cmd.iter().filter(|text| !text.is_empty());
        let check = HealthCheck {
            test: test.flat_map(|text| ["CMD-SHELL".to_owned(), text.clone()]).collect(),
            interval: time(&self.health_interval, "--health-interval")?,
            timeout: time(&self.health_timeout, "--health-timeout")?,
            retries: self.health_retries.unwrap_or(0),
            start_period: time(&self.health_start_period, "--health-start-period")?,
            start_interval: time(&self.health_start_interval, "--health-start-interval")?,
        };
        Ok(Some(check).filter(|check| *check != HealthCheck::default()))
    }
}

/// As `ps` puts it after "Up 3 minutes".
pub(crate) fn suffix(health: Option<&Health>) -> String {
    match health.map(|health| health.status.as_str()) {
        None => String::new(),
        Some("starting") => " (health: starting)".to_owned(),
        Some(status) => format!(" ({status})"),
    }
}

/// As `docker inspect` shows State.Health.
pub(crate) fn state(health: &Health) -> Value {
    let time = |at: Option<prost_types::Timestamp>| {
        human::timestamp(at).map_or_else(String::new, |at: Timestamp| human::instant(at))
    };
    let log: Vec<Value> = health
        .log
        .iter()
        .map(|probe| {
            json!({
                "Start": time(probe.started_at),
                "End": time(probe.ended_at),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })
        })
        .collect();
    json!({"Status": health.status, "FailingStreak": health.failing_streak, "Log": log})
}

/// As `docker inspect` shows Config.Healthcheck: times in nanoseconds, what is not said left out.
pub(crate) fn config(check: &HealthCheck) -> Value {
    let mut shown = serde_json::Map::new();
    shown.insert("Test".to_owned(), json!(check.test));
    for (name, time) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if let Some(time) = time {
            let ns = time.seconds.saturating_mul(1_000_000_000).saturating_add(time.nanos.into());
            shown.insert(name.to_owned(), json!(ns));
        }
    }
    if check.retries != 0 {
        shown.insert("Retries".to_owned(), json!(check.retries));
    }
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Flags {
        #[command(flatten)]
        health: HealthArgs,
    }

    fn check(flags: &[&str]) -> Result<Option<HealthCheck>> {
        Flags::try_parse_from([&["x"], flags].concat())?.health.check()
    }

    #[test]
    fn flags_make_a_check() {
        assert_eq!(check(&[]).expect("nothing"), None);
        let none = check(&["--no-healthcheck"]).expect("none").expect("a check");
        assert_eq!(none.test, ["NONE"]);
        assert!(check(&["--no-healthcheck", "--health-cmd", "x"]).is_err());
        assert!(check(&["--health-interval", "soon"]).is_err());
        let all = check(&[
            "--health-cmd",
            "curl -f x",
            "--health-interval",
            "1m30s",
            "--health-retries",
            "2",
            "--health-timeout",
            "0s",
        ]);
        let all = all.expect("good").expect("a check");
        let expected = json!({
            "Test": ["CMD-SHELL", "curl -f x"], "Interval": 90_000_000_000_i64, "Retries": 2,
        });
        assert_eq!(config(&all), expected);
    }

    #[test]
    fn as_docker_shows_it() {
        assert_eq!(suffix(None), "");
        for (status, shown) in [
            ("starting", " (health: starting)"),
            ("healthy", " (healthy)"),
            ("unhealthy", " (unhealthy)"),
        ] {
            let health = Health { status: status.to_owned(), ..Health::default() };
            assert_eq!(suffix(Some(&health)), shown);
            assert_eq!(state(&health)["Status"], status);
        }
    }
}
