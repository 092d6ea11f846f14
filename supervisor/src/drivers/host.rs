//! The host's own size.

use std::{fs, time::Duration};

/// What there is for all containers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// That this program may use.
    pub cpus: u32,
    /// 0: not known.
    pub memory_bytes: u64,
}

impl Host {
    /// As it is now.
    #[must_use]
    pub fn read() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = kib.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Self {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory_bytes: kib.unwrap_or(0).saturating_mul(1024),
        }
    }
}

/// Time since the host's boot, in hundredths of a second: goes on whatever happens to this program
/// and to the clock on the wall.
#[must_use]
pub fn uptime() -> Duration {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or_default()
}
