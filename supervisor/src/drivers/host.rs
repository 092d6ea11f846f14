//! The host's own size.

use std::fs;

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
