//! Restart policies: whether a container that has ended is started again, and when. Pure: no clock,
//! no store; its driver asks at each end and when a supervisor takes it up.
//!
//! ```text
//! ended ── by a user's stop or kill, or the policy says no ──▶ stays down
//!   └───── otherwise ──▶ waits (100 ms, twice as long each time, a minute at most) ──▶ starts
//! ```

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// The first pause between an end and the start after it, as Docker has it.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest.
const LAST_DELAY: Duration = Duration::from_secs(60);
/// Who ran so long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(10);

/// What happens when a container has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Nothing.
    #[default]
    No,
    /// Started again when it has failed.
    OnFailure {
        /// At most so often; 0: always.
        max: u32,
    },
    /// Started again; at boot even if a user had stopped it.
    Always,
    /// Started again until a user stops it.
    UnlessStopped,
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    /// "no", "on-failure", "on-failure:3", "always", "unless-stopped"; "": no.
    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(text.into());
        match text.split_once(':') {
            Some(("on-failure", max)) => {
                let digits = !max.is_empty() && max.bytes().all(|b| b.is_ascii_digit());
                let max = max.parse().ok().filter(|_| digits).ok_or_else(unknown)?;
                Ok(Self::OnFailure { max })
            }
            Some(_) => Err(unknown()),
            None => match text {
                "" | "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure { max: 0 }),
                "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                _ => Err(unknown()),
            },
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { max: 0 } => f.write_str("on-failure"),
            Self::OnFailure { max } => write!(f, "on-failure:{max}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// A text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no restart policy: no, on-failure[:n], always or unless-stopped is needed")]
pub struct UnknownPolicy(pub String);

/// What is kept of a container's restarts, in its record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restarts {
    /// By the policy, since a user started it.
    pub count: u32,
    /// The pause before the latest of them.
    pub delay_ms: u64,
    /// The next is waited for.
    pub waiting: bool,
    /// A user wants it down, since this boot of the host.
    pub down_since_boot: Option<String>,
    /// When it was started: time since the boot.
    pub started_uptime_ms: u64,
}

impl Restarts {
    /// A user wants it down.
    pub fn put_down(&mut self, boot_id: &str) {
        self.waiting = false;
        self.down_since_boot = Some(boot_id.into());
    }

    /// A user starts it.
    pub fn begin(&mut self) {
        *self = Self::default();
    }

    /// It has ended after it ran for `ran`. Gives the pause until it is started again, if it is.
    pub fn ended(&mut self, policy: Policy, exit_code: i32, ran: Duration) -> Option<Duration> {
        self.waiting = false;
        if ran >= STEADY {
            self.delay_ms = 0;
        }
        let again = self.down_since_boot.is_none()
            && match policy {
                Policy::No => false,
                Policy::Always | Policy::UnlessStopped => true,
                Policy::OnFailure { max } => exit_code != 0 && (max == 0 || self.count < max),
            };
        if !again {
            return None;
        }
        let before = Duration::from_millis(self.delay_ms);
        let delay = (before * 2).clamp(FIRST_DELAY, LAST_DELAY);
        self.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.count = self.count.saturating_add(1);
        self.waiting = true;
        Some(delay)
    }

    /// All containers are ended: the next supervisor starts it, unless a user wanted it down.
    pub fn suspend(&mut self, policy: Policy) {
        self.waiting = policy != Policy::No && self.down_since_boot.is_none();
        self.delay_ms = 0;
    }

    /// A supervisor takes it up and it does not run; its last start was in the boot `ran_in` (empty:
    /// not known). Gives the pause until it is started, if it is.
    pub fn taken_up(&mut self, policy: Policy, ran_in: &str, boot_id: &str) -> Option<Duration> {
        if self.waiting {
            // Its back-off is served again from its beginning.
            return Some(Duration::from_millis(self.delay_ms));
        }
        let other_boot = !ran_in.is_empty() && ran_in != boot_id;
        let start = match (policy, &self.down_since_boot) {
            (Policy::Always, Some(down)) => down != boot_id,
            (Policy::Always | Policy::UnlessStopped, None) => other_boot,
            (Policy::No | Policy::OnFailure { .. } | Policy::UnlessStopped, _) => false,
        };
        if !start {
            return None;
        }
        self.begin();
        self.waiting = true;
        Some(Duration::ZERO)
    }

    /// Its policy is another now.
    pub fn policy_changed(&mut self, policy: Policy) {
        let spent = |max: u32| max != 0 && self.count > max;
        match policy {
            Policy::No => self.waiting = false,
            Policy::OnFailure { max } if spent(max) => self.waiting = false,
            Policy::OnFailure { .. } | Policy::Always | Policy::UnlessStopped => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Policy, Restarts};

    const SHORT: Duration = Duration::from_millis(5);
    const POLICIES: [Policy; 5] = [
        Policy::No,
        Policy::OnFailure { max: 0 },
        Policy::OnFailure { max: 2 },
        Policy::Always,
        Policy::UnlessStopped,
    ];

    #[test]
    fn policies_as_text() {
        for (text, policy, shown) in [
            ("", Policy::No, "no"),
            ("no", Policy::No, "no"),
            ("on-failure", Policy::OnFailure { max: 0 }, "on-failure"),
            ("on-failure:0", Policy::OnFailure { max: 0 }, "on-failure"),
            ("on-failure:3", Policy::OnFailure { max: 3 }, "on-failure:3"),
            ("always", Policy::Always, "always"),
            ("unless-stopped", Policy::UnlessStopped, "unless-stopped"),
        ] {
            assert_eq!(text.parse(), Ok(policy), "{text}");
            assert_eq!(policy.to_string(), shown);
        }
        for bad in [
            "never",
            "always:3",
            "on-failure:",
            "on-failure:-1",
            "on-failure:+1",
            "No",
            "on-failure:99999999999",
            "no:0",
            "on-failure:1:2",
        ] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }

    /// Every policy, by exit code, restarts so far and whether a user wants it down.
    #[test]
    fn whether_it_starts_again() {
        let table = [
            // (exit code, count, down), one column a policy
            ((0, 0, false), [false, false, false, true, true]),
            ((1, 0, false), [false, true, true, true, true]),
            ((137, 1, false), [false, true, true, true, true]),
            ((1, 2, false), [false, true, false, true, true]),
            ((1, 9, false), [false, true, false, true, true]),
            ((0, 0, true), [false; 5]),
            ((1, 0, true), [false; 5]),
            ((143, 1, true), [false; 5]),
        ];
        for ((code, count, down), row) in table {
            for (policy, expected) in POLICIES.into_iter().zip(row) {
                let mut restarts = Restarts { count, ..Restarts::default() };
                if down {
                    restarts.put_down("boot");
                }
                let again = restarts.ended(policy, code, SHORT);
                let what = format!("{policy}: exit {code}, restart {count}, down: {down}");
                assert_eq!(again.is_some(), expected, "{what}");
                assert_eq!(restarts.waiting, expected, "{what}");
                assert_eq!(restarts.count, count + u32::from(expected), "{what}");
            }
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_again_after_ten_seconds() {
        let mut restarts = Restarts::default();
        let mut pause = |ran| {
            let delay = restarts.ended(Policy::Always, 1, ran).expect("always");
            u64::try_from(delay.as_millis()).expect("short")
        };
        let expected =
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000];
        for expected in expected {
            assert_eq!(pause(SHORT), expected);
        }
        assert_eq!(pause(Duration::from_millis(9_999)), 60_000);
        assert_eq!(pause(Duration::from_secs(10)), 100);
        assert_eq!(pause(SHORT), 200);
    }

    /// What a supervisor does with one that does not run, by policy, whether a user wants it down
    /// (since which boot), and where it ran last.
    #[test]
    fn what_is_taken_up() {
        let table = [
            // (down since, ran in), one column a policy
            ((None, "now"), [false; 5]),
            ((None, ""), [false; 5]),
            ((None, "before"), [false, false, false, true, true]),
            ((Some("now"), "now"), [false; 5]),
            ((Some("now"), "before"), [false; 5]),
            ((Some("before"), "before"), [false, false, false, true, false]),
            ((Some("before"), ""), [false, false, false, true, false]),
        ];
        for ((down, ran_in), row) in table {
            for (policy, expected) in POLICIES.into_iter().zip(row) {
                let mut restarts = Restarts {
                    down_since_boot: down.map(str::to_owned),
                    count: 1,
                    ..Restarts::default()
                };
                let starts = restarts.taken_up(policy, ran_in, "now");
                let what = format!("{policy}: down since {down:?}, ran in {ran_in:?}");
                assert_eq!(starts, expected.then_some(Duration::ZERO), "{what}");
                assert_eq!(restarts.waiting, expected, "{what}");
            }
        }
    }

    #[test]
    fn a_back_off_goes_on_in_another_life() {
        let mut restarts = Restarts::default();
        for _ in 0..3 {
            restarts.ended(Policy::Always, 1, SHORT);
        }
        let kept = serde_json::to_string(&restarts).expect("json");
        let mut restarts: Restarts = serde_json::from_str(&kept).expect("json");
        let left = restarts.taken_up(Policy::Always, "now", "now");
        assert_eq!(left, Some(Duration::from_millis(400)));
        assert_eq!(restarts.count, 3);
        assert_eq!(restarts.ended(Policy::Always, 1, SHORT), Some(Duration::from_millis(800)));
    }

    #[test]
    fn what_was_suspended_is_started_by_the_next_supervisor() {
        for policy in POLICIES {
            let mut restarts = Restarts { delay_ms: 800, ..Restarts::default() };
            restarts.suspend(policy);
            let expected = (policy != Policy::No).then_some(Duration::ZERO);
            for boot in ["now", "next"] {
                assert_eq!(restarts.clone().taken_up(policy, "now", boot), expected, "{policy}");
            }
            restarts.put_down("now");
            restarts.suspend(policy);
            assert_eq!(restarts.taken_up(policy, "now", "now"), None, "{policy}");
        }
    }

    #[test]
    fn a_user_ends_the_waiting() {
        let mut restarts = Restarts::default();
        restarts.ended(Policy::Always, 1, SHORT);
        restarts.put_down("now");
        assert_eq!(restarts.taken_up(Policy::Always, "now", "now"), None);
        restarts.begin();
        restarts.ended(Policy::Always, 1, SHORT);
        restarts.policy_changed(Policy::UnlessStopped);
        assert!(restarts.waiting);
        restarts.policy_changed(Policy::No);
        assert!(!restarts.waiting);
        restarts.count = 3;
        restarts.waiting = true;
        restarts.policy_changed(Policy::OnFailure { max: 3 });
        assert!(restarts.waiting);
        restarts.policy_changed(Policy::OnFailure { max: 2 });
        assert!(!restarts.waiting);
    }
}
