//! One process of a container, as its spec says: init's and an exec's alike.

use std::ffi::CString;
use std::path::PathBuf;

use crate::spec::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType,
    Process, Scheduler,
};

use super::{capabilities, number_list};
use crate::error::Error;
use crate::sys::cred::CapabilitySets;

/// A resource limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    /// The kernel's number.
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// What sched_setattr takes, in the kernel's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedulerPlan {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    /// Nanoseconds, as the two after it.
    pub(crate) runtime_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) period_ns: u64,
}

fn io_priority(io: LinuxIOPriority, at: &str) -> Result<u32, Error> {
    let class = match io.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(io.priority()) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(Error::Spec {
            field: format!("{at}.ioPriority.priority"),
            reason: format!("{} is not in 0 to 7", io.priority()),
        }),
    }
}

fn scheduler(spec: &Scheduler, at: &str) -> Result<SchedulerPlan, Error> {
    use LinuxSchedulerPolicy as Policy;
    let policy = *spec.policy();
    let refuse = |field: &str, reason: String| Error::Spec {
        field: format!("{at}.scheduler.{field}"),
        reason,
    };
    let nice = spec.nice().unwrap_or(0);
    // The kernel leaves it aside for the policies that have none, and other runtimes take it.
    if !(-20..20).contains(&nice) {
        return Err(refuse("nice", format!("{nice} is not from -20 to 19")));
    }
    let priority = spec.priority().unwrap_or(0);
    let is_realtime = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    if is_realtime != (1..100).contains(&priority) || priority != 0 && !is_realtime {
        return Err(refuse("priority", format!("{priority} means nothing with {policy}")));
    }
    let times =
        [("runtime", spec.runtime()), ("deadline", spec.deadline()), ("period", spec.period())];
    if let Some((field, _)) = times.iter().find(|(_, time)| time.is_some_and(|time| time != 0))
        && policy != Policy::SchedDeadline
    {
        return Err(refuse(field, format!("means nothing with {policy}")));
    }
    let flags = spec.flags().iter().flatten().fold(0, |bits, flag| {
        bits | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    Ok(SchedulerPlan {
        policy: match policy {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        },
        flags,
        nice,
        priority: priority.unsigned_abs(),
        runtime_ns: spec.runtime().unwrap_or(0),
        deadline_ns: spec.deadline().unwrap_or(0),
        period_ns: spec.period().unwrap_or(0),
    })
}

/// All that a process needs on its way to execve.
#[derive(Clone, Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// Where to look for `args[0]` when it has no slash.
    pub(crate) search: Vec<String>,
    pub(crate) cwd: PathBuf,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) capabilities: CapabilitySets,
    pub(crate) limits: Vec<Limit>,
    pub(crate) no_new_privileges: bool,
    pub(crate) oom_score_adj: Option<i32>,
    /// Class in the upper bits, as ioprio_set takes it.
    pub(crate) io_priority: Option<u32>,
    pub(crate) scheduler: Option<SchedulerPlan>,
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Option<String>,
    /// Of an exec: the processors on which it enters the container, and those on which it stays.
    /// Empty: not set.
    pub(crate) affinity: Affinity,
}

/// Masks of processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    pub(crate) before: Vec<u64>,
    pub(crate) after: Vec<u64>,
}

fn affinity(process: &Process, at: &str) -> Result<Affinity, Error> {
    let Some(spec) = process.exec_cpu_affinity() else { return Ok(Affinity::default()) };
    let list = |field: &str, text: &Option<String>| {
        number_list::parse(text.as_deref().unwrap_or("")).map_err(|reason| Error::Spec {
            field: format!("{at}.execCPUAffinity.{field}"),
            reason,
        })
    };
    let before = list("initial", spec.initial())?;
    Ok(Affinity { before, after: list("final", spec.cpu_affinity_final())? })
}

impl ProcessPlan {
    /// Checks and converts; `at` is the JSON path of `process`.
    pub(crate) fn parse(process: &Process, at: &str) -> Result<Self, Error> {
        let refuse = |field: &str, reason: &str| Error::Spec {
            field: format!("{at}.{field}"),
            reason: reason.to_owned(),
        };
        let c = |field: &str, text: &str| {
            CString::new(text).map_err(|_| refuse(field, "has a NUL byte in it"))
        };
        let args = process
            .args()
            .iter()
            .flatten()
            .map(|arg| c("args", arg))
            .collect::<Result<Vec<_>, _>>()?;
        if args.first().is_none_or(|first| first.is_empty()) {
            return Err(refuse("args", "names no program"));
        }
        let env = process
            .env()
            .iter()
            .flatten()
            .map(|entry| match entry.split_once('=') {
                Some((name, _)) if !name.is_empty() => c("env", entry),
                _ => Err(refuse("env", &format!("{entry:?} is not name=value"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        // The last PATH counts, as it does for the program.
        let search =
            process.env().iter().flatten().rev().find_map(|entry| entry.strip_prefix("PATH="));
        if !process.cwd().is_absolute() {
            return Err(refuse("cwd", "must be an absolute path"));
        }
        Ok(Self {
            search: search.unwrap_or("").split(':').map(str::to_owned).collect(),
            cwd: process.cwd().clone(),
            uid: process.user().uid(),
            gid: process.user().gid(),
            groups: process.user().additional_gids().clone().unwrap_or_default(),
            umask: process.user().umask().unwrap_or(0o022) & 0o777,
            capabilities: capabilities::sets(process.capabilities().as_ref()),
            limits: limits(process, at)?,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: process.oom_score_adj(),
            io_priority: process.io_priority().map(|io| io_priority(io, at)).transpose()?,
            scheduler: process.scheduler().as_ref().map(|s| scheduler(s, at)).transpose()?,
            affinity: affinity(process, at)?,
            apparmor: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
            selinux: process.selinux_label().clone().filter(|label| !label.is_empty()),
            args,
            env,
        })
    }
}

fn limits(process: &Process, at: &str) -> Result<Vec<Limit>, Error> {
    let mut all: Vec<Limit> = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let (resource, name) = resource(limit.typ());
        let refuse =
            |reason: String| Error::Spec { field: format!("{at}.rlimits[{index}]"), reason };
        if all.iter().any(|other| other.resource == resource) {
            return Err(refuse(format!("{name} is named twice")));
        }
        if limit.soft() > limit.hard() {
            return Err(refuse("soft is above hard".to_owned()));
        }
        all.push(Limit { name, resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(all)
}

fn resource(kind: PosixRlimitType) -> (u32, &'static str) {
    match kind {
        PosixRlimitType::RlimitCpu => (0, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (1, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (2, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (3, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (4, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (5, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (6, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (7, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (8, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (9, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (10, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (11, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (12, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (13, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (14, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (15, "RLIMIT_RTTIME"),
    }
}

/// A limit that may not be raised to what was asked, cut to the hard limit we have; with the text
/// of the warning.
pub(crate) fn cut_limit(limit: &Limit, our_hard: u64) -> (Limit, String) {
    let cut =
        Limit { soft: limit.soft.min(our_hard), hard: limit.hard.min(our_hard), ..limit.clone() };
    let text = format!(
        "{} {}:{} is above our own hard limit {our_hard}, and raising it needs CAP_SYS_RESOURCE: set to {}:{}",
        limit.name, limit.soft, limit.hard, cut.soft, cut.hard
    );
    (cut, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ProcessPlan, Error> {
        ProcessPlan::parse(&serde_json::from_str(json).expect("json"), "process")
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_path() {
        let field = |json: &str| match parse(json) {
            Err(Error::Spec { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(r#"{"user":{},"cwd":"/","args":[]}"#), "process.args");
        assert_eq!(field(r#"{"user":{},"cwd":"x","args":["a"]}"#), "process.cwd");
        assert_eq!(field(r#"{"user":{},"cwd":"/","args":["a"],"env":["x"]}"#), "process.env");
        let twice = r#"{"user":{},"cwd":"/","args":["a"],"rlimits":[
            {"type":"RLIMIT_CORE","soft":0,"hard":0},{"type":"RLIMIT_CORE","soft":0,"hard":0}]}"#;
        assert_eq!(field(twice), "process.rlimits[1]");
    }

    #[test]
    fn the_last_path_counts() {
        let plan = parse(r#"{"user":{},"cwd":"/","args":["a"],"env":["PATH=/x","PATH=/a:/b"]}"#);
        assert_eq!(plan.expect("valid").search, ["/a", "/b"]);
    }

    #[test]
    fn limits_above_ours_are_cut_and_said() {
        let limit = Limit { name: "RLIMIT_NOFILE", resource: 7, soft: 10, hard: 100 };
        let (cut, text) = cut_limit(&limit, 50);
        assert_eq!((cut.soft, cut.hard), (10, 50));
        assert!(text.contains("CAP_SYS_RESOURCE"));
    }
}
