//! Memory of processes, as /proc tells it.

use anyhow::{Context as _, Result};

/// Resident set of a process, in KiB.
///
/// # Errors
/// When the process is gone.
pub fn rss_kib(pid: i32) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Proportional set of a process, in KiB: pages that are shared count by their share.
///
/// # Errors
/// When the process is gone.
pub fn pss_kib(pid: i32) -> Result<u64> {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn field(path: &str, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().trim_end_matches(" kB").parse().ok())
        .with_context(|| format!("no {key} in {path}"))
}

/// Pids whose command line begins with `program` and holds `word`.
#[must_use]
pub fn pids_of(program: &str, word: &str) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let first = line.split(' ').next().unwrap_or_default();
            first.rsplit('/').next().is_some_and(|name| name.starts_with(program))
                && line.contains(word)
        })
        .collect()
}
