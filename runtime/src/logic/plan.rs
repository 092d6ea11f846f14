//! A whole spec, checked and in the runtime's own words: made before anything is touched.

use std::path::{Path, PathBuf};

use crate::spec::{LinuxIdMapping, LinuxPersonalityDomain, LinuxResources, Mount, Spec};

use super::devices::{self, Node, Rule};
use super::mount_options::{MountOptions, ms, root_propagation};
use super::namespaces::Namespaces;
use super::process_plan::ProcessPlan;
use super::seccomp::{self, Filter};
use super::{cgroup_layout, sysctl};
use crate::error::Error;
use crate::sys::process::ns;

/// What kind of thing is mounted: each kind has a way of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    Bind,
    Proc,
    Sysfs,
    Tmpfs,
    DevPts,
    Mqueue,
    Cgroup,
    /// Any other file system, made on the host's side as its source is there.
    Other(String),
}

/// One mount of the spec.
#[derive(Clone, Debug)]
pub(crate) struct MountPlan {
    pub(crate) destination: PathBuf,
    pub(crate) kind: MountKind,
    pub(crate) source: PathBuf,
    pub(crate) options: MountOptions,
}

/// A container to be made.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) namespaces: Namespaces,
    pub(crate) process: ProcessPlan,
    pub(crate) mounts: Vec<MountPlan>,
    pub(crate) root_read_only: bool,
    /// Bits of mount(2).
    pub(crate) root_propagation: Option<u64>,
    pub(crate) host_name: Option<&'a str>,
    pub(crate) domain_name: Option<&'a str>,
    /// Path below `/proc/sys`, value.
    pub(crate) sysctls: Vec<(String, &'a str)>,
    pub(crate) masked: &'a [String],
    pub(crate) read_only: &'a [String],
    pub(crate) nodes: Vec<Node>,
    pub(crate) device_rules: Vec<Rule>,
    pub(crate) cgroup: PathBuf,
    pub(crate) resources: Option<&'a LinuxResources>,
    pub(crate) uid_map: &'a [LinuxIdMapping],
    pub(crate) gid_map: &'a [LinuxIdMapping],
    pub(crate) seccomp: Option<Filter>,
    /// The execution domain, in the kernel's number.
    pub(crate) personality: Option<u64>,
}

fn refuse(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Spec { field: field.into(), reason: reason.into() }
}

impl<'a> Plan<'a> {
    /// Checks and converts a spec.
    pub(crate) fn parse(spec: &'a Spec, id: &str, bundle: &Path) -> Result<Self, Error> {
        version(spec.version())?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| refuse("process", "is needed to run anything"))?;
        let linux = spec.linux().as_ref().ok_or_else(|| refuse("linux", "is needed on Linux"))?;
        let namespaces = Namespaces::parse(linux.namespaces().as_deref().unwrap_or(&[]))?;
        if !namespaces.has(ns::MOUNT) {
            let what = "linux.namespaces without mount: the host's own mounts would be changed";
            return Err(Error::Unsupported { what: what.to_owned() });
        }
        unsupported(spec)?;
        let names = spec.hostname().as_deref().or(spec.domainname().as_deref());
        if names.is_some_and(|name| !name.is_empty()) && !namespaces.has(ns::UTS) {
            return Err(refuse("hostname", "needs a uts namespace, or it would be the host's"));
        }
        let sysctls = linux
            .sysctl()
            .iter()
            .flatten()
            .map(|(name, value)| Ok((sysctl::path(name, &namespaces)?, value.as_str())))
            .collect::<Result<_, Error>>()?;
        let resources = linux.resources().as_ref();
        let spec_nodes = linux.devices().as_deref().unwrap_or(&[]);
        let spec_rules = resources.and_then(|r| r.devices().as_deref()).unwrap_or(&[]);
        let uid_map = linux.uid_mappings().as_deref().unwrap_or(&[]);
        let gid_map = linux.gid_mappings().as_deref().unwrap_or(&[]);
        user_maps(&namespaces, uid_map, gid_map)?;
        Ok(Self {
            process: ProcessPlan::parse(process, "process")?,
            mounts: mounts(spec.mounts().as_deref().unwrap_or(&[]), bundle)?,
            root_read_only: spec.root().as_ref().and_then(|r| r.readonly()).unwrap_or(false),
            root_propagation: propagation(linux.rootfs_propagation().as_deref())?,
            host_name: spec.hostname().as_deref().filter(|name| !name.is_empty()),
            domain_name: spec.domainname().as_deref().filter(|name| !name.is_empty()),
            sysctls,
            masked: paths("linux.maskedPaths", linux.masked_paths().as_deref())?,
            read_only: paths("linux.readonlyPaths", linux.readonly_paths().as_deref())?,
            nodes: devices::nodes(spec_nodes)?,
            device_rules: devices::rules(spec_rules)?,
            cgroup: cgroup_layout::relative_path(linux.cgroups_path().as_deref(), id)?,
            resources,
            uid_map,
            gid_map,
            personality: linux.personality().as_ref().map(|p| match p.domain() {
                LinuxPersonalityDomain::PerLinux => 0,
                LinuxPersonalityDomain::PerLinux32 => 8,
            }),
            seccomp: linux.seccomp().as_ref().map(seccomp::compile).transpose()?,
            namespaces,
        })
    }

    /// The mount of the container's own `/dev`, if the spec makes one; a bind of the host's is left
    /// as it is.
    pub(crate) fn owns_dev(&self) -> bool {
        !self
            .mounts
            .iter()
            .any(|mount| mount.kind == MountKind::Bind && mount.destination == Path::new("/dev"))
    }
}

/// A version that this runtime knows whole: a later one may have properties that would be left out
/// without a word.
fn version(version: &str) -> Result<(), Error> {
    let numbers = |text: &str| {
        let core = text.split(['-', '+']).next().unwrap_or("");
        let all: Vec<u32> = core.split('.').map_while(|n| n.parse().ok()).collect();
        let plain = core.split('.').all(|n| n == "0" || !n.starts_with('0'));
        <[u32; 3]>::try_from(all).ok().filter(|_| plain && core.split('.').count() == 3)
    };
    let refuse = |reason: String| Err(refuse("ociVersion", reason));
    match (numbers(version), numbers(crate::spec::VERSION)) {
        (None, _) => refuse(format!("{version:?} is not a version, like 1.0.2")),
        (Some([1, minor, _]), Some([_, newest, _])) if minor <= newest => Ok(()),
        (Some([0, ..]), _) => refuse(format!("{version:?} is from before version 1 of the spec")),
        (Some(_), _) => refuse(format!(
            "{version:?} is newer than {}, the newest that is known",
            crate::spec::VERSION
        )),
    }
}

fn unsupported(spec: &Spec) -> Result<(), Error> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let label = linux.mount_label().as_ref().is_some_and(|label| !label.is_empty());
    let asked = [
        ("linux.mountLabel", label),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|all| !all.is_empty())),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|all| !all.is_empty())),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(Error::Unsupported { what: (*field).to_owned() }),
        None => Ok(()),
    }
}

fn user_maps(
    namespaces: &Namespaces,
    uid_map: &[LinuxIdMapping],
    gid_map: &[LinuxIdMapping],
) -> Result<(), Error> {
    let mapped = !uid_map.is_empty() || !gid_map.is_empty();
    if namespaces.new & ns::USER == 0 {
        if mapped && !namespaces.has(ns::USER) {
            return Err(refuse("linux.uidMappings", "needs a user namespace"));
        }
        return Ok(());
    }
    for (field, map) in [("linux.uidMappings", uid_map), ("linux.gidMappings", gid_map)] {
        if map.is_empty() {
            return Err(refuse(field, "is needed with a new user namespace"));
        }
        for (index, one) in map.iter().enumerate() {
            let at = format!("{field}[{index}]");
            if one.size() == 0 {
                return Err(refuse(at, "maps nothing"));
            }
            let overlap = |a: u32, b: u32, other: &LinuxIdMapping| {
                u64::from(a) < u64::from(b) + u64::from(other.size())
                    && u64::from(b) < u64::from(a) + u64::from(one.size())
            };
            for other in &map[..index] {
                if overlap(one.container_id(), other.container_id(), other)
                    || overlap(one.host_id(), other.host_id(), other)
                {
                    return Err(refuse(at, "overlaps an earlier mapping"));
                }
            }
        }
    }
    Ok(())
}

fn propagation(word: Option<&str>) -> Result<Option<u64>, Error> {
    match word {
        None | Some("") => Ok(None),
        Some(word) => {
            root_propagation(word).map(|bits| Some(bits | (bits & ms::REC))).ok_or_else(|| {
                refuse("linux.rootfsPropagation", format!("{word:?} is no propagation"))
            })
        }
    }
}

fn paths<'a>(field: &str, list: Option<&'a [String]>) -> Result<&'a [String], Error> {
    let list = list.unwrap_or(&[]);
    match list.iter().position(|path| !path.starts_with('/')) {
        Some(index) => Err(refuse(format!("{field}[{index}]"), "must be an absolute path")),
        None => Ok(list),
    }
}

fn mounts(spec: &[Mount], bundle: &Path) -> Result<Vec<MountPlan>, Error> {
    spec.iter().enumerate().map(|(index, mount)| one_mount(index, mount, bundle)).collect()
}

fn one_mount(index: usize, mount: &Mount, bundle: &Path) -> Result<MountPlan, Error> {
    let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or(&[]));
    if options.copy_up {
        return Err(Error::Unsupported { what: format!("mounts[{index}].options: tmpcopyup") });
    }
    let kind = match mount.typ().as_deref().unwrap_or("") {
        "bind" => MountKind::Bind,
        _ if options.bind.is_some() => MountKind::Bind,
        "proc" => MountKind::Proc,
        "sysfs" => MountKind::Sysfs,
        "tmpfs" => MountKind::Tmpfs,
        "devpts" => MountKind::DevPts,
        "mqueue" => MountKind::Mqueue,
        "cgroup" | "cgroup2" => MountKind::Cgroup,
        "" | "none" => return Err(refuse(format!("mounts[{index}].type"), "is needed")),
        other => MountKind::Other(other.to_owned()),
    };
    if options.idmap.is_some()
        || mount.uid_mappings().as_ref().is_some_and(|map| !map.is_empty())
        || mount.gid_mappings().as_ref().is_some_and(|map| !map.is_empty())
    {
        return Err(Error::Unsupported { what: format!("mounts[{index}]: id-mapped mounts") });
    }
    if kind != MountKind::Bind {
        options.flatten();
    }
    if kind == MountKind::Bind && !options.data.is_empty() {
        let words = options.data.join(",");
        let reason = format!("{words:?} means nothing for a bind mount");
        return Err(refuse(format!("mounts[{index}].options"), reason));
    }
    let source = match mount.source() {
        Some(source) if kind == MountKind::Bind => bundle.join(source),
        Some(source) => source.clone(),
        None if kind == MountKind::Bind => {
            return Err(refuse(format!("mounts[{index}].source"), "is needed for a bind mount"));
        }
        None => PathBuf::from("none"),
    };
    // Old specs have relative destinations; the spec has them start at the root.
    let destination = Path::new("/").join(mount.destination());
    if destination.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(refuse(format!("mounts[{index}].destination"), "has \"..\" in it"));
    }
    if destination == Path::new("/") {
        return Err(refuse(format!("mounts[{index}].destination"), "is the root itself"));
    }
    Ok(MountPlan { destination, kind, source, options })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(json: &str) -> String {
        let spec: Spec = serde_json::from_str(json).expect("json");
        match Plan::parse(&spec, "a", Path::new("/b")) {
            Err(Error::Spec { field, .. }) => field,
            Err(Error::Unsupported { what }) => what,
            other => panic!("{other:?}"),
        }
    }

    const PROCESS: &str = r#""process":{"user":{},"cwd":"/","args":["x"]}"#;

    fn with_linux(linux: &str) -> String {
        field(&format!(
            r#"{{"ociVersion":"1.0.2",{PROCESS},"linux":{{"namespaces":[{{"type":"mount"}}],{linux}}}}}"#
        ))
    }

    #[test]
    fn a_spec_that_makes_no_sense_is_refused_with_the_fields_path() {
        assert_eq!(field(r#"{"ociVersion":"2.0.0"}"#), "ociVersion");
        assert_eq!(field(r#"{"ociVersion":"1.0.2"}"#), "process");
        assert_eq!(field(&format!(r#"{{"ociVersion":"1.0.2",{PROCESS}}}"#)), "linux");
        assert_eq!(with_linux(r#""maskedPaths":["x"]"#), "linux.maskedPaths[0]");
        assert_eq!(with_linux(r#""cgroupsPath":"/../x""#), "linux.cgroupsPath");
        assert_eq!(with_linux(r#""rootfsPropagation":"x""#), "linux.rootfsPropagation");
        assert_eq!(
            with_linux(r#""sysctl":{"vm.swappiness":"1"}"#),
            r#"linux.sysctl["vm.swappiness"]"#
        );
        let mount = |mount: &str| {
            field(&format!(
                r#"{{"ociVersion":"1.0.2",{PROCESS},"mounts":[{mount}],
                "linux":{{"namespaces":[{{"type":"mount"}}]}}}}"#
            ))
        };
        assert_eq!(mount(r#"{"destination":"/x","options":["bind"]}"#), "mounts[0].source");
        assert_eq!(mount(r#"{"destination":"/a/../..","type":"tmpfs"}"#), "mounts[0].destination");
        assert_eq!(
            mount(r#"{"destination":"/a","source":"/b","options":["bind","size=1"]}"#),
            "mounts[0].options"
        );
    }

    #[test]
    fn mappings_may_not_overlap() {
        let json = format!(
            r#"{{"ociVersion":"1.0.2",{PROCESS},"linux":{{
            "namespaces":[{{"type":"mount"}},{{"type":"user"}}],
            "uidMappings":[{{"containerID":0,"hostID":1000,"size":10}},{{"containerID":5,"hostID":5000,"size":1}}],
            "gidMappings":[{{"containerID":0,"hostID":1000,"size":10}}]}}}}"#
        );
        assert_eq!(field(&json), "linux.uidMappings[1]");
    }
}
