//! Pauses between tries.

use std::time::Duration;

const TRIES: u32 = 5;
const FIRST: Duration = Duration::from_millis(200);

/// Counts tries and doubles the pause after each.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    paused: u32,
}

impl Backoff {
    /// Waits, unless there have been enough tries: then it answers false at once.
    pub(super) async fn pause(&mut self) -> bool {
        if self.paused + 1 == TRIES {
            return false;
        }
        tokio::time::sleep(FIRST * 2u32.pow(self.paused)).await;
        self.paused += 1;
        true
    }
}
