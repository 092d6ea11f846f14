//! Figures of a cgroup as containerd's messages.

use prost::Message as _;
use prost_types::Any;
use wharf_proto::containerd::cgroups::{v1, v2};

use crate::sys::cgroup::{Cgroup, Version};

/// Answer of `Stats`.
pub(crate) fn metrics(cgroup: &Cgroup) -> Any {
    match cgroup.version() {
        Version::V1 => Any {
            type_url: "io.containerd.cgroups.v1.Metrics".to_owned(),
            value: version_1(cgroup).encode_to_vec(),
        },
        Version::V2 => Any {
            type_url: "io.containerd.cgroups.v2.Metrics".to_owned(),
            value: version_2(cgroup).encode_to_vec(),
        },
    }
}

fn version_1(cgroup: &Cgroup) -> v1::Metrics {
    let number = |controller, file| cgroup.number(controller, file).unwrap_or(0);
    let throttled = cgroup.table("cpu", "cpu.stat");
    let of = |name: &str| throttled.get(name).copied().unwrap_or(0);
    let oom = cgroup.table("memory", "memory.oom_control");
    let out_of_memory = |name: &str| oom.get(name).copied().unwrap_or(0);
    v1::Metrics {
        pids: Some(v1::PidsStat {
            current: number("pids", "pids.current"),
            limit: number("pids", "pids.max"),
        }),
        cpu: Some(v1::CpuStat {
            usage: Some(v1::CpuUsage {
                total: number("cpuacct", "cpuacct.usage"),
                kernel: number("cpuacct", "cpuacct.usage_sys"),
                user: number("cpuacct", "cpuacct.usage_user"),
                per_cpu: Vec::new(),
            }),
            throttling: Some(v1::Throttle {
                periods: of("nr_periods"),
                throttled_periods: of("nr_throttled"),
                throttled_time: of("throttled_time"),
            }),
        }),
        memory: Some(memory_1(cgroup)),
        blkio: Some(v1::BlkIoStat { io_service_bytes_recursive: block_io_1(cgroup) }),
        memory_oom_control: Some(v1::MemoryOomControl {
            oom_kill_disable: out_of_memory("oom_kill_disable"),
            under_oom: out_of_memory("under_oom"),
            oom_kill: out_of_memory("oom_kill"),
        }),
    }
}

/// Lines of "MAJOR:MINOR OPERATION BYTES"; a total without a device at the end.
fn block_io_1(cgroup: &Cgroup) -> Vec<v1::BlkIoEntry> {
    let text = cgroup.text("blkio", "blkio.throttle.io_service_bytes_recursive");
    let text = text.or_else(|| cgroup.text("blkio", "blkio.throttle.io_service_bytes"));
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        Some(v1::BlkIoEntry { op, device: String::new(), major, minor, value })
    };
    text.unwrap_or_default().lines().filter_map(entry).collect()
}

/// Lines of "MAJOR:MINOR rbytes=… wbytes=… rios=… wios=… …".
fn block_io_2(cgroup: &Cgroup) -> Vec<v2::IoEntry> {
    let text = cgroup.text("", "io.stat").unwrap_or_default();
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let mut entry = v2::IoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..Default::default()
        };
        for (name, value) in rest.split_whitespace().filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match name {
                "rbytes" => entry.rbytes = value,
                "wbytes" => entry.wbytes = value,
                "rios" => entry.rios = value,
                "wios" => entry.wios = value,
                _ => {}
            }
        }
        Some(entry)
    };
    text.lines().filter_map(entry).collect()
}

fn memory_1(cgroup: &Cgroup) -> v1::MemoryStat {
    let stat = cgroup.table("memory", "memory.stat");
    let of = |name: &str| stat.get(name).copied().unwrap_or(0);
    let entry = |prefix: &str| {
        let number = |name: &str| {
            cgroup.number("memory", &format!("memory.{prefix}{name}_in_bytes")).unwrap_or(0)
        };
        Some(v1::MemoryEntry {
            limit: number("limit"),
            usage: number("usage"),
            max: number("max_usage"),
            failcnt: cgroup.number("memory", &format!("memory.{prefix}failcnt")).unwrap_or(0),
        })
    };
    v1::MemoryStat {
        cache: of("cache"),
        rss: of("rss"),
        rss_huge: of("rss_huge"),
        mapped_file: of("mapped_file"),
        dirty: of("dirty"),
        writeback: of("writeback"),
        pg_pg_in: of("pgpgin"),
        pg_pg_out: of("pgpgout"),
        pg_fault: of("pgfault"),
        pg_maj_fault: of("pgmajfault"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        hierarchical_memory_limit: of("hierarchical_memory_limit"),
        hierarchical_swap_limit: of("hierarchical_memsw_limit"),
        total_cache: of("total_cache"),
        total_rss: of("total_rss"),
        total_inactive_file: of("total_inactive_file"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
    }
}

fn version_2(cgroup: &Cgroup) -> v2::Metrics {
    let number = |file| cgroup.number("", file).unwrap_or(0);
    let cpu = cgroup.table("", "cpu.stat");
    let cpu = |name: &str| cpu.get(name).copied().unwrap_or(0);
    let events = cgroup.table("", "memory.events");
    let event = |name: &str| events.get(name).copied().unwrap_or(0);
    v2::Metrics {
        pids: Some(v2::PidsStat { current: number("pids.current"), limit: number("pids.max") }),
        cpu: Some(v2::CpuStat {
            usage_usec: cpu("usage_usec"),
            user_usec: cpu("user_usec"),
            system_usec: cpu("system_usec"),
            nr_periods: cpu("nr_periods"),
            nr_throttled: cpu("nr_throttled"),
            throttled_usec: cpu("throttled_usec"),
        }),
        memory: Some(memory_2(cgroup)),
        io: Some(v2::IoStat { usage: block_io_2(cgroup) }),
        memory_events: Some(v2::MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
        }),
    }
}

fn memory_2(cgroup: &Cgroup) -> v2::MemoryStat {
    let stat = cgroup.table("", "memory.stat");
    let of = |name: &str| stat.get(name).copied().unwrap_or(0);
    let number = |file| cgroup.number("", file);
    v2::MemoryStat {
        anon: of("anon"),
        file: of("file"),
        kernel_stack: of("kernel_stack"),
        slab: of("slab"),
        sock: of("sock"),
        shmem: of("shmem"),
        file_mapped: of("file_mapped"),
        file_dirty: of("file_dirty"),
        file_writeback: of("file_writeback"),
        inactive_anon: of("inactive_anon"),
        active_anon: of("active_anon"),
        inactive_file: of("inactive_file"),
        active_file: of("active_file"),
        unevictable: of("unevictable"),
        pgfault: of("pgfault"),
        pgmajfault: of("pgmajfault"),
        usage: number("memory.current").unwrap_or(0),
        // No limit is the largest number, as with containerd's own shim.
        usage_limit: number("memory.max").unwrap_or(u64::MAX),
        swap_usage: number("memory.swap.current").unwrap_or(0),
        swap_limit: number("memory.swap.max").unwrap_or(u64::MAX),
        max_usage: number("memory.peak").unwrap_or(0),
    }
}
