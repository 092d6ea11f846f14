//! When to try again. Pure: the caller has the clock.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);

/// Growing pauses up to a limit of the whole.
#[derive(Debug)]
pub(crate) struct Backoff {
    limit: Duration,
    broken_at: Option<Instant>,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, broken_at: None, pause: FIRST }
    }

    /// All is well again.
    pub(crate) fn reset(&mut self) {
        self.broken_at = None;
        self.pause = FIRST;
    }

    /// The pause before the next attempt; none when it has taken too long.
    pub(crate) fn after_failure(&mut self, now: Instant) -> Option<Duration> {
        let broken_at = *self.broken_at.get_or_insert(now);
        if now.duration_since(broken_at) >= self.limit {
            return None;
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_ends() {
        let start = Instant::now();
        let mut backoff = Backoff::new(Duration::from_secs(1));
        assert_eq!(backoff.after_failure(start), Some(FIRST));
        assert_eq!(backoff.after_failure(start), Some(FIRST * 2));
        for _ in 0..20 {
            assert!(backoff.after_failure(start).is_some_and(|pause| pause <= LONGEST));
        }
        assert_eq!(backoff.after_failure(start + Duration::from_secs(1)), None);
        backoff.reset();
        assert_eq!(backoff.after_failure(start + Duration::from_secs(9)), Some(FIRST));
    }
}
