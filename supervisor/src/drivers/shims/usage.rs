//! What a container uses, out of the two forms in which shims tell it. Pure.

use prost::Message as _;
use prost_types::Any;
use wharf_proto::containerd::cgroups::{v1, v2};

/// Figures of a container's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start.
    pub cpu_ns: u64,
    /// Time it was kept from running by its limit.
    pub throttled_ns: u64,
    /// Without what the kernel could drop from its cache at once.
    pub memory_bytes: u64,
    /// `None`: no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Read from block devices.
    pub block_read_bytes: u64,
    /// Written to them.
    pub block_written_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// 0: none.
    pub pids_limit: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
}

impl Usage {
    /// `None`: the form is not known, or the bytes are not of it.
    pub(super) fn of(stats: &Any) -> Option<Self> {
        let bytes = stats.value.as_slice();
        match stats.type_url.rsplit('/').next()? {
            "io.containerd.cgroups.v1.Metrics" => v1::Metrics::decode(bytes).ok().map(of_v1),
            "io.containerd.cgroups.v2.Metrics" => v2::Metrics::decode(bytes).ok().map(of_v2),
            _ => None,
        }
    }
}

/// No limit is told as the largest number of pages or bytes.
fn limit(bytes: u64) -> Option<u64> {
    (bytes > 0 && bytes < i64::MAX as u64 - 4096).then_some(bytes)
}

fn of_v1(metrics: v1::Metrics) -> Usage {
    let cpu = metrics.cpu.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let pids = metrics.pids.unwrap_or_default();
    let usage = memory.usage.unwrap_or_default();
    let entries = metrics.blkio.unwrap_or_default().io_service_bytes_recursive;
    let moved = |operation: &str| {
        let of_it = entries.iter().filter(|e| e.op.eq_ignore_ascii_case(operation));
        of_it.map(|entry| entry.value).sum()
    };
    Usage {
        cpu_ns: cpu.usage.unwrap_or_default().total,
        throttled_ns: cpu.throttling.unwrap_or_default().throttled_time,
        memory_bytes: usage.usage.saturating_sub(memory.total_inactive_file),
        memory_limit_bytes: limit(usage.limit),
        block_read_bytes: moved("read"),
        block_written_bytes: moved("write"),
        pids: pids.current,
        pids_limit: pids.limit,
        oom_kills: metrics.memory_oom_control.unwrap_or_default().oom_kill,
    }
}

fn of_v2(metrics: v2::Metrics) -> Usage {
    let cpu = metrics.cpu.unwrap_or_default();
    let memory = metrics.memory.unwrap_or_default();
    let pids = metrics.pids.unwrap_or_default();
    let entries = metrics.io.unwrap_or_default().usage;
    Usage {
        cpu_ns: cpu.usage_usec.saturating_mul(1000),
        throttled_ns: cpu.throttled_usec.saturating_mul(1000),
        memory_bytes: memory.usage.saturating_sub(memory.inactive_file),
        memory_limit_bytes: limit(memory.usage_limit),
        block_read_bytes: entries.iter().map(|entry| entry.rbytes).sum(),
        block_written_bytes: entries.iter().map(|entry| entry.wbytes).sum(),
        pids: pids.current,
        pids_limit: pids.limit,
        oom_kills: metrics.memory_events.unwrap_or_default().oom_kill,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::Any;
    use wharf_proto::containerd::cgroups::{v1, v2};

    use super::Usage;

    #[test]
    fn both_forms_say_the_same() {
        let old = v1::Metrics {
            cpu: Some(v1::CpuStat {
                usage: Some(v1::CpuUsage { total: 5000, ..Default::default() }),
                ..Default::default()
            }),
            memory: Some(v1::MemoryStat {
                usage: Some(v1::MemoryEntry {
                    usage: 100,
                    limit: 9_223_372_036_854_771_712,
                    ..Default::default()
                }),
                total_inactive_file: 30,
                ..Default::default()
            }),
            blkio: Some(v1::BlkIoStat {
                io_service_bytes_recursive: vec![
                    v1::BlkIoEntry { op: "Read".into(), value: 7, ..Default::default() },
                    v1::BlkIoEntry { op: "write".into(), value: 8, ..Default::default() },
                    v1::BlkIoEntry { op: "Total".into(), value: 15, ..Default::default() },
                ],
            }),
            ..Default::default()
        };
        let new = v2::Metrics {
            cpu: Some(v2::CpuStat { usage_usec: 5, ..Default::default() }),
            memory: Some(v2::MemoryStat {
                usage: 100,
                inactive_file: 30,
                usage_limit: u64::MAX,
                ..Default::default()
            }),
            io: Some(v2::IoStat {
                usage: vec![v2::IoEntry { rbytes: 7, wbytes: 8, ..Default::default() }],
            }),
            ..Default::default()
        };
        let any = |version: &str, value| Any {
            type_url: format!("io.containerd.cgroups.{version}.Metrics"),
            value,
        };
        let old = Usage::of(&any("v1", old.encode_to_vec())).expect("known");
        let new = Usage::of(&any("v2", new.encode_to_vec())).expect("known");
        assert_eq!(old, new);
        assert_eq!((old.cpu_ns, old.memory_bytes, old.memory_limit_bytes), (5000, 70, None));
        assert_eq!((old.block_read_bytes, old.block_written_bytes), (7, 8));
        assert_eq!(Usage::of(&any("v3", Vec::new())), None);
    }
}
