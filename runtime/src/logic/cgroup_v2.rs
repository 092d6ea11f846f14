//! Resources to the files of cgroup v2.

use crate::spec::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources};

use super::cgroup_v1::{Write, pids_value, swap};
use crate::error::Error;

fn put(list: &mut Vec<Write>, field: &'static str, file: &str, value: impl ToString) {
    let controller = file.split('.').next().unwrap_or(file).to_owned();
    list.push(Write::new(field, &controller, file, value));
}

/// Everything that `resources` asks for, in the order in which it must be written.
pub(crate) fn writes(resources: &LinuxResources) -> Result<Vec<Write>, Error> {
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_writes(memory, &mut list)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_writes(cpu, &mut list)?;
    }
    if let Some(pids) = resources.pids() {
        put(&mut list, "pids.limit", "pids.max", pids_value(pids));
    }
    if let Some(block) = resources.block_io() {
        block_writes(block, &mut list)?;
    }
    if resources.network().as_ref().is_some_and(|network| {
        network.class_id().is_some()
            || network.priorities().as_ref().is_some_and(|all| !all.is_empty())
    }) {
        let what = "linux.resources.network: cgroup v2 has no net_cls and net_prio".to_owned();
        return Err(Error::Unsupported { what });
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", limit.page_size());
        put(&mut list, "hugepageLimits", &file, limit.limit());
        let file = format!("hugetlb.{}.rsvd.max", limit.page_size());
        let write = Write::new("hugepageLimits", "hugetlb", &file, limit.limit());
        list.push(Write { optional: true, ..write });
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        put(&mut list, "rdma", "rdma.max", rdma_value(device, limit));
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') {
            return Err(Error::Spec {
                field: format!("linux.resources.unified[{file:?}]"),
                reason: "not a file of a cgroup".to_owned(),
            });
        }
        for line in value.lines() {
            put(&mut list, "unified", file, line);
        }
    }
    Ok(list)
}

/// A line of `rdma.max`.
pub(crate) fn rdma_value(device: &str, limit: &LinuxRdma) -> String {
    let number = |n: Option<u32>| n.map_or_else(|| "max".to_owned(), |n| n.to_string());
    format!(
        "{device} hca_handle={} hca_object={}",
        number(limit.hca_handles()),
        number(limit.hca_objects())
    )
}

fn max_or(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn refuse(field: &str, reason: &str) -> Error {
    Error::Spec { field: format!("linux.resources.{field}"), reason: reason.to_owned() }
}

/// The limit of swap alone: the spec's counts memory too.
pub(crate) fn swap_alone(memory: &LinuxMemory) -> Result<Option<i64>, Error> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    Ok(match (swap(memory), limit) {
        (None, _) => None,
        (Some(swap), _) if swap < 0 => Some(-1),
        (Some(swap), Some(limit)) if limit > 0 && swap >= limit => Some(swap - limit),
        (Some(_), Some(limit)) if limit > 0 => {
            return Err(refuse("memory.swap", "is memory and swap, so not below memory.limit"));
        }
        (Some(_), _) => return Err(refuse("memory.swap", "needs memory.limit")),
    })
}

fn memory_writes(memory: &LinuxMemory, list: &mut Vec<Write>) -> Result<(), Error> {
    if memory.swappiness().is_some() {
        let what = "linux.resources.memory.swappiness: cgroup v2 has none".to_owned();
        return Err(Error::Unsupported { what });
    }
    if memory.disable_oom_killer() == Some(true) {
        let what = "linux.resources.memory.disableOOMKiller: cgroup v2 can't".to_owned();
        return Err(Error::Unsupported { what });
    }
    if let Some(swap) = swap_alone(memory)? {
        put(list, "memory.swap", "memory.swap.max", max_or(swap));
        if swap == 0
            && let Some(write) = list.last_mut()
        {
            // Without swap there is none to forbid.
            write.optional = true;
        }
    }
    if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
        put(list, "memory.limit", "memory.max", max_or(limit));
    }
    if let Some(low) = memory.reservation().filter(|low| *low != 0) {
        put(list, "memory.reservation", "memory.low", max_or(low));
    }
    Ok(())
}

fn cpu_writes(cpu: &LinuxCpu, list: &mut Vec<Write>) -> Result<(), Error> {
    if cpu.realtime_period().is_some_and(|p| p != 0)
        || cpu.realtime_runtime().is_some_and(|r| r != 0)
    {
        return Err(Error::Unsupported {
            what: "linux.resources.cpu.realtimeRuntime: cgroup v2 has no real-time limits"
                .to_owned(),
        });
    }
    // One that is idle has no weight to change: out of it first, into it last.
    let idle = cpu.idle();
    if let Some(no) = idle.filter(|idle| *idle == 0) {
        put(list, "cpu.idle", "cpu.idle", no);
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        put(list, "cpu.shares", "cpu.weight", weight_of_shares(shares));
    }
    if let Some(burst) = cpu.burst() {
        put(list, "cpu.burst", "cpu.max.burst", burst);
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { 100_000 } else { period };
        put(list, "cpu.quota", "cpu.max", format!("{quota} {period}"));
    }
    if let Some(idle) = idle.filter(|idle| *idle != 0) {
        put(list, "cpu.idle", "cpu.idle", idle);
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        put(list, "cpu.cpus", "cpuset.cpus", cpus);
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        put(list, "cpu.mems", "cpuset.mems", mems);
    }
    Ok(())
}

/// Shares go from 2 to 262144, weights from 1 to 10000; a curve on which the two defaults, 1024 and
/// 100, meet, and which runc and crun have agreed on.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        3..262_144 => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent) + 0.99) as u64
        }
        _ => 10_000,
    }
}

/// 10 to 1000 in the spec, 1 to 10000 in the kernel.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990
}

fn block_writes(block: &LinuxBlockIo, list: &mut Vec<Write>) -> Result<(), Error> {
    if block.leaf_weight().is_some_and(|weight| weight != 0)
        || block.weight_device().iter().flatten().any(|device| device.leaf_weight().is_some())
    {
        let what = "linux.resources.blockIO.leafWeight: cgroup v2 has none".to_owned();
        return Err(Error::Unsupported { what });
    }
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        // BFQ's own, where it is the scheduler, counts as the spec does.
        let write = Write::new("blockIO.weight", "io", "io.bfq.weight", weight);
        list.push(write.or("io.weight", io_weight(weight)));
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let name = format!("{}:{}", device.major(), device.minor());
            let value = format!("{name} {weight}");
            let write = Write::new("blockIO.weightDevice", "io", "io.bfq.weight", value);
            list.push(write.or("io.weight", format!("{name} {}", io_weight(weight))));
        }
    }
    let groups = [
        ("blockIO.throttleReadBpsDevice", "rbps", block.throttle_read_bps_device()),
        ("blockIO.throttleWriteBpsDevice", "wbps", block.throttle_write_bps_device()),
        ("blockIO.throttleReadIOPSDevice", "riops", block.throttle_read_iops_device()),
        ("blockIO.throttleWriteIOPSDevice", "wiops", block.throttle_write_iops_device()),
    ];
    for (field, key, devices) in groups {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            put(list, field, "io.max", value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Vec<(String, String)>, Error> {
        let resources: LinuxResources = serde_json::from_str(json).expect("json");
        Ok(writes(&resources)?.into_iter().map(|w| (w.file, w.value)).collect())
    }

    #[test]
    fn swap_is_counted_apart() {
        let list = of(r#"{"memory":{"limit":100,"swap":150}}"#).expect("fits");
        assert_eq!(list[0], ("memory.swap.max".to_owned(), "50".to_owned()));
        assert_eq!(list[1], ("memory.max".to_owned(), "100".to_owned()));
        assert!(of(r#"{"memory":{"limit":100,"swap":50}}"#).is_err());
        assert!(of(r#"{"memory":{"swap":50}}"#).is_err());
    }

    #[test]
    fn cpu_in_one_file() {
        let list = of(r#"{"cpu":{"quota":50000,"shares":1024}}"#).expect("fits");
        assert_eq!(list[0], ("cpu.weight".to_owned(), "100".to_owned()));
        assert_eq!(list[1], ("cpu.max".to_owned(), "50000 100000".to_owned()));
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(262_144), 10_000);
    }

    #[test]
    fn unified_names_are_files_only() {
        assert!(of(r#"{"unified":{"../x.y":"1"}}"#).is_err());
        assert_eq!(of(r#"{"unified":{"memory.high":"7"}}"#).expect("fits")[0].0, "memory.high");
    }
}
