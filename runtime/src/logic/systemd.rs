//! Which unit of systemd a container is, where its cgroup is, and its limits as properties.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::spec::LinuxResources;

use super::cgroup_v2::{swap_alone, weight_of_shares};
use super::dbus::Value;
use crate::error::Error;

/// A container's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitName {
    pub(crate) slice: String,
    /// `PREFIX-NAME.scope`, or a slice of its own.
    pub(crate) unit: String,
    pub(crate) name: String,
}

fn refuse(reason: impl Into<String>) -> Error {
    Error::Spec { field: "linux.cgroupsPath".to_owned(), reason: reason.into() }
}

/// Out of `SLICE:PREFIX:NAME`, or the id; `user` for a manager that is not the system's.
pub(crate) fn unit_name(path: Option<&str>, id: &str, user: bool) -> Result<UnitName, Error> {
    let default = if user { "user.slice" } else { "system.slice" };
    let (slice, prefix, name) = match path.filter(|path| !path.is_empty()) {
        None => (default, "wharf", id),
        Some(path) => {
            let parts: Vec<&str> = path.split(':').collect();
            let [slice, prefix, name] = parts[..] else {
                let text = format!(
                    "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
                );
                return Err(refuse(text));
            };
            (if slice.is_empty() { default } else { slice }, prefix, name)
        }
    };
    if name.is_empty() || [slice, prefix, name].iter().any(|part| part.contains('/')) {
        return Err(refuse(format!("{path:?} names no unit")));
    }
    expand_slice(slice)?;
    let unit = match name.ends_with(".slice") {
        true => name.to_owned(),
        false if prefix.is_empty() => format!("{name}.scope"),
        false => format!("{prefix}-{name}.scope"),
    };
    Ok(UnitName { slice: slice.to_owned(), unit, name: name.to_owned() })
}

/// `test-a.slice` is `test.slice/test-a.slice`.
pub(crate) fn expand_slice(slice: &str) -> Result<PathBuf, Error> {
    let invalid = || refuse(format!("invalid slice name: {slice}"));
    let name = slice.strip_suffix(".slice").filter(|name| !name.is_empty()).ok_or_else(invalid)?;
    if name == "-" {
        return Ok(PathBuf::new());
    }
    let (mut path, mut prefix) = (PathBuf::new(), String::new());
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') || part == ".." {
            return Err(invalid());
        }
        path.push(format!("{prefix}{part}.slice"));
        prefix.push_str(part);
        prefix.push('-');
    }
    Ok(path)
}

/// Where the unit's cgroup is, below the root of its manager.
pub(crate) fn unit_path(name: &UnitName) -> Result<PathBuf, Error> {
    if name.unit.ends_with(".slice") {
        return expand_slice(&name.unit);
    }
    Ok(expand_slice(&name.slice)?.join(&name.unit))
}

fn property(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

/// What a unit is made with, before its limits.
pub(crate) fn unit_properties(name: &UnitName, holder: i32) -> Vec<(String, Value)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut all = vec![property("Description", text(&format!("wharf container {}", name.name)))];
    if name.unit.ends_with(".slice") {
        all.push(property("Wants", Value::Texts(vec![name.slice.clone()])));
    } else {
        all.push(property("Slice", text(&name.slice)));
        all.push(property("Delegate", Value::Bool(true)));
        all.push(property("PIDs", Value::Uint32s(vec![holder.cast_unsigned()])));
    }
    for one in ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"] {
        all.push(property(one, Value::Bool(true)));
    }
    all.push(property("DefaultDependencies", Value::Bool(false)));
    all
}

const INFINITY: u64 = u64::MAX;

fn limit(number: i64) -> Value {
    Value::Uint64(if number < 0 { INFINITY } else { number.cast_unsigned() })
}

/// Versions from which systemd knows a property.
const QUOTA_PERIOD: u32 = 242;
const CPUSET: u32 = 244;
const CPU_IDLE: u32 = 252;

/// Properties, and a word for each limit that can't be given as one.
type Limits = (Vec<(String, Value)>, Vec<String>);

/// The limits that systemd keeps itself: what is left to the cgroup's files alone is overwritten
/// when it looks at the unit again. With a word for each that can't be given.
pub(crate) fn limit_properties(
    resources: &LinuxResources,
    v2: bool,
    version: u32,
) -> Result<Limits, Error> {
    let (mut all, mut words) = (Vec::new(), Vec::new());
    if let Some(memory) = resources.memory() {
        if let Some(bytes) = memory.limit().filter(|bytes| *bytes != 0) {
            all.push(property(if v2 { "MemoryMax" } else { "MemoryLimit" }, limit(bytes)));
        }
        if v2 && let Some(bytes) = memory.reservation().filter(|bytes| *bytes != 0) {
            all.push(property("MemoryLow", limit(bytes)));
        }
        if v2 && let Some(bytes) = swap_alone(memory)? {
            all.push(property("MemorySwapMax", limit(bytes)));
        }
    }
    if let Some(cpu) = resources.cpu() {
        let idle = cpu.idle() == Some(1) && version >= CPU_IDLE;
        if v2 && idle {
            // To systemd, the weight 0 is idle.
            all.push(property("CPUWeight", Value::Uint64(0)));
        }
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            match (v2, idle) {
                (true, true) => words.push(
                    "unable to apply both CPUWeight and CpuIdle to systemd, ignoring CPUWeight"
                        .to_owned(),
                ),
                (true, false) => {
                    all.push(property("CPUWeight", Value::Uint64(weight_of_shares(shares))));
                }
                (false, _) => all.push(property("CPUShares", Value::Uint64(shares))),
            }
        }
        quota(&mut all, cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), version);
        for (name, list) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty() && v2) {
                cpus(&mut all, name, list, version)?;
            }
        }
    }
    if let Some(pids) = resources.pids() {
        let most = match pids.limit() {
            number if number < 0 => INFINITY,
            0 => 1,
            number => number.cast_unsigned(),
        };
        all.push(property("TasksMax", Value::Uint64(most)));
    }
    if let Some(block) = resources.block_io()
        && let Some(weight) = block.weight().filter(|weight| *weight != 0)
        && !v2
    {
        all.push(property("BlockIOWeight", Value::Uint64(u64::from(weight))));
    }
    if let Some(unified) = resources.unified() {
        unified_properties(unified, version, &mut all, &mut words)?;
    }
    Ok((all, words))
}

/// systemd counts in percent of a CPU, rounded up, so that cgroups below may have what was asked.
fn quota(all: &mut Vec<(String, Value)>, quota: i64, period: u64, version: u32) {
    if period != 0 && version >= QUOTA_PERIOD {
        all.push(property("CPUQuotaPeriodUSec", Value::Uint64(period)));
    }
    if quota != 0 || period != 0 {
        let a_second = match u64::try_from(quota) {
            Ok(quota) if quota > 0 => {
                let period = if period == 0 { 100_000 } else { period };
                (quota.saturating_mul(1_000_000) / period).next_multiple_of(10_000)
            }
            _ => INFINITY,
        };
        all.push(property("CPUQuotaPerSecUSec", Value::Uint64(a_second)));
    }
}

/// `0-2,7` as a mask, the lowest byte first.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last > 8191 {
            return None;
        }
        for cpu in first..=last {
            if bytes.len() <= cpu / 8 {
                bytes.resize(cpu / 8 + 1, 0);
            }
            bytes[cpu / 8] |= 1 << (cpu % 8);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

fn cpus(all: &mut Vec<(String, Value)>, name: &str, list: &str, version: u32) -> Result<(), Error> {
    let bits = mask(list).ok_or_else(|| Error::Spec {
        field: "linux.resources.cpu".to_owned(),
        reason: format!("{list:?} is no list of CPUs or memory nodes"),
    })?;
    if version >= CPUSET {
        all.push(property(name, Value::Bytes(bits)));
    }
    Ok(())
}

fn unified_properties(
    unified: &HashMap<String, String>,
    version: u32,
    all: &mut Vec<(String, Value)>,
    words: &mut Vec<String>,
) -> Result<(), Error> {
    let idle = unified.get("cpu.idle").is_some_and(|v| v.trim() == "1") && version >= CPU_IDLE;
    let mut keys: Vec<_> = unified.iter().collect();
    keys.sort();
    for (key, value) in keys {
        let value = value.trim();
        let bad = || Error::Spec {
            field: format!("linux.resources.unified[{key:?}]"),
            reason: format!("{value:?} is not what this file takes"),
        };
        let number = |text: &str| match text {
            "max" => Ok(INFINITY),
            text => text.parse::<u64>().map_err(|_| bad()),
        };
        let name = match key.as_str() {
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => {
                all.push(property("TasksMax", Value::Uint64(number(value)?.max(1))));
                continue;
            }
            "cpu.idle" if idle => {
                all.push(property("CPUWeight", Value::Uint64(0)));
                continue;
            }
            "cpu.weight" if idle => {
                words.push(
                    "unable to apply both cpu.weight and cpu.idle to systemd, ignoring cpu.weight"
                        .to_owned(),
                );
                continue;
            }
            "cpu.weight" => "CPUWeight",
            "cpu.max" => {
                let mut parts = value.split_whitespace();
                let (most, period) = (parts.next().ok_or_else(bad)?, parts.next());
                let most = match most {
                    "max" => 0,
                    text => text.parse::<i64>().map_err(|_| bad())?,
                };
                let period = period.map_or(Ok(100_000), |text| text.parse().map_err(|_| bad()))?;
                quota(all, most, period, version);
                continue;
            }
            "cpuset.cpus" | "cpuset.mems" => {
                let name = if key.ends_with("cpus") { "AllowedCPUs" } else { "AllowedMemoryNodes" };
                cpus(all, name, value, version)?;
                continue;
            }
            _ => continue,
        };
        all.push(property(name, Value::Uint64(number(value)?)));
    }
    Ok(())
}

/// `org.systemd.property.NAME` annotations: a value in the words of GVariant, as far as runc's
/// users write them. Times end in `Sec` and are sent in microseconds.
pub(crate) fn annotation(name: &str, text: &str) -> Option<(String, Value)> {
    let text = text.trim();
    let quoted = |text: &str| {
        let inner = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
        inner
            .or_else(|| text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')))
            .map(str::to_owned)
    };
    if let Some(stem) = name.strip_suffix("Sec").filter(|stem| !stem.is_empty()) {
        let number = text.strip_prefix("uint64 ").or(text.strip_prefix("int64 ")).unwrap_or(text);
        let seconds: f64 = number.trim().parse().ok().filter(|s: &f64| *s >= 0.0)?;
        return Some((format!("{stem}USec"), Value::Uint64((seconds * 1e6) as u64)));
    }
    let value = match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => {
            if let Some(number) = text.strip_prefix("uint64 ") {
                Value::Uint64(number.trim().parse().ok()?)
            } else if let Some(number) = text.strip_prefix("uint32 ") {
                Value::Uint32(number.trim().parse().ok()?)
            } else if let Some(number) = text.strip_prefix("int64 ") {
                Value::Int64(number.trim().parse().ok()?)
            } else if let Ok(number) = text.parse::<i32>() {
                Value::Int32(number)
            } else if let Some(inner) =
                text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
            {
                let all = inner.split(',').map(|part| quoted(part.trim()));
                Value::Texts(all.collect::<Option<_>>()?)
            } else {
                Value::Text(quoted(text)?)
            }
        }
    };
    Some((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_their_paths() {
        let name = unit_name(Some("machine-a.slice:runc:x"), "id", false).expect("valid");
        assert_eq!(name.unit, "runc-x.scope");
        let path = unit_path(&name).expect("valid");
        assert_eq!(path.to_str(), Some("machine.slice/machine-a.slice/runc-x.scope"));
        let name = unit_name(None, "id", false).expect("default");
        assert_eq!((name.slice.as_str(), name.unit.as_str()), ("system.slice", "wharf-id.scope"));
        assert_eq!(unit_name(Some("::x"), "id", true).expect("valid").slice, "user.slice");
        for bad in [
            "/a/b",
            "a:b",
            "a:b:c",
            "a--b.slice:p:n",
            "-.slice/..:p:n",
            "a.slice:p:",
            "a.slice:p:../x",
        ] {
            assert!(unit_name(Some(bad), "id", false).is_err(), "{bad}");
        }
        assert_eq!(expand_slice("-.slice").expect("root"), PathBuf::new());
    }

    fn properties(json: &str, v2: bool) -> HashMap<String, Value> {
        let resources: LinuxResources = serde_json::from_str(json).expect("json");
        limit_properties(&resources, v2, 252).expect("valid").0.into_iter().collect()
    }

    #[test]
    fn limits_as_properties() {
        let all = properties(
            r#"{"memory":{"limit":100,"swap":150},"cpu":{"quota":4000,"period":10000,"shares":1024,"cpus":"0-1,9"},"pids":{"limit":0}}"#,
            true,
        );
        assert_eq!(all["MemoryMax"], Value::Uint64(100));
        assert_eq!(all["MemorySwapMax"], Value::Uint64(50));
        assert_eq!(all["CPUQuotaPerSecUSec"], Value::Uint64(400_000));
        assert_eq!(all["CPUQuotaPeriodUSec"], Value::Uint64(10_000));
        assert_eq!(all["CPUWeight"], Value::Uint64(100));
        assert_eq!(all["AllowedCPUs"], Value::Bytes(vec![3, 2]));
        assert_eq!(all["TasksMax"], Value::Uint64(1));
        let all = properties(r#"{"cpu":{"shares":1024},"memory":{"limit":-1}}"#, false);
        assert_eq!(all["CPUShares"], Value::Uint64(1024));
        assert_eq!(all["MemoryLimit"], Value::Uint64(u64::MAX));
        let all = properties(
            r#"{"unified":{"memory.high":"7","cpu.max":"max 50000","pids.max":"max"}}"#,
            true,
        );
        assert_eq!(all["MemoryHigh"], Value::Uint64(7));
        assert_eq!(all["CPUQuotaPerSecUSec"], Value::Uint64(u64::MAX));
        assert_eq!(all["TasksMax"], Value::Uint64(u64::MAX));
    }

    #[test]
    fn annotations_in_the_words_of_gvariant() {
        let of = |name: &str, text: &str| annotation(name, text);
        let some = |name: &str, value| Some((name.to_owned(), value));
        assert_eq!(of("TimeoutStopSec", "1"), some("TimeoutStopUSec", Value::Uint64(1_000_000)));
        assert_eq!(
            of("RuntimeMaxSec", "uint64 2"),
            some("RuntimeMaxUSec", Value::Uint64(2_000_000))
        );
        assert_eq!(
            of("CollectMode", "'inactive'"),
            some("CollectMode", Value::Text("inactive".to_owned()))
        );
        assert_eq!(
            of("Before", "['a','b']"),
            some("Before", Value::Texts(vec!["a".to_owned(), "b".to_owned()]))
        );
        assert_eq!(of("X", "true"), some("X", Value::Bool(true)));
        assert_eq!(of("X", "bare words"), None);
    }
}
