//! Which system calls a container may make: nothing said, the default profile; or a profile of the
//! user's in the form of Docker's files or of the OCI spec's; or none. Pure.
//!
//! A profile of Docker's depends on the container's capabilities, the host's architecture and its
//! kernel; what runs the container gets it resolved.

mod allowed;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use allowed::{ENTRIES, When};

/// Largest profile, without blanks: it is kept in the container's record.
const MAX_PROFILE_BYTES: usize = 64 << 10;
/// In place of a profile: none.
pub const UNCONFINED: &str = "unconfined";

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// Wharf's own profile.
    #[default]
    Default,
    /// Every call.
    Unconfined,
    /// A profile, as JSON.
    Profile(String),
}

impl Seccomp {
    /// Reads what a caller said: nothing, "unconfined" or a profile.
    ///
    /// # Errors
    /// Why it is none of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "default" | "builtin" => Ok(Self::Default),
            UNCONFINED => Ok(Self::Unconfined),
            text => {
                let value: Value = serde_json::from_str(text)
                    .map_err(|e| format!("is neither \"unconfined\" nor a profile: {e}"))?;
                let short = value.to_string();
                if short.len() > MAX_PROFILE_BYTES {
                    let (size, most) = (short.len(), MAX_PROFILE_BYTES);
                    return Err(format!("the profile has {size} bytes, over {most}"));
                }
                // Whether it can be resolved does not depend on for whom.
                resolve(&value, &Host::default(), &[])?;
                Ok(Self::Profile(short))
            }
        }
    }

    /// As a caller would say it.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Default => "",
            Self::Unconfined => UNCONFINED,
            Self::Profile(text) => text,
        }
    }

    /// `linux.seccomp` of the OCI spec for a container with these capabilities; `None`: no filter.
    #[must_use]
    pub fn oci(&self, capabilities: &[&str]) -> Option<Value> {
        let host = Host::default();
        match self {
            Self::Default => Some(default_profile(&host, capabilities)),
            Self::Unconfined => None,
            Self::Profile(text) => {
                let value = serde_json::from_str(text).ok()?;
                // It was resolved when the container was made; and if it can't be any more, then
                // the default is what is safe.
                let own = resolve(&value, &host, capabilities);
                Some(own.unwrap_or_else(|_| default_profile(&host, capabilities)))
            }
        }
    }
}

/// What a profile depends on besides the container.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// In Rust's words.
    arch: &'static str,
    kernel: (u32, u32),
}

impl Default for Host {
    fn default() -> Self {
        Self { arch: std::env::consts::ARCH, kernel: kernel() }
    }
}

/// Major and minor version; read once, as it does not change while this process lives.
fn kernel() -> (u32, u32) {
    static KERNEL: std::sync::OnceLock<(u32, u32)> = std::sync::OnceLock::new();
    *KERNEL.get_or_init(|| {
        let release = nix::sys::utsname::uname()
            .map(|names| names.release().to_string_lossy().into_owned())
            .unwrap_or_default();
        version(&release).unwrap_or((0, 0))
    })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// An architecture in Go's words, as Docker's files have it.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An architecture and those whose programs its kernel runs as well, in libseccomp's words.
fn architectures(arch: &str) -> &'static [&'static str] {
    match arch {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

fn default_profile(host: &Host, capabilities: &[&str]) -> Value {
    let applies = |when: When| match when {
        When::Always => true,
        When::Has(capability) => capabilities.contains(&capability),
        When::HasNot(capability) => !capabilities.contains(&capability),
        When::Arch(arch) => arch == host.arch,
    };
    // Unconditional ones in one entry: it is written and read at every start.
    let plain = |entry: &&allowed::Entry| entry.conditions.is_empty() && entry.errno.is_none();
    let fitting: Vec<_> = ENTRIES.iter().filter(|entry| applies(entry.when)).collect();
    let names = |entry: &allowed::Entry| entry.names.split_ascii_whitespace().collect::<Vec<_>>();
    let mut all: Vec<&str> =
        fitting.iter().filter(|entry| plain(entry)).flat_map(|entry| names(entry)).collect();
    all.sort_unstable();
    all.dedup();
    let mut entries = vec![json!({ "names": all, "action": "SCMP_ACT_ALLOW" })];
    for entry in fitting.iter().filter(|entry| !plain(entry)) {
        let mut made = json!({ "names": names(entry), "action": "SCMP_ACT_ALLOW" });
        if let Some(errno) = entry.errno {
            made["action"] = "SCMP_ACT_ERRNO".into();
            made["errnoRet"] = errno.into();
        }
        let condition = |(op, value): &(&str, u64)| json!({ "index": 0, "value": value, "op": op });
        if !entry.conditions.is_empty() {
            made["args"] = entry.conditions.iter().map(condition).collect();
        }
        entries.push(made);
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures(host.arch),
        "syscalls": entries,
    })
}

/// What decides about an entry of a Docker file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Filter {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: String,
}

/// An entry of `syscalls`, of either form. What it says of the calls is the runtime's to judge.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Map<String, Value>>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

/// A profile for one container.
fn resolve(value: &Value, host: &Host, capabilities: &[&str]) -> Result<Value, String> {
    let profile = Profile::deserialize(value).map_err(|e| format!("is no profile: {e}"))?;
    let own = architectures(host.arch);
    let archs = match (&profile.architectures, &profile.arch_map) {
        (Some(_), Some(_)) => return Err("has both architectures and archMap".into()),
        (None, Some(map)) => map
            .iter()
            .filter(|one| own.first().is_some_and(|first| *first == one.architecture))
            .flat_map(|one| {
                std::iter::once(one.architecture.clone())
                    .chain(one.sub_architectures.iter().flatten().cloned())
            })
            .collect(),
        (named, None) => named.clone().unwrap_or_default(),
    };
    let mut entries = Vec::new();
    for (index, entry) in profile.syscalls.iter().flatten().enumerate() {
        let both = !entry.name.is_empty() && !entry.names.is_empty();
        if both || entry.name.is_empty() && entry.names.is_empty() {
            return Err(format!("syscalls[{index}] has to have either name or names"));
        }
        if !fits(entry, host, capabilities) {
            continue;
        }
        let single = (!entry.name.is_empty()).then_some(&entry.name);
        let names: Vec<_> = entry.names.iter().chain(single).collect();
        let mut made = json!({ "names": names, "action": entry.action });
        if let Some(errno) = entry.errno_ret {
            made["errnoRet"] = errno.into();
        }
        if let Some(args) = entry.args.as_ref().filter(|args| !args.is_empty()) {
            made["args"] = args.iter().cloned().map(Value::Object).collect();
        }
        entries.push(made);
    }
    let mut made = json!({ "defaultAction": profile.default_action, "syscalls": entries });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            made[key] = value;
        }
    };
    set("architectures", (!archs.is_empty()).then(|| json!(archs)));
    set("defaultErrnoRet", profile.default_errno_ret.map(Value::from));
    set("flags", profile.flags.map(|flags| json!(flags)));
    set("listenerPath", profile.listener_path.map(Value::from));
    set("listenerMetadata", profile.listener_metadata.map(Value::from));
    Ok(made)
}

/// As Docker judges: what is included must hold in full; of what is excluded, nothing may.
fn fits(entry: &Entry, host: &Host, capabilities: &[&str]) -> bool {
    let has_arch = |filter: &Filter| filter.arches.iter().any(|a| a == go_arch(host.arch));
    let is_new = |filter: &Filter| {
        filter.min_kernel.is_empty()
            || version(&filter.min_kernel).is_some_and(|v| host.kernel >= v)
    };
    let has = |capability: &String| capabilities.contains(&capability.as_str());
    let included = entry.includes.as_ref().is_none_or(|filter| {
        (filter.arches.is_empty() || has_arch(filter))
            && filter.caps.iter().all(has)
            && is_new(filter)
    });
    let excluded = entry.excludes.as_ref().is_some_and(|filter| {
        has_arch(filter)
            || filter.caps.iter().any(has)
            || !filter.min_kernel.is_empty() && is_new(filter)
    });
    included && !excluded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::containers::oci::{ALL_CAPS, DEFAULT_CAPS};

    const HOST: Host = Host { arch: "x86_64", kernel: (6, 1) };

    /// What becomes of a call without arguments' conditions: its action, or the default.
    fn action<'a>(profile: &'a Value, call: &str) -> (&'a str, usize) {
        let entries = profile["syscalls"].as_array().expect("entries");
        let entry = entries.iter().find(|entry| {
            entry["names"].as_array().expect("names").iter().any(|name| name == call)
        });
        match entry {
            Some(entry) => (
                entry["action"].as_str().expect("an action"),
                entry["args"].as_array().map_or(0, Vec::len),
            ),
            None => (profile["defaultAction"].as_str().expect("an action"), 0),
        }
    }

    #[test]
    fn the_default_depends_on_capabilities() {
        let usual = default_profile(&HOST, DEFAULT_CAPS);
        for call in ["mount", "unshare", "setns", "keyctl", "bpf", "init_module", "io_uring_setup"]
        {
            assert_eq!(action(&usual, call), ("SCMP_ACT_ERRNO", 0), "{call}");
        }
        for call in ["openat", "chroot", "arch_prctl", "ptrace", "waitpid"] {
            assert_eq!(action(&usual, call), ("SCMP_ACT_ALLOW", 0), "{call}");
        }
        assert_eq!(action(&usual, "clone"), ("SCMP_ACT_ALLOW", 1));
        assert_eq!(action(&usual, "clone3"), ("SCMP_ACT_ERRNO", 0));
        assert_eq!(action(&usual, "socket"), ("SCMP_ACT_ALLOW", 3));
        let all = default_profile(&HOST, ALL_CAPS);
        for call in ["mount", "unshare", "clone", "clone3", "bpf", "init_module", "reboot"] {
            assert_eq!(action(&all, call), ("SCMP_ACT_ALLOW", 0), "{call}");
        }
        let none = default_profile(&Host { arch: "aarch64", ..HOST }, &[]);
        assert_eq!(action(&none, "chroot"), ("SCMP_ACT_ERRNO", 0));
        assert_eq!(action(&none, "arch_prctl"), ("SCMP_ACT_ERRNO", 0));
        assert_eq!(none["architectures"], json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]));
    }

    #[test]
    fn a_docker_file_is_resolved() {
        let file = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_S390X", "subArchitectures": null},
            ],
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "x"},
                {"name": "write", "action": "SCMP_ACT_ALLOW"},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"names": ["later"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
                {"names": ["s390"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
                {"names": ["here"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            ],
        });
        let names = |caps: &[&str]| {
            let made = resolve(&file, &HOST, caps).expect("a profile");
            assert_eq!(made["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
            assert_eq!(made["defaultErrnoRet"], 38);
            let entries = made["syscalls"].as_array().expect("entries").clone();
            entries
                .iter()
                .map(|e| e["names"][0].as_str().expect("a name").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["read", "write", "clone", "ptrace", "here"]);
        assert_eq!(names(&["CAP_SYS_ADMIN"]), ["read", "write", "mount", "ptrace", "here"]);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        for bad in [
            "nothing",
            "{}",
            "[]",
            r#"{"defaultAction":1}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ERRNO"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":[],"archMap":[]}"#,
        ] {
            assert!(Seccomp::parse(bad).is_err(), "{bad}");
        }
        let long = json!({"defaultAction": "x".repeat(MAX_PROFILE_BYTES)}).to_string();
        assert!(Seccomp::parse(&long).expect_err("too long").contains("bytes"));
        assert_eq!(Seccomp::parse(""), Ok(Seccomp::Default));
        assert_eq!(Seccomp::parse("unconfined"), Ok(Seccomp::Unconfined));
    }
}
