//! Resources to the files of cgroup v1.

use crate::spec::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
};

/// One value for one file of the container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) controller: String,
    pub(crate) file: String,
    pub(crate) value: String,
    /// Whose value this is: the field's path below `linux.resources`.
    pub(crate) field: &'static str,
    /// What to write instead where the kernel has no such file.
    pub(crate) instead: Option<(String, String)>,
    /// Nothing is lost where the kernel has no such file.
    pub(crate) optional: bool,
}

impl Write {
    pub(crate) fn or(mut self, file: &str, value: impl ToString) -> Self {
        self.instead = Some((file.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn new(
        field: &'static str,
        controller: &str,
        file: &str,
        value: impl ToString,
    ) -> Self {
        Self {
            controller: controller.to_owned(),
            file: file.to_owned(),
            value: value.to_string(),
            field,
            instead: None,
            optional: false,
        }
    }
}

fn put(
    list: &mut Vec<Write>,
    field: &'static str,
    controller: &str,
    file: &str,
    value: impl ToString,
) {
    list.push(Write::new(field, controller, file, value));
}

/// Everything that `resources` asks for, in the order in which it must be written to a new cgroup.
/// Devices are apart (see [`super::devices`]).
pub(crate) fn writes(resources: &LinuxResources) -> Vec<Write> {
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_writes(memory, &mut list);
    }
    if let Some(cpu) = resources.cpu() {
        cpu_writes(cpu, &mut list);
    }
    if let Some(pids) = resources.pids() {
        put(&mut list, "pids.limit", "pids", "pids.max", pids_value(pids));
    }
    if let Some(block) = resources.block_io() {
        block_writes(block, &mut list);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        put(&mut list, "hugepageLimits", "hugetlb", &file, limit.limit());
        let file = format!("hugetlb.{}.rsvd.limit_in_bytes", limit.page_size());
        let write = Write::new("hugepageLimits", "hugetlb", &file, limit.limit());
        list.push(Write { optional: true, ..write });
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            put(&mut list, "network.classID", "net_cls", "net_cls.classid", class);
        }
        for item in network.priorities().iter().flatten() {
            let value = format!("{} {}", item.name(), item.priority());
            put(&mut list, "network.priorities", "net_prio", "net_prio.ifpriomap", value);
        }
    }
    for (device, limit) in resources.rdma().iter().flatten() {
        put(&mut list, "rdma", "rdma", "rdma.max", super::cgroup_v2::rdma_value(device, limit));
    }
    list
}

/// "max" for no limit; no task at all is none that could run, so that means one, as for systemd.
pub(crate) fn pids_value(pids: &LinuxPids) -> String {
    match pids.limit() {
        limit if limit < 0 => "max".to_owned(),
        limit => limit.max(1).to_string(),
    }
}

/// Memory and swap together. Without a limit of memory there can be none of both.
pub(crate) fn swap(memory: &LinuxMemory) -> Option<i64> {
    match memory.swap().filter(|swap| *swap != 0) {
        None if memory.limit() == Some(-1) => Some(-1),
        swap => swap,
    }
}

fn memory_writes(memory: &LinuxMemory, list: &mut Vec<Write>) {
    const C: &str = "memory";
    if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
        put(list, "memory.limit", C, "memory.limit_in_bytes", limit);
    }
    // After the limit: it may not be below it.
    if let Some(swap) = swap(memory) {
        put(list, "memory.swap", C, "memory.memsw.limit_in_bytes", swap);
    }
    if let Some(soft) = memory.reservation().filter(|soft| *soft != 0) {
        put(list, "memory.reservation", C, "memory.soft_limit_in_bytes", soft);
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|tcp| *tcp != 0) {
        put(list, "memory.kernelTCP", C, "memory.kmem.tcp.limit_in_bytes", tcp);
    }
    if let Some(swappiness) = memory.swappiness() {
        put(list, "memory.swappiness", C, "memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer() == Some(true) {
        put(list, "memory.disableOOMKiller", C, "memory.oom_control", 1);
    }
}

fn cpu_writes(cpu: &LinuxCpu, list: &mut Vec<Write>) {
    const C: &str = "cpu";
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        put(list, "cpu.shares", C, "cpu.shares", shares);
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        put(list, "cpu.period", C, "cpu.cfs_period_us", period);
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        put(list, "cpu.quota", C, "cpu.cfs_quota_us", quota);
    }
    if let Some(burst) = cpu.burst() {
        put(list, "cpu.burst", C, "cpu.cfs_burst_us", burst);
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        put(list, "cpu.realtimePeriod", C, "cpu.rt_period_us", period);
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        put(list, "cpu.realtimeRuntime", C, "cpu.rt_runtime_us", runtime);
    }
    if let Some(idle) = cpu.idle() {
        put(list, "cpu.idle", C, "cpu.idle", idle);
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        put(list, "cpu.cpus", "cpuset", "cpuset.cpus", cpus);
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        put(list, "cpu.mems", "cpuset", "cpuset.mems", mems);
    }
}

fn block_writes(block: &LinuxBlockIo, list: &mut Vec<Write>) {
    const C: &str = "blkio";
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        let write = Write::new("blockIO.weight", C, "blkio.bfq.weight", weight);
        list.push(write.or("blkio.weight", weight));
    }
    if let Some(weight) = block.leaf_weight().filter(|weight| *weight != 0) {
        put(list, "blockIO.leafWeight", C, "blkio.leaf_weight", weight);
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            let field = "blockIO.weightDevice";
            let write = Write::new(field, C, "blkio.bfq.weight_device", value.as_str());
            list.push(write.or("blkio.weight_device", value));
        }
    }
    let mut throttle = |field, file: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            put(list, field, C, file, value);
        }
    };
    throttle(
        "blockIO.throttleReadBpsDevice",
        "blkio.throttle.read_bps_device",
        block.throttle_read_bps_device(),
    );
    throttle(
        "blockIO.throttleWriteBpsDevice",
        "blkio.throttle.write_bps_device",
        block.throttle_write_bps_device(),
    );
    throttle(
        "blockIO.throttleReadIOPSDevice",
        "blkio.throttle.read_iops_device",
        block.throttle_read_iops_device(),
    );
    throttle(
        "blockIO.throttleWriteIOPSDevice",
        "blkio.throttle.write_iops_device",
        block.throttle_write_iops_device(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_before_swap_and_no_limit_as_max() {
        let json = r#"{"memory":{"limit":1048576,"swap":2097152},"pids":{"limit":0},
            "cpu":{"quota":50000,"period":100000,"cpus":"0"}}"#;
        let resources: LinuxResources = serde_json::from_str(json).expect("json");
        let list = writes(&resources);
        let files: Vec<_> = list.iter().map(|w| (w.file.as_str(), w.value.as_str())).collect();
        assert_eq!(
            files,
            [
                ("memory.limit_in_bytes", "1048576"),
                ("memory.memsw.limit_in_bytes", "2097152"),
                ("cpu.cfs_period_us", "100000"),
                ("cpu.cfs_quota_us", "50000"),
                ("cpuset.cpus", "0"),
                ("pids.max", "1"),
            ]
        );
    }
}
