//! The closed lists of words in a spec.

use std::fmt;

use super::json::Json;
use super::read::{At, Read, word};
use crate::error::Error;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident, $what:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* #[doc = concat!("`", $word, "`")] $variant,)*
        }

        impl $name {
            const WORDS: &[(&str, Self)] = &[$(($word, Self::$variant),)*];

            /// The spec's word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Read for $name {
            fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
                word(json, at, $what, Self::WORDS)
            }
        }
    )*};
}

words! {
    /// A kind of namespace.
    LinuxNamespaceType, "a kind of namespace" {
        Mount = "mount",
        Cgroup = "cgroup",
        Uts = "uts",
        Ipc = "ipc",
        User = "user",
        Pid = "pid",
        Network = "network",
        Time = "time",
    }
    /// A kind of device.
    LinuxDeviceType, "a kind of device" {
        B = "b",
        C = "c",
        U = "u",
        P = "p",
        A = "a",
    }
    /// What a filter does with a call.
    LinuxSeccompAction, "a seccomp action" {
        ScmpActKill = "SCMP_ACT_KILL",
        ScmpActKillThread = "SCMP_ACT_KILL_THREAD",
        ScmpActKillProcess = "SCMP_ACT_KILL_PROCESS",
        ScmpActTrap = "SCMP_ACT_TRAP",
        ScmpActErrno = "SCMP_ACT_ERRNO",
        ScmpActNotify = "SCMP_ACT_NOTIFY",
        ScmpActTrace = "SCMP_ACT_TRACE",
        ScmpActLog = "SCMP_ACT_LOG",
        ScmpActAllow = "SCMP_ACT_ALLOW",
    }
    /// An architecture of system calls.
    Arch, "a seccomp architecture" {
        ScmpArchNative = "SCMP_ARCH_NATIVE",
        ScmpArchX86 = "SCMP_ARCH_X86",
        ScmpArchX86_64 = "SCMP_ARCH_X86_64",
        ScmpArchX32 = "SCMP_ARCH_X32",
        ScmpArchArm = "SCMP_ARCH_ARM",
        ScmpArchAarch64 = "SCMP_ARCH_AARCH64",
        ScmpArchMips = "SCMP_ARCH_MIPS",
        ScmpArchMips64 = "SCMP_ARCH_MIPS64",
        ScmpArchMips64n32 = "SCMP_ARCH_MIPS64N32",
        ScmpArchMipsel = "SCMP_ARCH_MIPSEL",
        ScmpArchMipsel64 = "SCMP_ARCH_MIPSEL64",
        ScmpArchMipsel64n32 = "SCMP_ARCH_MIPSEL64N32",
        ScmpArchPpc = "SCMP_ARCH_PPC",
        ScmpArchPpc64 = "SCMP_ARCH_PPC64",
        ScmpArchPpc64le = "SCMP_ARCH_PPC64LE",
        ScmpArchS390 = "SCMP_ARCH_S390",
        ScmpArchS390x = "SCMP_ARCH_S390X",
        ScmpArchParisc = "SCMP_ARCH_PARISC",
        ScmpArchParisc64 = "SCMP_ARCH_PARISC64",
        ScmpArchRiscv64 = "SCMP_ARCH_RISCV64",
        ScmpArchLoongarch64 = "SCMP_ARCH_LOONGARCH64",
        ScmpArchM68k = "SCMP_ARCH_M68K",
        ScmpArchSh = "SCMP_ARCH_SH",
        ScmpArchSheb = "SCMP_ARCH_SHEB",
    }
    /// How a filter is installed.
    LinuxSeccompFilterFlag, "a seccomp flag" {
        SeccompFilterFlagTsync = "SECCOMP_FILTER_FLAG_TSYNC",
        SeccompFilterFlagLog = "SECCOMP_FILTER_FLAG_LOG",
        SeccompFilterFlagSpecAllow = "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        SeccompFilterFlagWaitKillableRecv = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    }
    /// How an argument is compared.
    LinuxSeccompOperator, "a seccomp operator" {
        ScmpCmpNe = "SCMP_CMP_NE",
        ScmpCmpLt = "SCMP_CMP_LT",
        ScmpCmpLe = "SCMP_CMP_LE",
        ScmpCmpEq = "SCMP_CMP_EQ",
        ScmpCmpGe = "SCMP_CMP_GE",
        ScmpCmpGt = "SCMP_CMP_GT",
        ScmpCmpMaskedEq = "SCMP_CMP_MASKED_EQ",
    }
    /// An execution domain.
    LinuxPersonalityDomain, "an execution domain" {
        PerLinux = "LINUX",
        PerLinux32 = "LINUX32",
    }
    /// Where memory is allocated.
    MemoryPolicyModeType, "a memory policy" {
        MpolDefault = "MPOL_DEFAULT",
        MpolBind = "MPOL_BIND",
        MpolInterleave = "MPOL_INTERLEAVE",
        MpolWeightedInterleave = "MPOL_WEIGHTED_INTERLEAVE",
        MpolPreferred = "MPOL_PREFERRED",
        MpolPreferredMany = "MPOL_PREFERRED_MANY",
        MpolLocal = "MPOL_LOCAL",
    }
    /// How a memory policy is meant.
    MemoryPolicyFlagType, "a flag of a memory policy" {
        MpolFNumaBalancing = "MPOL_F_NUMA_BALANCING",
        MpolFRelativeNodes = "MPOL_F_RELATIVE_NODES",
        MpolFStaticNodes = "MPOL_F_STATIC_NODES",
    }
    /// A resource that has a limit.
    PosixRlimitType, "a resource limit" {
        RlimitCpu = "RLIMIT_CPU",
        RlimitFsize = "RLIMIT_FSIZE",
        RlimitData = "RLIMIT_DATA",
        RlimitStack = "RLIMIT_STACK",
        RlimitCore = "RLIMIT_CORE",
        RlimitRss = "RLIMIT_RSS",
        RlimitNproc = "RLIMIT_NPROC",
        RlimitNofile = "RLIMIT_NOFILE",
        RlimitMemlock = "RLIMIT_MEMLOCK",
        RlimitAs = "RLIMIT_AS",
        RlimitLocks = "RLIMIT_LOCKS",
        RlimitSigpending = "RLIMIT_SIGPENDING",
        RlimitMsgqueue = "RLIMIT_MSGQUEUE",
        RlimitNice = "RLIMIT_NICE",
        RlimitRtprio = "RLIMIT_RTPRIO",
        RlimitRttime = "RLIMIT_RTTIME",
    }
    /// A class of I/O priority.
    IOPriorityClass, "a class of I/O priority" {
        IoprioClassRt = "IOPRIO_CLASS_RT",
        IoprioClassBe = "IOPRIO_CLASS_BE",
        IoprioClassIdle = "IOPRIO_CLASS_IDLE",
    }
    /// A scheduling policy.
    LinuxSchedulerPolicy, "a scheduling policy" {
        SchedOther = "SCHED_OTHER",
        SchedFifo = "SCHED_FIFO",
        SchedRr = "SCHED_RR",
        SchedBatch = "SCHED_BATCH",
        SchedIso = "SCHED_ISO",
        SchedIdle = "SCHED_IDLE",
        SchedDeadline = "SCHED_DEADLINE",
    }
    /// How a process is scheduled.
    LinuxSchedulerFlag, "a scheduling flag" {
        SchedResetOnFork = "SCHED_FLAG_RESET_ON_FORK",
        SchedFlagReclaim = "SCHED_FLAG_RECLAIM",
        SchedFlagDLOverrun = "SCHED_FLAG_DL_OVERRUN",
        SchedFlagKeepPolicy = "SCHED_FLAG_KEEP_POLICY",
        SchedFlagKeepParams = "SCHED_FLAG_KEEP_PARAMS",
        SchedFlagUtilClampMin = "SCHED_FLAG_UTIL_CLAMP_MIN",
        SchedFlagUtilClampMax = "SCHED_FLAG_UTIL_CLAMP_MAX",
    }
}

macro_rules! capabilities {
    ($($variant:ident = $word:literal,)*) => {
        /// A capability; [`Display`](fmt::Display) leaves `CAP_` out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Capability {
            $(#[doc = concat!("`CAP_", $word, "`")] $variant,)*
        }

        impl Capability {
            const WORDS: &[(&str, Self)] = &[$((concat!("CAP_", $word), Self::$variant),)*];
        }

        impl fmt::Display for Capability {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)*
                })
            }
        }
    };
}

capabilities! {
    Chown = "CHOWN",
    DacOverride = "DAC_OVERRIDE",
    DacReadSearch = "DAC_READ_SEARCH",
    Fowner = "FOWNER",
    Fsetid = "FSETID",
    Kill = "KILL",
    Setgid = "SETGID",
    Setuid = "SETUID",
    Setpcap = "SETPCAP",
    LinuxImmutable = "LINUX_IMMUTABLE",
    NetBindService = "NET_BIND_SERVICE",
    NetBroadcast = "NET_BROADCAST",
    NetAdmin = "NET_ADMIN",
    NetRaw = "NET_RAW",
    IpcLock = "IPC_LOCK",
    IpcOwner = "IPC_OWNER",
    SysModule = "SYS_MODULE",
    SysRawio = "SYS_RAWIO",
    SysChroot = "SYS_CHROOT",
    SysPtrace = "SYS_PTRACE",
    SysPacct = "SYS_PACCT",
    SysAdmin = "SYS_ADMIN",
    SysBoot = "SYS_BOOT",
    SysNice = "SYS_NICE",
    SysResource = "SYS_RESOURCE",
    SysTime = "SYS_TIME",
    SysTtyConfig = "SYS_TTY_CONFIG",
    Mknod = "MKNOD",
    Lease = "LEASE",
    AuditWrite = "AUDIT_WRITE",
    AuditControl = "AUDIT_CONTROL",
    Setfcap = "SETFCAP",
    MacOverride = "MAC_OVERRIDE",
    MacAdmin = "MAC_ADMIN",
    Syslog = "SYSLOG",
    WakeAlarm = "WAKE_ALARM",
    BlockSuspend = "BLOCK_SUSPEND",
    AuditRead = "AUDIT_READ",
    Perfmon = "PERFMON",
    Bpf = "BPF",
    CheckpointRestore = "CHECKPOINT_RESTORE",
}

impl Capability {
    /// By its name, with or without `CAP_`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        Self::WORDS.iter().find(|(word, _)| word[4..] == *short).map(|(_, one)| *one)
    }
}

impl Read for Capability {
    fn read(json: &Json<'_>, at: &At<'_>) -> Result<Self, Error> {
        word(json, at, "a capability", Self::WORDS)
    }
}

/// So that names on a command line are read as those in a spec.
impl<'de> serde::Deserialize<'de> for Capability {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::through_serde(from)
    }
}
