//! Pauses between tries.

use std::time::Duration;

use super::Error;

const TRIES: u32 = 5;
const FIRST: Duration = Duration::from_millis(200);
/// Who is told to come back later than this gives up.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts tries and doubles the pause after each.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    paused: u32,
}

impl Backoff {
    /// Waits, if `error` may pass and there have not been enough tries: if not, it answers false at
    /// once. A registry that says how long is taken at its word, within bounds.
    pub(super) async fn pause(&mut self, error: &Error) -> bool {
        if !error.is_passing() || self.paused + 1 == TRIES {
            return false;
        }
        let asked = error.retry_after().unwrap_or_default();
        if asked > LONGEST {
            return false;
        }
        tokio::time::sleep(asked.max(FIRST * 2u32.pow(self.paused))).await;
        self.paused += 1;
        true
    }
}
