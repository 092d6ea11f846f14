//! Health checks: what is asked of a container now and then, and what its answers make of it. Pure:
//! no clock, no process; `driver/health` keeps and tells it, `probe` asks.
//!
//! ```text
//! start ─▶ Starting ── answers 0 ──────────────────────────▶ Healthy
//!             │                                              │   ▲
//!             └─ fails `retries` times in a row, once ───────┴▶ Unhealthy ── answers 0 ─┘
//!                the start period is over
//! ```
//! As Docker has it, down to the numbers.

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

/// Between the end of a probe and the next.
const INTERVAL: Duration = Duration::from_secs(30);
/// The same while a container starts.
const START_INTERVAL: Duration = Duration::from_secs(5);
/// What a probe may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Failures in a row that make a container unhealthy.
const RETRIES: u32 = 3;
/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
pub const MAX_OUTPUT: usize = 4096;
/// The shortest time that can be asked for.
const SHORTEST: Duration = Duration::from_millis(1);
/// Words of a probe's command, in bytes.
const MAX_TEST: usize = 16 << 10;

/// How a container's health is checked. Zero: not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `["CMD", program, …]`, `["CMD-SHELL", text]` or `["NONE"]`.
    pub test: Vec<String>,
    /// What runs the text of CMD-SHELL; empty: `/bin/sh -c`.
    pub shell: Vec<String>,
    /// Between probes.
    pub interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Failures in a row.
    pub retries: u32,
    /// Since the start: failures do not count.
    pub start_period: Duration,
    /// Between probes while it starts.
    pub start_interval: Duration,
}

/// A health check that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct BadHealthCheck {
    /// Of the message: "test", "interval", …
    pub field: &'static str,
    /// What is wrong.
    pub problem: String,
}

impl HealthCheck {
    /// Whether it can be done as it says.
    ///
    /// # Errors
    /// Naming the field that can't.
    pub fn check(&self) -> Result<(), BadHealthCheck> {
        let bad = |field, problem: &str| Err(BadHealthCheck { field, problem: problem.into() });
        match self.test.split_first() {
            None => {}
            Some((kind, rest)) => match (kind.as_str(), rest) {
                ("NONE", []) => {}
                ("NONE", _) => return bad("test", "NONE stands alone"),
                ("CMD", [program, ..]) if !program.is_empty() => {}
                ("CMD", _) => return bad("test", "CMD needs a program"),
                ("CMD-SHELL", [text]) if !text.is_empty() => {}
                ("CMD-SHELL", _) => return bad("test", "CMD-SHELL needs one text"),
                _ => {
                    return bad("test", "its first word is CMD, CMD-SHELL or NONE");
                }
            },
        }
        if self.test.iter().any(|word| word.contains('\0')) {
            return bad("test", "a word can't contain a zero byte");
        }
        if self.test.iter().map(String::len).sum::<usize>() > MAX_TEST {
            return bad("test", "it has at most 16384 bytes");
        }
        for (field, time) in [
            ("interval", self.interval),
            ("timeout", self.timeout),
            ("start_period", self.start_period),
            ("start_interval", self.start_interval),
        ] {
            if !time.is_zero() && time < SHORTEST {
                return bad(field, "at least 1 ms is needed");
            }
        }
        Ok(())
    }

    /// This one, and what it does not say as the image says it. `None`: there is nothing to do.
    #[must_use]
    pub fn over(mut self, image: Option<&Self>) -> Option<Self> {
        if let Some(image) = image.filter(|_| !self.is_none()) {
            let or = |own: Duration, other: Duration| if own.is_zero() { other } else { own };
            if self.test.is_empty() {
                self.test.clone_from(&image.test);
            }
            if self.shell.is_empty() {
                self.shell.clone_from(&image.shell);
            }
            self.interval = or(self.interval, image.interval);
            self.timeout = or(self.timeout, image.timeout);
            self.start_period = or(self.start_period, image.start_period);
            self.start_interval = or(self.start_interval, image.start_interval);
            if self.retries == 0 {
                self.retries = image.retries;
            }
        }
        // Kept when it says NONE, so that it is shown as it was asked.
        (!self.test.is_empty()).then_some(self)
    }

    fn is_none(&self) -> bool {
        self.test.first().is_some_and(|kind| kind == "NONE")
    }

    /// What is executed; `None`: nothing is.
    #[must_use]
    pub fn command(&self) -> Option<Vec<String>> {
        let (kind, rest) = self.test.split_first()?;
        match kind.as_str() {
            "CMD" => Some(rest.to_vec()),
            "CMD-SHELL" => {
                let mut words = match self.shell.is_empty() {
                    true => vec!["/bin/sh".to_owned(), "-c".to_owned()],
                    false => self.shell.clone(),
                };
                words.extend_from_slice(rest);
                Some(words)
            }
            _ => None,
        }
    }

    /// What a probe may take.
    #[must_use]
    pub fn time_limit(&self) -> Duration {
        if self.timeout.is_zero() { TIMEOUT } else { self.timeout }
    }

    /// Between the end of a probe and the next, of a container that runs for `running`.
    #[must_use]
    pub fn pause(&self, status: Status, running: Duration) -> Duration {
        if status == Status::Starting && running < self.start_period {
            return match self.start_interval.is_zero() {
                true => START_INTERVAL,
                false => self.start_interval,
            };
        }
        if self.interval.is_zero() { INTERVAL } else { self.interval }
    }

    fn most_failures(&self) -> u32 {
        if self.retries == 0 { RETRIES } else { self.retries }
    }
}

/// An image's health check, of its config as it came. One that makes no sense is none.
#[must_use]
pub fn of_image(config_json: &str) -> Option<HealthCheck> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Check {
        test: Option<Vec<String>>,
        interval: i64,
        timeout: i64,
        retries: i64,
        start_period: i64,
        start_interval: i64,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Config {
        healthcheck: Option<Check>,
        shell: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(default)]
        config: Option<Config>,
    }
    let config = serde_json::from_str::<Image>(config_json).ok()?.config?;
    let (shell, check) = (config.shell.unwrap_or_default(), config.healthcheck);
    let time = |ns: i64| Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
    let check = check.unwrap_or_default();
    let found = HealthCheck {
        test: check.test.unwrap_or_default(),
        shell,
        interval: time(check.interval),
        timeout: time(check.timeout),
        retries: u32::try_from(check.retries).unwrap_or(0),
        start_period: time(check.start_period),
        start_interval: time(check.start_interval),
    };
    match found.check() {
        Ok(()) => Some(found),
        Err(_) => Some(HealthCheck { test: Vec::new(), ..found }),
    }
}

/// How a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Not known yet.
    #[default]
    Starting,
    /// The last probe succeeded, or too few have failed since.
    Healthy,
    /// Too many have failed in a row, or it does not run.
    Unhealthy,
}

impl Status {
    /// As Docker says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What a probe came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Nanoseconds since the epoch.
    pub started_unix_ns: i64,
    /// Nanoseconds since the epoch.
    pub ended_unix_ns: i64,
    /// -1: it had none.
    pub exit_code: i32,
    /// The beginning of what it wrote.
    pub output: String,
}

/// What is known of a container's health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Of this start of the container.
    pub number: u64,
    /// How it is.
    pub status: Status,
    /// In a row, up to now.
    pub failing_streak: u32,
    /// The newest, oldest first.
    pub log: VecDeque<Probed>,
    /// When the last probe ended: time since the host's boot.
    pub probed_uptime: Option<Duration>,
}

impl Health {
    /// Of a container that has just been started.
    #[must_use]
    pub fn begin(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    /// A probe has ended; it began when the container had run for `ran`. Whether the status is
    /// another now.
    pub fn probed(&mut self, check: &HealthCheck, ran: Duration, probed: Probed) -> bool {
        let before = self.status;
        if probed.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Status::Healthy;
        } else if self.status != Status::Starting || ran >= check.start_period {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.most_failures() {
                self.status = Status::Unhealthy;
            }
        }
        while self.log.len() >= KEPT {
            self.log.pop_front();
        }
        self.log.push_back(probed);
        self.status != before
    }

    /// The container has ended. What does not run is not healthy.
    pub fn ended(&mut self) {
        self.status = Status::Unhealthy;
    }

    /// How long the next probe is still away at `now`, both since the host's boot.
    #[must_use]
    pub fn due_in(&self, check: &HealthCheck, started: Duration, now: Duration) -> Duration {
        let last = self.probed_uptime.unwrap_or(started);
        let pause = check.pause(self.status, now.saturating_sub(started));
        (last + pause).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests;
