//! The objects of a spec.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::json::Json;
use super::read::{At, Fields, Read};
use super::words::{
    Arch, Capability, IOPriorityClass, LinuxDeviceType, LinuxNamespaceType, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, LinuxSeccompAction, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, MemoryPolicyFlagType, MemoryPolicyModeType, PosixRlimitType,
};
use crate::error::Error;

/// Each field says how it is read (`optional`, `required`, or with the type's `default` where it
/// is missing) and, after `copy`, that it is given by value.
macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $how:ident $(($by:ident))? $field:ident
          $(/ $set:ident)?: $kind:ty = $key:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($field: objects!(@type $how $kind),)*
        }

        impl $name {
            $(objects!(@get $how $($by)? $field $kind; $(#[$field_doc])* #[doc = concat!("`", $key, "`.")]);)*
            $($(
                #[doc = concat!("Sets `", $key, "`.")]
                pub fn $set(&mut self, value: objects!(@type $how $kind)) -> &mut Self {
                    self.$field = value;
                    self
                }
            )?)*
        }

        impl Read for $name {
            fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
                let fields = Fields::of(json, at)?;
                Ok(Self { $($field: objects!(@read $how fields at $key),)* })
            }
        }
    )*};
    (@type optional $kind:ty) => { Option<$kind> };
    (@type required $kind:ty) => { $kind };
    (@type default $kind:ty) => { $kind };
    (@read optional $fields:ident $at:ident $key:literal) => { $fields.optional($key, $at)? };
    (@read required $fields:ident $at:ident $key:literal) => { $fields.required($key, $at)? };
    (@read default $fields:ident $at:ident $key:literal) => { $fields.or_default($key, $at)? };
    (@get $how:ident copy $field:ident $kind:ty; $(#[$doc:meta])*) => {
        $(#[$doc])*
        #[must_use]
        pub fn $field(&self) -> objects!(@type $how $kind) {
            self.$field
        }
    };
    (@get $how:ident $field:ident $kind:ty; $(#[$doc:meta])*) => {
        $(#[$doc])*
        #[must_use]
        pub fn $field(&self) -> &objects!(@type $how $kind) {
            &self.$field
        }
    };
}

objects! {
    /// A container, whole.
    Spec {
        required version: String = "ociVersion",
        optional root: Root = "root",
        optional mounts: Vec<Mount> = "mounts",
        optional process: Process = "process",
        optional hostname: String = "hostname",
        optional domainname: String = "domainname",
        optional hooks: Hooks = "hooks",
        optional annotations: HashMap<String, String> = "annotations",
        optional linux: Linux = "linux",
        /// Of another platform.
        optional (copy) windows: Foreign = "windows",
        /// Of another platform.
        optional (copy) solaris: Foreign = "solaris",
        /// Of another platform.
        optional (copy) zos: Foreign = "zos",
        /// Of another platform.
        optional (copy) freebsd: Foreign = "freebsd",
        /// Of runtimes that are virtual machines.
        optional (copy) vm: Foreign = "vm",
    }
    /// The root file system.
    Root {
        required path_buf: PathBuf = "path",
        optional (copy) readonly: bool = "readonly",
    }
    /// One mount.
    Mount {
        required destination: PathBuf = "destination",
        optional typ: String = "type",
        optional source: PathBuf = "source",
        optional options: Vec<String> = "options",
        optional uid_mappings: Vec<LinuxIdMapping> = "uidMappings",
        optional gid_mappings: Vec<LinuxIdMapping> = "gidMappings",
    }
    /// A range of ids.
    #[derive(Copy)]
    LinuxIdMapping {
        required (copy) container_id: u32 = "containerID",
        required (copy) host_id: u32 = "hostID",
        required (copy) size: u32 = "size",
    }
    /// A process to run.
    #[derive(Default)]
    Process {
        optional (copy) terminal / set_terminal: bool = "terminal",
        optional (copy) console_size / set_console_size: Box = "consoleSize",
        default user / set_user: User = "user",
        optional args / set_args: Vec<String> = "args",
        optional env / set_env: Vec<String> = "env",
        default cwd / set_cwd: PathBuf = "cwd",
        optional capabilities / set_capabilities: LinuxCapabilities = "capabilities",
        optional rlimits / set_rlimits: Vec<PosixRlimit> = "rlimits",
        optional (copy) no_new_privileges / set_no_new_privileges: bool = "noNewPrivileges",
        optional apparmor_profile / set_apparmor_profile: String = "apparmorProfile",
        optional (copy) oom_score_adj / set_oom_score_adj: i32 = "oomScoreAdj",
        optional selinux_label / set_selinux_label: String = "selinuxLabel",
        optional (copy) io_priority / set_io_priority: LinuxIOPriority = "ioPriority",
        optional scheduler / set_scheduler: Scheduler = "scheduler",
        optional exec_cpu_affinity / set_exec_cpu_affinity: ExecCPUAffinity = "execCPUAffinity",
    }
    /// A terminal's size in characters.
    #[derive(Copy)]
    Box {
        required (copy) height: u64 = "height",
        required (copy) width: u64 = "width",
    }
    /// Who a process is.
    #[derive(Default)]
    User {
        default (copy) uid / set_uid: u32 = "uid",
        default (copy) gid / set_gid: u32 = "gid",
        optional (copy) umask / set_umask: u32 = "umask",
        optional additional_gids / set_additional_gids: Vec<u32> = "additionalGids",
    }
    /// The five sets.
    #[derive(Default)]
    LinuxCapabilities {
        optional bounding / set_bounding: HashSet<Capability> = "bounding",
        optional effective / set_effective: HashSet<Capability> = "effective",
        optional inheritable / set_inheritable: HashSet<Capability> = "inheritable",
        optional permitted / set_permitted: HashSet<Capability> = "permitted",
        optional ambient / set_ambient: HashSet<Capability> = "ambient",
    }
    /// A limit of a process.
    #[derive(Copy)]
    PosixRlimit {
        required (copy) typ: PosixRlimitType = "type",
        required (copy) hard: u64 = "hard",
        required (copy) soft: u64 = "soft",
    }
    /// A place in the queue for devices.
    #[derive(Copy)]
    LinuxIOPriority {
        required (copy) class: IOPriorityClass = "class",
        default (copy) priority: i64 = "priority",
    }
    /// How a process is scheduled.
    Scheduler {
        required policy: LinuxSchedulerPolicy = "policy",
        optional nice: i32 = "nice",
        optional priority: i32 = "priority",
        optional flags: Vec<LinuxSchedulerFlag> = "flags",
        optional runtime: u64 = "runtime",
        optional deadline: u64 = "deadline",
        optional period: u64 = "period",
    }
    /// Where the processors of an exec are.
    ExecCPUAffinity {
        /// Before it is in the container's cgroup.
        optional initial: String = "initial",
        /// After that.
        optional cpu_affinity_final: String = "final",
    }
    /// Programs at the turns of a container's life.
    #[derive(Default)]
    Hooks {
        optional prestart: Vec<Hook> = "prestart",
        optional create_runtime: Vec<Hook> = "createRuntime",
        optional create_container: Vec<Hook> = "createContainer",
        optional start_container: Vec<Hook> = "startContainer",
        optional poststart: Vec<Hook> = "poststart",
        optional poststop: Vec<Hook> = "poststop",
    }
    /// One such program.
    Hook {
        required path: PathBuf = "path",
        optional args: Vec<String> = "args",
        optional env / set_env: Vec<String> = "env",
        optional (copy) timeout: i64 = "timeout",
    }
    /// Linux's part.
    #[derive(Default)]
    Linux {
        optional uid_mappings: Vec<LinuxIdMapping> = "uidMappings",
        optional gid_mappings: Vec<LinuxIdMapping> = "gidMappings",
        optional sysctl: HashMap<String, String> = "sysctl",
        optional resources: LinuxResources = "resources",
        optional cgroups_path: PathBuf = "cgroupsPath",
        optional namespaces: Vec<LinuxNamespace> = "namespaces",
        optional devices: Vec<LinuxDevice> = "devices",
        optional net_devices: BTreeMap<String, LinuxNetDevice> = "netDevices",
        optional seccomp: LinuxSeccomp = "seccomp",
        optional rootfs_propagation: String = "rootfsPropagation",
        optional masked_paths: Vec<String> = "maskedPaths",
        optional readonly_paths: Vec<String> = "readonlyPaths",
        optional mount_label: String = "mountLabel",
        optional intel_rdt: LinuxIntelRdt = "intelRdt",
        optional memory_policy: LinuxMemoryPolicy = "memoryPolicy",
        optional personality: LinuxPersonality = "personality",
        optional time_offsets: BTreeMap<String, LinuxTimeOffset> = "timeOffsets",
    }
    /// A namespace, new or joined.
    LinuxNamespace {
        required (copy) typ: LinuxNamespaceType = "type",
        optional path: PathBuf = "path",
    }
    /// A device in `/dev`.
    LinuxDevice {
        required path: PathBuf = "path",
        required (copy) typ: LinuxDeviceType = "type",
        default (copy) major: i64 = "major",
        default (copy) minor: i64 = "minor",
        optional (copy) file_mode: u32 = "fileMode",
        optional (copy) uid: u32 = "uid",
        optional (copy) gid: u32 = "gid",
    }
    /// A network device of the host's.
    LinuxNetDevice {
        optional name: String = "name",
    }
    /// Cache and memory bandwidth.
    LinuxIntelRdt {
        optional clos_id: String = "closID",
        optional schemata: Vec<String> = "schemata",
        optional l3_cache_schema: String = "l3CacheSchema",
        optional mem_bw_schema: String = "memBwSchema",
        optional (copy) enable_monitoring: bool = "enableMonitoring",
        /// Replaced by `enableMonitoring` in 1.3.
        optional (copy) enable_cmt: bool = "enableCMT",
        /// Replaced by `enableMonitoring` in 1.3.
        optional (copy) enable_mbm: bool = "enableMBM",
    }
    /// Which memory is taken.
    LinuxMemoryPolicy {
        required (copy) mode: MemoryPolicyModeType = "mode",
        optional nodes: String = "nodes",
        optional flags: Vec<MemoryPolicyFlagType> = "flags",
    }
    /// What the machine seems to be.
    LinuxPersonality {
        required (copy) domain: LinuxPersonalityDomain = "domain",
        optional flags: Vec<String> = "flags",
    }
    /// How far a clock is off.
    #[derive(Copy)]
    LinuxTimeOffset {
        optional (copy) secs: i64 = "secs",
        optional (copy) nanosecs: u32 = "nanosecs",
    }
    /// Which system calls there are.
    LinuxSeccomp {
        required (copy) default_action: LinuxSeccompAction = "defaultAction",
        optional (copy) default_errno_ret: u32 = "defaultErrnoRet",
        optional architectures: Vec<Arch> = "architectures",
        optional flags: Vec<LinuxSeccompFilterFlag> = "flags",
        optional listener_path: PathBuf = "listenerPath",
        optional listener_metadata: String = "listenerMetadata",
        optional syscalls: Vec<LinuxSyscall> = "syscalls",
    }
    /// What becomes of some calls.
    LinuxSyscall {
        required names: Vec<String> = "names",
        required (copy) action: LinuxSeccompAction = "action",
        optional (copy) errno_ret: u32 = "errnoRet",
        optional args: Vec<LinuxSeccompArg> = "args",
    }
    /// A condition on an argument.
    #[derive(Copy)]
    LinuxSeccompArg {
        required (copy) index: usize = "index",
        required (copy) value: u64 = "value",
        optional (copy) value_two: u64 = "valueTwo",
        required (copy) op: LinuxSeccompOperator = "op",
    }
    /// The limits of a container.
    #[derive(Default)]
    LinuxResources {
        optional devices: Vec<LinuxDeviceCgroup> = "devices",
        optional memory / set_memory: LinuxMemory = "memory",
        optional cpu / set_cpu: LinuxCpu = "cpu",
        optional pids: LinuxPids = "pids",
        optional block_io: LinuxBlockIo = "blockIO",
        optional hugepage_limits: Vec<LinuxHugepageLimit> = "hugepageLimits",
        optional network: LinuxNetwork = "network",
        optional rdma: HashMap<String, LinuxRdma> = "rdma",
        optional unified: HashMap<String, String> = "unified",
    }
    /// Who may use a device.
    LinuxDeviceCgroup {
        default (copy) allow: bool = "allow",
        optional (copy) typ: LinuxDeviceType = "type",
        optional (copy) major: i64 = "major",
        optional (copy) minor: i64 = "minor",
        optional access: String = "access",
    }
    /// Limits of memory.
    #[derive(Copy, Default)]
    LinuxMemory {
        optional (copy) limit / set_limit: i64 = "limit",
        optional (copy) reservation: i64 = "reservation",
        optional (copy) swap: i64 = "swap",
        optional (copy) kernel: i64 = "kernel",
        optional (copy) kernel_tcp: i64 = "kernelTCP",
        optional (copy) swappiness: u64 = "swappiness",
        optional (copy) disable_oom_killer: bool = "disableOOMKiller",
        optional (copy) use_hierarchy: bool = "useHierarchy",
        optional (copy) check_before_update: bool = "checkBeforeUpdate",
    }
    /// Limits of processors.
    #[derive(Default)]
    LinuxCpu {
        optional (copy) shares: u64 = "shares",
        optional (copy) quota / set_quota: i64 = "quota",
        optional (copy) burst: u64 = "burst",
        optional (copy) period / set_period: u64 = "period",
        optional (copy) realtime_runtime: i64 = "realtimeRuntime",
        optional (copy) realtime_period: u64 = "realtimePeriod",
        optional cpus: String = "cpus",
        optional mems: String = "mems",
        optional (copy) idle: i64 = "idle",
    }
    /// How many processes.
    #[derive(Copy, Default)]
    LinuxPids {
        default (copy) limit: i64 = "limit",
    }
    /// Limits of disks.
    #[derive(Default)]
    LinuxBlockIo {
        optional (copy) weight: u16 = "weight",
        optional (copy) leaf_weight: u16 = "leafWeight",
        optional weight_device: Vec<LinuxWeightDevice> = "weightDevice",
        optional throttle_read_bps_device: Vec<LinuxThrottleDevice> = "throttleReadBpsDevice",
        optional throttle_write_bps_device: Vec<LinuxThrottleDevice> = "throttleWriteBpsDevice",
        optional throttle_read_iops_device: Vec<LinuxThrottleDevice> = "throttleReadIOPSDevice",
        optional throttle_write_iops_device: Vec<LinuxThrottleDevice> = "throttleWriteIOPSDevice",
    }
    /// A disk's share.
    #[derive(Copy)]
    LinuxWeightDevice {
        required (copy) major: i64 = "major",
        required (copy) minor: i64 = "minor",
        optional (copy) weight: u16 = "weight",
        optional (copy) leaf_weight: u16 = "leafWeight",
    }
    /// A disk's limit.
    #[derive(Copy)]
    LinuxThrottleDevice {
        required (copy) major: i64 = "major",
        required (copy) minor: i64 = "minor",
        default (copy) rate: u64 = "rate",
    }
    /// How much of a page size.
    LinuxHugepageLimit {
        required page_size: String = "pageSize",
        default (copy) limit: i64 = "limit",
    }
    /// How packets are marked.
    LinuxNetwork {
        optional (copy) class_id: u32 = "classID",
        optional priorities: Vec<LinuxInterfacePriority> = "priorities",
    }
    /// An interface's priority.
    LinuxInterfacePriority {
        required name: String = "name",
        required (copy) priority: u32 = "priority",
    }
    /// Limits of a network adapter.
    #[derive(Copy)]
    LinuxRdma {
        optional (copy) hca_handles: u32 = "hcaHandles",
        optional (copy) hca_objects: u32 = "hcaObjects",
    }
}

impl Root {
    /// `path`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path_buf
    }
}

/// A section that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign;

impl Read for Foreign {
    fn read(_: &Json<'_>, _: &At<'_>) -> Result<Self, Error> {
        Ok(Self)
    }
}

impl LinuxIdMapping {
    /// So many ids from one in the container on, which are those from another on outside.
    #[must_use]
    pub fn new(container_id: u32, host_id: u32, size: u32) -> Self {
        Self { container_id, host_id, size }
    }
}
