//! Cache and memory bandwidth (resctrl): which group a container is in, and what it may use.

use crate::error::Error;
use crate::spec::LinuxIntelRdt;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RdtPlan {
    /// The group's name; `None`: the container's own, named after it; empty: the top group.
    pub(crate) group: Option<String>,
    /// Lines for the group's `schemata`, in order.
    pub(crate) lines: Vec<String>,
    /// The lines that an existing group must have already.
    pub(crate) expected: Vec<String>,
    pub(crate) is_monitored: bool,
}

/// Checks and converts.
pub(crate) fn parse(spec: &LinuxIntelRdt) -> Result<RdtPlan, Error> {
    let refuse = |field: &str, reason: &str| {
        Err(Error::Spec { field: format!("linux.intelRdt.{field}"), reason: reason.to_owned() })
    };
    for (field, on) in [("enableCMT", spec.enable_cmt()), ("enableMBM", spec.enable_mbm())] {
        if on == Some(true) {
            return refuse(field, "is gone from the spec since 1.3: say enableMonitoring");
        }
    }
    let group = match spec.clos_id().as_deref() {
        None | Some("") => None,
        Some("/") => Some(String::new()),
        Some(name) if name.contains('/') || [".", "..", "info"].contains(&name) => {
            return refuse("closID", "is not the name of a group");
        }
        Some("mon_groups" | "mon_data") => return refuse("closID", "is resctrl's own"),
        Some(name) => Some(name.to_owned()),
    };
    let mut expected = Vec::new();
    let schemas = [
        ("l3CacheSchema", spec.l3_cache_schema(), "L3"),
        ("memBwSchema", spec.mem_bw_schema(), "MB:"),
    ];
    for (field, line, start) in schemas {
        let Some(line) = line.as_deref().filter(|line| !line.is_empty()) else { continue };
        if line.contains('\n') || !line.starts_with(start) {
            return refuse(field, "must be one line, of its own resource");
        }
        expected.push(line.to_owned());
    }
    let mut lines = expected.clone();
    for (index, line) in spec.schemata().iter().flatten().enumerate() {
        if line.contains('\n') {
            return refuse(&format!("schemata[{index}]"), "has a line break in it");
        }
        lines.push(line.clone());
    }
    let is_monitored = spec.enable_monitoring() == Some(true);
    Ok(RdtPlan { group, lines, expected, is_monitored })
}

/// Whether a `schemata` file says what a line asks: each `id=value` of it, whatever else is there.
pub(crate) fn agrees(schemata: &str, line: &str) -> bool {
    let Some((resource, wanted)) = line.split_once(':') else { return false };
    let values = |text: &str| -> Vec<(String, String)> {
        let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
        let plain = |text: &str| text.trim().trim_start_matches('0').to_ascii_lowercase();
        pairs.map(|(id, value)| (plain(id), plain(value))).collect()
    };
    let found = schemata.lines().filter_map(|line| line.split_once(':'));
    let mut found = found.filter(|(name, _)| name.trim() == resource.trim());
    found.next().is_some_and(|(_, now)| {
        let now = values(now);
        values(wanted).iter().all(|pair| now.contains(pair))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemata_agree_in_values_not_in_letters() {
        let file = "    MB:0= 70;1=20\n    L3:0=07ff;1=00F0\n";
        assert!(agrees(file, "L3:0=7ff;1=f0"));
        assert!(agrees(file, "MB:1=20"));
        assert!(!agrees(file, "MB:1=30"));
        assert!(!agrees(file, "L2:0=1"));
        assert!(!agrees(file, "L3:2=1"));
    }
}
