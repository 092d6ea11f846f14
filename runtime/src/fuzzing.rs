//! Outside bytes to what reads them, for fuzzing: no effect but a panic.

use std::path::Path;

use crate::TaskState;
use crate::logic::plan::Plan;
use crate::logic::seccomp::{self, kept};
use crate::spec::{LinuxSeccomp, Spec};

/// `config.json`.
pub fn config(bytes: &[u8]) {
    if let Ok(spec) = Spec::parse(bytes) {
        // Refused or not: both are answers.
        let _ = Plan::parse(&spec, "fuzz", Path::new("/bundle"));
        let _ = crate::flow::hooks::check(&spec);
    }
}

/// A seccomp profile alone.
pub fn seccomp(bytes: &[u8]) {
    let Ok(profile) = LinuxSeccomp::parse(bytes) else { return };
    if let Ok(filter) = seccomp::compile(&profile) {
        // What the kernel demands of a program.
        assert!(filter.is_sound());
        if let Some(key) = kept::key(&profile) {
            assert!(kept::decode(&kept::encode(&key, &filter), &key) == Some(filter));
        }
    }
}

/// A kept filter, asked for by an empty profile's key: whatever is believed is sound.
pub fn kept_filter(bytes: &[u8]) {
    let profile = LinuxSeccomp::parse(br#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let key = profile.ok().and_then(|profile| kept::key(&profile));
    if let Some(filter) = key.and_then(|key| kept::decode(bytes, &key)) {
        assert!(filter.is_sound());
    }
}

/// `state.json`, as far as the library has a part in it.
pub fn state(bytes: &[u8]) {
    let Ok(state) = serde_json::from_slice::<TaskState>(bytes) else { return };
    let again = serde_json::to_vec(&state).expect("plain data");
    let same: TaskState = serde_json::from_slice(&again).expect("what was written");
    assert!(same == state);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"ociVersion":"1.3.0","root":{"path":"rootfs","readonly":true},
        "process":{"user":{"uid":1,"gid":2,"additionalGids":[3]},"args":["sh"],"env":["A=b"],"cwd":"/",
        "capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_CORE","hard":1,"soft":1}],
        "scheduler":{"policy":"SCHED_FIFO","priority":3},"execCPUAffinity":{"initial":"0-1","final":"1"}},
        "hostname":"h","mounts":[{"destination":"/a","source":"/b","options":["rbind","ro","rnosuid","idmap"],
        "uidMappings":[{"containerID":0,"hostID":1,"size":9}],"gidMappings":[{"containerID":0,"hostID":1,"size":9}]},
        {"destination":"/t","type":"tmpfs","options":["tmpcopyup","mode=755"]}],
        "hooks":{"prestart":[{"path":"/a","timeout":3}]},"annotations":{"a":"b"},
        "linux":{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"user"},{"type":"time"},{"type":"network","path":"/n"}],
        "uidMappings":[{"containerID":0,"hostID":1000,"size":10}],"gidMappings":[{"containerID":0,"hostID":1000,"size":10}],
        "devices":[{"path":"/dev/x","type":"c","major":1,"minor":3}],"netDevices":{"eth0":{"name":"e%d"}},
        "timeOffsets":{"boottime":{"secs":-1,"nanosecs":5}},"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0-3,7"},
        "intelRdt":{"closID":"x","l3CacheSchema":"L3:0=f"},"sysctl":{"net.ipv4.ip_forward":"1"},
        "resources":{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":5},"unified":{"a.b":"c"}},
        "cgroupsPath":"/a/b","maskedPaths":["/proc/kcore"],"personality":{"domain":"LINUX32"}}}"#;
    const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
        "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[
        {"names":["read","write","openat","sendmsg"],"action":"SCMP_ACT_ALLOW"},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
    const STATE: &str = r#"{"version":1,"pid":1,"start_ticks":2,"cgroup":{"dirs":[{"controllers":["cpu"],
        "unified":false,"mount":"/sys","path":"/sys/a"}]},"namespaces":7,"seccomp":{"program":[1,2],"flags":0}}"#;

    /// The seeds, and each with bytes cut, doubled and swapped: always the same ones.
    #[test]
    fn seeds_and_their_like_do_no_harm() {
        let spec = Spec::parse(CONFIG.as_bytes()).expect("valid");
        Plan::parse(&spec, "a", Path::new("/")).expect("valid");
        assert!(seccomp::compile(&LinuxSeccomp::parse(PROFILE.as_bytes()).expect("valid")).is_ok());
        assert!(serde_json::from_str::<TaskState>(STATE).is_ok());
        let mut next: u64 = 1;
        let mut random = |below: usize| {
            next = next
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (next >> 33) as usize % below.max(1)
        };
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 3] = [(CONFIG, config), (PROFILE, seccomp), (STATE, state)];
        for (seed, target) in targets {
            target(seed.as_bytes());
            for _ in 0..1500 {
                let mut bytes = seed.as_bytes().to_vec();
                for _ in 0..=random(4) {
                    let (at, other) = (random(bytes.len()), random(bytes.len()));
                    match random(5) {
                        0 => bytes.truncate(at),
                        1 => bytes.swap(at, other),
                        2 => bytes.insert(at, b"{}[]\",:0-9\\ex"[random(13)]),
                        3 if !bytes.is_empty() => bytes[at] = random(256) as u8,
                        _ => {
                            let piece = bytes[at.min(other)..at.max(other)].to_vec();
                            bytes.splice(at..at, piece);
                        }
                    }
                    if bytes.is_empty() {
                        break;
                    }
                }
                bytes.truncate(64 * 1024);
                target(&bytes);
            }
        }
    }
}
