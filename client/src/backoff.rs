//! When to try again. The decision is pure: the caller has the clock.

use std::time::{Duration, Instant};

use crate::error::Error;

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);
/// A stream that was open for so long was well, even if nothing came.
const WELL: Duration = Duration::from_secs(1);

/// Growing pauses up to a limit of the whole.
#[derive(Debug)]
pub(crate) struct Backoff {
    limit: Duration,
    broken_at: Option<Instant>,
    opened_at: Option<Instant>,
    pause: Duration,
}

impl Backoff {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, broken_at: None, opened_at: None, pause: FIRST }
    }

    /// An attempt has succeeded; what it opened may break again at once.
    pub(crate) fn opened(&mut self, now: Instant) {
        self.opened_at = Some(now);
    }

    /// Whether an attempt has failed since all was well.
    pub(crate) fn has_failed(&self) -> bool {
        self.broken_at.is_some()
    }

    /// All is well again.
    pub(crate) fn reset(&mut self) {
        self.broken_at = None;
        self.pause = FIRST;
    }

    /// The pause before the next attempt; none when it has taken too long.
    pub(crate) fn after_failure(&mut self, now: Instant) -> Option<Duration> {
        if self.opened_at.take().is_some_and(|at| now.duration_since(at) > WELL) {
            self.reset();
        }
        let broken_at = *self.broken_at.get_or_insert(now);
        if now.duration_since(broken_at) >= self.limit {
            return None;
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(LONGEST);
        Some(pause)
    }
}

impl Backoff {
    /// Waits for the next attempt, or gives the error back.
    pub(crate) async fn retry(&mut self, error: Error) -> Result<(), Error> {
        match self.after_failure(Instant::now()).filter(|_| error.is_transient()) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
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
        let mut idle = Backoff::new(Duration::from_secs(1));
        assert!(idle.after_failure(start).is_some());
        idle.opened(start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(idle.after_failure(later), Some(FIRST));
        idle.opened(later);
        assert_eq!(idle.after_failure(later + Duration::from_secs(1)), None);
    }
}
