//! A whole spec, checked and in the runtime's own words: made before anything is touched.

use std::path::{Path, PathBuf};

use crate::spec::{
    LinuxIdMapping, LinuxPersonality, LinuxPersonalityDomain, LinuxResources, LinuxSeccomp, Mount,
    Spec,
};

use super::devices::{self, Node, Rule};
use super::memory_policy::{self, MemoryPolicy};
use super::mount_options::{MountOptions, ms, root_propagation};
use super::namespaces::Namespaces;
use super::net_devices::{self, NetDevice};
use super::process_plan::ProcessPlan;
use super::rdt::{self, RdtPlan};
use super::seccomp::{self, Filter};
use super::{cgroup_layout, sysctl, time_offsets};
use crate::error::Error;
use crate::sys::mount::Depth;
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
    pub(crate) idmap: Option<IdMap>,
    /// Where a bind's source is in the container's own root, if an earlier mount brings it.
    pub(crate) own_source: Option<PathBuf>,
}

impl MountPlan {
    /// How much of a bind's source is taken.
    pub(crate) fn depth(&self) -> Depth {
        if self.options.bind == Some(true) { Depth::Tree } else { Depth::One }
    }
}

/// As whom the owners of a mount's files are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap {
    pub(crate) uids: Vec<LinuxIdMapping>,
    pub(crate) gids: Vec<LinuxIdMapping>,
    /// Of a user namespace that the container joins, in place of both.
    pub(crate) joined: Option<PathBuf>,
    /// In the mounts below, too.
    pub(crate) recursive: bool,
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
    /// Lines for the clocks of a new time namespace.
    pub(crate) time_offsets: Option<String>,
    pub(crate) memory_policy: Option<MemoryPolicy>,
    pub(crate) net_devices: Vec<NetDevice>,
    pub(crate) rdt: Option<RdtPlan>,
    /// SELinux' context for what is mounted.
    pub(crate) mount_label: Option<&'a str>,
    /// What is left out, for the log.
    pub(crate) left_out: Vec<String>,
}

fn refuse(field: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Spec { field: field.into(), reason: reason.into() }
}

impl<'a> Plan<'a> {
    /// Checks and converts a spec.
    pub(crate) fn parse(spec: &'a Spec, id: &str, bundle: &Path) -> Result<Self, Error> {
        Self::parse_with(spec, id, bundle, &seccomp::compile)
    }

    /// The same with another way from a seccomp profile to the same program.
    pub(crate) fn parse_with(
        spec: &'a Spec,
        id: &str,
        bundle: &Path,
        compile: &dyn Fn(&LinuxSeccomp) -> Result<Filter, Error>,
    ) -> Result<Self, Error> {
        version(spec.version())?;
        let process = spec
            .process()
            .as_ref()
            .ok_or_else(|| refuse("process", "is needed to run anything"))?;
        let linux = spec.linux().as_ref().ok_or_else(|| refuse("linux", "is needed on Linux"))?;
        let namespaces = Namespaces::parse(linux.namespaces().as_deref().unwrap_or(&[]))?;
        if !namespaces.has(ns::MOUNT) && namespaces.has(ns::USER) {
            let what = "linux.namespaces: user without mount: its root may not mount anything";
            return Err(Error::Unsupported { what: what.to_owned() });
        }
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
        let joined = namespaces.join.iter().find(|(kind, _)| *kind == ns::USER);
        let joined = joined.map(|(_, path)| path.as_path());
        let own_maps = Maps { uids: uid_map, gids: gid_map, joined };
        Ok(Self {
            process: ProcessPlan::parse(process, "process")?,
            mounts: mounts(spec.mounts().as_deref().unwrap_or(&[]), bundle, &own_maps)?,
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
            personality: linux.personality().as_ref().map(personality).transpose()?,
            time_offsets: time_offsets::parse(linux.time_offsets().as_ref(), &namespaces)?,
            memory_policy: linux.memory_policy().as_ref().map(memory_policy::parse).transpose()?,
            net_devices: net_devices::parse(linux.net_devices().as_ref(), &namespaces)?,
            rdt: linux.intel_rdt().as_ref().map(rdt::parse).transpose()?,
            mount_label: linux.mount_label().as_deref().filter(|label| !label.is_empty()),
            left_out: left_out(spec),
            seccomp: linux.seccomp().as_ref().map(compile).transpose()?,
            namespaces,
        })
    }

    /// With the root's place known: destinations that name it are below it, as for runc; and a bind
    /// may show again what a mount before it has brought.
    pub(crate) fn adopt_root(&mut self, root: &Path) {
        for index in 0..self.mounts.len() {
            let (before, rest) = self.mounts.split_at_mut(index);
            let Some(one) = rest.first_mut() else { continue };
            if let Ok(below) = one.destination.strip_prefix(root)
                && !below.as_os_str().is_empty()
            {
                one.destination = Path::new("/").join(below);
            }
            if one.kind != MountKind::Bind {
                continue;
            }
            let Ok(place) = one.source.strip_prefix(root) else { continue };
            let place = Path::new("/").join(place);
            if before.iter().any(|other| place.starts_with(&other.destination)) {
                one.own_source = Some(place);
            }
        }
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

fn personality(spec: &LinuxPersonality) -> Result<u64, Error> {
    if spec.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(refuse("linux.personality.flags[0]", "the spec knows no flag yet"));
    }
    Ok(match spec.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// Sections of other platforms mean nothing here, and are said to.
fn left_out(spec: &Spec) -> Vec<String> {
    let sections = [
        ("windows", spec.windows()),
        ("solaris", spec.solaris()),
        ("zos", spec.zos()),
        ("freebsd", spec.freebsd()),
        ("vm", spec.vm()),
    ];
    let there = sections.iter().filter(|(_, section)| section.is_some());
    there.map(|(name, _)| format!("{name}: is of another platform, and left out")).collect()
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
        one_map(field, map)?;
    }
    Ok(())
}

/// No id is mapped twice, on either side.
fn one_map(field: &str, map: &[LinuxIdMapping]) -> Result<(), Error> {
    for (index, one) in map.iter().enumerate() {
        let at = format!("{field}[{index}]");
        if one.size() == 0 {
            return Err(refuse(at, "maps nothing"));
        }
        let beyond = |first: u32| u64::from(first) + u64::from(one.size()) > 1 << 32;
        if beyond(one.container_id()) || beyond(one.host_id()) {
            return Err(refuse(at, "ends beyond the last id"));
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

/// The container's own mapping of ids.
struct Maps<'a> {
    uids: &'a [LinuxIdMapping],
    gids: &'a [LinuxIdMapping],
    /// The user namespace that is joined.
    joined: Option<&'a Path>,
}

fn mounts(spec: &[Mount], bundle: &Path, own: &Maps<'_>) -> Result<Vec<MountPlan>, Error> {
    spec.iter().enumerate().map(|(index, mount)| one_mount(index, mount, bundle, own)).collect()
}

fn one_mount(
    index: usize,
    mount: &Mount,
    bundle: &Path,
    own: &Maps<'_>,
) -> Result<MountPlan, Error> {
    let at = |field: &str| format!("mounts[{index}].{field}");
    let mut options = MountOptions::parse(mount.options().as_deref().unwrap_or(&[]));
    let kind = match mount.typ().as_deref().unwrap_or("") {
        "bind" => MountKind::Bind,
        _ if options.bind.is_some() => MountKind::Bind,
        "proc" => MountKind::Proc,
        "sysfs" => MountKind::Sysfs,
        "tmpfs" => MountKind::Tmpfs,
        "devpts" => MountKind::DevPts,
        "mqueue" => MountKind::Mqueue,
        "cgroup" | "cgroup2" => MountKind::Cgroup,
        "" | "none" => return Err(refuse(at("type"), "is needed")),
        other => MountKind::Other(other.to_owned()),
    };
    if options.copy_up && kind != MountKind::Tmpfs {
        return Err(refuse(at("options"), "tmpcopyup is for a tmpfs"));
    }
    let idmap = idmap(index, mount, &options, &kind, own)?;
    if kind != MountKind::Bind {
        options.flatten();
    }
    if kind == MountKind::Bind && !options.data.is_empty() {
        let words = options.data.join(",");
        return Err(refuse(at("options"), format!("{words:?} means nothing for a bind mount")));
    }
    let source = match mount.source() {
        Some(source) if kind == MountKind::Bind => bundle.join(source),
        Some(source) => source.clone(),
        None if kind == MountKind::Bind => {
            return Err(refuse(at("source"), "is needed for a bind mount"));
        }
        None => PathBuf::from("none"),
    };
    // Old specs have relative destinations; the spec has them start at the root.
    let destination = Path::new("/").join(mount.destination());
    if destination.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(refuse(at("destination"), "has \"..\" in it"));
    }
    if destination == Path::new("/") {
        return Err(refuse(at("destination"), "is the root itself"));
    }
    Ok(MountPlan { destination, kind, source, options, idmap, own_source: None })
}

fn idmap(
    index: usize,
    mount: &Mount,
    options: &MountOptions,
    kind: &MountKind,
    own: &Maps<'_>,
) -> Result<Option<IdMap>, Error> {
    let at = |field: &str| format!("mounts[{index}].{field}");
    let list = |spec: &Option<Vec<LinuxIdMapping>>| spec.clone().unwrap_or_default();
    let (uids, gids) = (list(mount.uid_mappings()), list(mount.gid_mappings()));
    let (uids, gids) = match (options.idmap, uids.is_empty(), gids.is_empty()) {
        (None, true, true) => return Ok(None),
        (Some(_), true, true) if own.joined.is_some() => (Vec::new(), Vec::new()),
        (Some(_), true, true) if own.uids.is_empty() => {
            let reason = "idmap needs uidMappings and gidMappings, or a new user namespace's";
            return Err(refuse(at("options"), reason));
        }
        (Some(_), true, true) => (own.uids.to_vec(), own.gids.to_vec()),
        (_, true, false) => return Err(refuse(at("uidMappings"), "is needed with gidMappings")),
        (_, false, true) => return Err(refuse(at("gidMappings"), "is needed with uidMappings")),
        (_, false, false) => (uids, gids),
    };
    if *kind != MountKind::Bind {
        return Err(refuse(at("options"), "only bind mounts can be id-mapped"));
    }
    one_map(&at("uidMappings"), &uids)?;
    one_map(&at("gidMappings"), &gids)?;
    let joined = own.joined.filter(|_| uids.is_empty()).map(Path::to_owned);
    Ok(Some(IdMap { uids, gids, joined, recursive: options.idmap == Some(true) }))
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
