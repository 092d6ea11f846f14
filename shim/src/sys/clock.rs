//! The two clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the epoch; what is written down.
pub(crate) fn unix_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// For deadlines.
pub(crate) fn now() -> Instant {
    Instant::now()
}
