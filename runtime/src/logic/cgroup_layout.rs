//! Where this host keeps its cgroups: out of `/proc/self/mountinfo`.

use std::path::{Component, Path, PathBuf};

use crate::error::Error;

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// v1: the controllers it carries (or `name=…`). v2: empty.
    pub(crate) controllers: Vec<String>,
    /// The single hierarchy of cgroup v2 (beside v1 ones on a hybrid host).
    pub(crate) unified: bool,
    pub(crate) mount: PathBuf,
}

/// Options of a v1 mount that are no controllers.
const PLAIN_OPTIONS: [&str; 7] =
    ["rw", "ro", "xattr", "clone_children", "noprefix", "favordynmods", "cpuset_v2_mode"];

/// All hierarchies, each once, in the order in which they are mounted.
pub(crate) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut all: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next().unwrap_or(""), right.nth(1).unwrap_or(""));
        // A mount of a part of a hierarchy (as inside a container) can't hold a path from its top.
        let namespaced = root.starts_with("/..");
        if root != "/" && !namespaced {
            continue;
        }
        let hierarchy = match kind {
            "cgroup2" => Hierarchy { controllers: Vec::new(), unified: true, mount: mount.into() },
            "cgroup" => Hierarchy {
                controllers: options
                    .split(',')
                    .filter(|word| !PLAIN_OPTIONS.contains(word))
                    .filter(|word| !word.starts_with("release_agent="))
                    .map(str::to_owned)
                    .collect(),
                unified: false,
                mount: mount.into(),
            },
            _ => continue,
        };
        let known = |h: &Hierarchy| {
            h.unified == hierarchy.unified && h.controllers == hierarchy.controllers
        };
        if !all.iter().any(known) {
            all.push(hierarchy);
        }
    }
    all
}

/// A container's place in a hierarchy, below the mount: the spec's path, or one made of the id.
pub(crate) fn relative_path(cgroups_path: Option<&Path>, id: &str) -> Result<PathBuf, Error> {
    let refuse = |reason: &str| {
        Err(Error::Spec { field: "linux.cgroupsPath".to_owned(), reason: reason.to_owned() })
    };
    let path = match cgroups_path {
        Some(path) if !path.as_os_str().is_empty() => path.to_owned(),
        _ => Path::new("wharf").join(id),
    };
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return refuse("has \"..\" in it"),
        }
    }
    if clean.as_os_str().is_empty() {
        return refuse("is the root of all cgroups");
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_have_both() {
        let text = "\
30 24 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,release_agent=/x,name=systemd
34 30 0:28 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct
35 30 0:28 /docker/x /inside rw - cgroup cgroup rw,memory
";
        let all = hierarchies(text);
        assert_eq!(all.len(), 3);
        assert!(all[0].unified);
        assert_eq!(all[1].controllers, ["cpu", "cpuacct"]);
        assert_eq!(all[1].mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(all[2].controllers, ["name=systemd"]);
    }

    #[test]
    fn a_path_stays_below_its_mount() {
        let of = |path: &str| relative_path(Some(Path::new(path)), "a");
        assert_eq!(of("/wharf/x").expect("plain"), Path::new("wharf/x"));
        assert_eq!(of("").expect("default"), Path::new("wharf/a"));
        assert!(of("/wharf/../../x").is_err());
        assert!(of("/").is_err());
    }
}
