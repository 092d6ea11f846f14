//! Resources to the files of cgroup v2.

use crate::spec::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources};

use super::cgroup_v1::{Write, pids_value};
use crate::error::Error;

fn put(list: &mut Vec<Write>, field: &'static str, file: &str, value: impl ToString) {
    let controller = file.split('.').next().unwrap_or(file).to_owned();
    list.push(Write { controller, file: file.to_owned(), value: value.to_string(), field });
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
        block_writes(block, &mut list);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.max", limit.page_size());
        put(&mut list, "hugepageLimits", &file, limit.limit());
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

fn memory_writes(memory: &LinuxMemory, list: &mut Vec<Write>) -> Result<(), Error> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    // The spec's swap counts memory too; v2 limits swap alone.
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        let value = match (swap, limit) {
            (-1, _) => "max".to_owned(),
            (_, Some(limit)) if limit > 0 && swap >= limit => (swap - limit).to_string(),
            (_, Some(limit)) if limit > 0 => {
                return Err(refuse("memory.swap", "is memory and swap, so not below memory.limit"));
            }
            _ => return Err(refuse("memory.swap", "needs memory.limit")),
        };
        put(list, "memory.swap", "memory.swap.max", value);
    }
    if let Some(limit) = limit {
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
    if let Some(idle) = cpu.idle() {
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

/// Shares go from 2 to 262144, weights from 1 to 10000, in proportion.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn block_writes(block: &LinuxBlockIo, list: &mut Vec<Write>) {
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        // 10 to 1000 in the spec, 1 to 10000 in the kernel.
        let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990;
        put(list, "blockIO.weight", "io.weight", weight);
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
        assert_eq!(list[0], ("cpu.weight".to_owned(), "39".to_owned()));
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
