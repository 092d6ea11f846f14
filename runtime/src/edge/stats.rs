//! The figures of a container's cgroup, in the form that runc's `events` prints.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::flow::cgroup::Cgroup;

/// What `data` of a `stats` event holds.
pub(crate) fn figures(cgroup: &Cgroup) -> Value {
    if cgroup.is_v2() { v2(cgroup) } else { v1(cgroup) }
}

fn number(dir: &Path, file: &str) -> u64 {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    match text.trim() {
        // As runc has it: no limit is the largest number.
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// The same, but for a limit of pids, where runc has 0 for none.
fn pids_limit(dir: &Path) -> u64 {
    match number(dir, "pids.max") {
        u64::MAX => 0,
        limit => limit,
    }
}

fn table(dir: &Path, file: &str) -> Map<String, Value> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, text)| Some((key.to_owned(), json!(text.trim().parse::<u64>().ok()?))))
        .collect()
}

fn field(table: &Map<String, Value>, key: &str) -> u64 {
    table.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// The sizes of huge pages that this host has, as the cgroup's files are named.
fn page_sizes() -> Vec<String> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten();
    let mut all: Vec<u64> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok())
        .collect();
    all.sort_unstable();
    all.iter()
        .map(|kib| match kib {
            kib if kib % (1 << 20) == 0 => format!("{}GB", kib >> 20),
            kib if kib % (1 << 10) == 0 => format!("{}MB", kib >> 10),
            kib => format!("{kib}KB"),
        })
        .collect()
}

/// `0-2,7` as numbers.
fn ranges(text: &str) -> Vec<u16> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
        })
        .flatten()
        .collect()
}

fn cpuset(dir: &Path, own: bool) -> Value {
    let text = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (cpus, mems) = match own {
        true => (text("cpuset.cpus"), text("cpuset.mems")),
        false => (text("cpuset.cpus.effective"), text("cpuset.mems.effective")),
    };
    json!({
        "cpus": ranges(&cpus),
        "cpu_exclusive": number(dir, "cpuset.cpu_exclusive"),
        "mems": ranges(&mems),
        "mem_hardwall": number(dir, "cpuset.mem_hardwall"),
        "mem_exclusive": number(dir, "cpuset.mem_exclusive"),
        "memory_migrate": number(dir, "cpuset.memory_migrate"),
        "memory_spread_page": number(dir, "cpuset.memory_spread_page"),
        "memory_spread_slab": number(dir, "cpuset.memory_spread_slab"),
        "memory_pressure": number(dir, "cpuset.memory_pressure"),
        "sched_load_balance": number(dir, "cpuset.sched_load_balance"),
        "sched_relax_domain_level": text("cpuset.sched_relax_domain_level").trim().parse::<i64>().unwrap_or(0),
    })
}

fn v1(cgroup: &Cgroup) -> Value {
    let dir = |controller: &str| -> PathBuf {
        cgroup.with(controller).map(|dir| dir.path.clone()).unwrap_or_default()
    };
    let (cpu, memory, pids) = (dir("cpuacct"), dir("memory"), dir("pids"));
    let (times, throttle) = (table(&cpu, "cpuacct.stat"), table(&dir("cpu"), "cpu.stat"));
    let raw = table(&memory, "memory.stat");
    let part = |name: &str| {
        json!({
            "limit": number(&memory, &format!("memory.{name}limit_in_bytes")),
            "usage": number(&memory, &format!("memory.{name}usage_in_bytes")),
            "max": number(&memory, &format!("memory.{name}max_usage_in_bytes")),
            "failcnt": number(&memory, &format!("memory.{name}failcnt")),
        })
    };
    let each_cpu = fs::read_to_string(cpu.join("cpuacct.usage_percpu")).unwrap_or_default();
    let each_cpu: Vec<u64> =
        each_cpu.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let all = fs::read_to_string(cpu.join("cpuacct.usage_all")).unwrap_or_default();
    let column = |at: usize| -> Vec<u64> {
        let lines = all.lines().skip(1);
        lines.filter_map(|line| line.split_whitespace().nth(at)?.parse().ok()).collect()
    };
    let huge_dir = dir("hugetlb");
    let huge = |size: &String| {
        let file = |name: &str| number(&huge_dir, &format!("hugetlb.{size}.{name}"));
        let value = json!({"usage": file("usage_in_bytes"), "max": file("max_usage_in_bytes"), "failcnt": file("failcnt")});
        (size.clone(), value)
    };
    json!({
        "cpu": {
            "usage": {
                "total": number(&cpu, "cpuacct.usage"),
                "percpu": each_cpu,
                "percpu_kernel": column(2),
                "percpu_user": column(1),
                // Hundredths of a second.
                "kernel": field(&times, "system") * 10_000_000,
                "user": field(&times, "user") * 10_000_000,
            },
            "throttling": {
                "periods": field(&throttle, "nr_periods"),
                "throttledPeriods": field(&throttle, "nr_throttled"),
                "throttledTime": field(&throttle, "throttled_time"),
            },
        },
        "cpuset": cpuset(&dir("cpuset"), true),
        "memory": {
            "cache": field(&raw, "cache"),
            "usage": part(""),
            "swap": part("memsw."),
            "kernel": part("kmem."),
            "kernelTCP": part("kmem.tcp."),
            "raw": raw,
        },
        "pids": {"current": number(&pids, "pids.current"), "limit": pids_limit(&pids)},
        "blkio": blkio_v1(&dir("blkio")),
        "hugetlb": page_sizes().iter().map(huge).collect::<Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// Lines of `8:0 Read 123`.
fn entries(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = match (words.next()?, words.next()) {
                (op, Some(value)) => (op, value),
                (value, None) => ("", value),
            };
            Some(json!({"major": major.parse::<u64>().ok()?, "minor": minor.parse::<u64>().ok()?,
                "op": op, "value": value.parse::<u64>().ok()?}))
        })
        .collect()
}

fn blkio_v1(dir: &Path) -> Value {
    // By the scheduler's own count, or by the throttle's where it keeps none.
    let read = |names: &[&str]| {
        let texts = names.iter().map(|name| fs::read_to_string(dir.join(name)).unwrap_or_default());
        texts.map(|text| entries(&text)).find(|list| !list.is_empty()).unwrap_or_default()
    };
    json!({
        "ioServiceBytesRecursive": read(&["blkio.bfq.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"]),
        "ioServicedRecursive": read(&["blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced"]),
        "ioQueueRecursive": read(&["blkio.bfq.io_queued_recursive"]),
        "ioServiceTimeRecursive": read(&["blkio.bfq.io_service_time_recursive"]),
        "ioWaitTimeRecursive": read(&["blkio.bfq.io_wait_time_recursive"]),
        "ioMergedRecursive": read(&["blkio.bfq.io_merged_recursive"]),
        "ioTimeRecursive": read(&["blkio.bfq.time_recursive"]),
        "sectorsRecursive": read(&["blkio.bfq.sectors_recursive"]),
    })
}

fn v2(cgroup: &Cgroup) -> Value {
    let dir = cgroup.unified().map(|dir| dir.path.clone()).unwrap_or_default();
    let (cpu, raw) = (table(&dir, "cpu.stat"), table(&dir, "memory.stat"));
    let huge = |size: &String| {
        let first = |names: [String; 2]| names.into_iter().find(|name| dir.join(name).exists());
        let current =
            first([format!("hugetlb.{size}.rsvd.current"), format!("hugetlb.{size}.current")])?;
        let value = json!({"usage": number(&dir, &current), "failcnt": field(&table(&dir, &format!("hugetlb.{size}.events")), "max")});
        Some((size.clone(), value))
    };
    json!({
        "cpu": {
            "usage": {
                "total": field(&cpu, "usage_usec") * 1000,
                "kernel": field(&cpu, "system_usec") * 1000,
                "user": field(&cpu, "user_usec") * 1000,
            },
            "throttling": {
                "periods": field(&cpu, "nr_periods"),
                "throttledPeriods": field(&cpu, "nr_throttled"),
                "throttledTime": field(&cpu, "throttled_usec") * 1000,
            },
            "psi": pressure(&dir, "cpu.pressure"),
        },
        "cpuset": cpuset(&dir, false),
        "memory": {
            "cache": field(&raw, "file"),
            "usage": {
                "limit": number(&dir, "memory.max"),
                "usage": number(&dir, "memory.current"),
                "max": number(&dir, "memory.peak"),
                "failcnt": field(&table(&dir, "memory.events"), "max"),
            },
            "swap": {
                "limit": number(&dir, "memory.swap.max"),
                "usage": number(&dir, "memory.swap.current"),
                "max": number(&dir, "memory.swap.peak"),
                "failcnt": field(&table(&dir, "memory.swap.events"), "fail"),
            },
            "kernel": {"limit": 0, "failcnt": 0},
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": raw,
            "psi": pressure(&dir, "memory.pressure"),
        },
        "pids": {"current": number(&dir, "pids.current"), "limit": pids_limit(&dir)},
        "blkio": blkio_v2(&dir),
        "hugetlb": page_sizes().iter().filter_map(huge).collect::<Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// `io.stat`, as v1 would have it.
fn blkio_v2(dir: &Path) -> Value {
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    let (mut bytes, mut count) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else {
            continue;
        };
        let (Ok(major), Ok(minor)) = (major.parse::<u64>(), minor.parse::<u64>()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "rios" => (&mut count, "Read"),
                "wios" => (&mut count, "Write"),
                _ => continue,
            };
            if let Ok(value) = value.parse::<u64>() {
                list.push(json!({"major": major, "minor": minor, "op": op, "value": value}));
            }
        }
    }
    json!({"ioServiceBytesRecursive": bytes, "ioServicedRecursive": count,
        "psi": pressure(dir, "io.pressure")})
}

/// How long tasks waited for want of something; nothing where the kernel does not count it.
fn pressure(dir: &Path, file: &str) -> Value {
    let Ok(text) = fs::read_to_string(dir.join(file)) else { return Value::Null };
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(' ')?;
        let pairs = rest.split_whitespace().filter_map(|word| word.split_once('='));
        let values = pairs.filter_map(|(key, text)| {
            let value = match key {
                "total" => json!(text.parse::<u64>().ok()?),
                _ => json!(text.parse::<f64>().ok()?),
            };
            Some((key.to_owned(), value))
        });
        Some((name.to_owned(), Value::Object(values.collect())))
    });
    Value::Object(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(ranges("0-2,7\n"), [0, 1, 2, 7]);
        assert!(ranges("\n").is_empty());
    }

    #[test]
    fn lines_of_the_block_layer() {
        let list = entries("8:0 Read 12\n8:0 Total 12\nTotal 12\n8:16 7\n");
        assert_eq!(list.len(), 3);
        assert_eq!(list[0], json!({"major": 8, "minor": 0, "op": "Read", "value": 12}));
        assert_eq!(list[2]["op"], "");
    }
}
