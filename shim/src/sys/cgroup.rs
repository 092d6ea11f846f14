//! What the kernel tells of a container's cgroup: figures, and the word that memory ran out.
//!
//! Reads only: the runtime makes the cgroup, changes its limits and removes it. But for the shim's
//! own place, see [`enter`].

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::SysError;

/// The folders of one process' cgroup.
#[derive(Debug, Default)]
pub(crate) struct Cgroup {
    /// By version 1 controller; the empty name is version 2's.
    folders: BTreeMap<String, PathBuf>,
}

/// Which version answers for memory, processor and pids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

impl Cgroup {
    pub(crate) fn of(pid: i32) -> Result<Self, SysError> {
        let read = |path: String| {
            std::fs::read_to_string(&path).map_err(|source| SysError::new("read", path, source))
        };
        let mounts = read("/proc/self/mountinfo".to_owned())?;
        let places = read(format!("/proc/{pid}/cgroup"))?;
        Ok(Self { folders: locate(&mounts, &places) })
    }

    pub(crate) fn version(&self) -> Version {
        if self.folders.contains_key("memory") { Version::V1 } else { Version::V2 }
    }

    fn folder(&self, controller: &str) -> Option<&Path> {
        self.folders.get(controller).map(PathBuf::as_path)
    }

    /// A file with one number. Absent files and "max" are `None`.
    pub(crate) fn number(&self, controller: &str, file: &str) -> Option<u64> {
        let path = self.folder(controller)?.join(file);
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// A file as it is; absent ones are `None`.
    pub(crate) fn text(&self, controller: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(self.folder(controller)?.join(file)).ok()
    }

    /// A file of names and numbers.
    pub(crate) fn table(&self, controller: &str, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(controller, file).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let (name, value) = line.split_once(' ')?;
                Some((name.to_owned(), value.trim().parse().ok()?))
            })
            .collect()
    }
}

/// Moves this process to a cgroup of that path, in every hierarchy; made where it is not there.
pub(crate) fn enter(path: &str) -> Result<(), SysError> {
    use std::path::Component;

    let failed = |at: &Path, source| SysError::new("enter", at.display().to_string(), source);
    let below: PathBuf =
        Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let named = "/proc/self/mountinfo";
    let mounts = std::fs::read_to_string(named).map_err(|e| SysError::new("read", named, e))?;
    for point in points(&mounts) {
        let folder = Path::new(point).join(&below);
        std::fs::create_dir_all(&folder).map_err(|source| failed(&folder, source))?;
        // A new cpuset has neither processors nor memory, and takes nobody before it has.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(of_root) = std::fs::read(Path::new(point).join(file)) {
                let own = folder.join(file);
                if std::fs::read(&own).is_ok_and(|own| own.trim_ascii().is_empty()) {
                    std::fs::write(&own, of_root).map_err(|source| failed(&own, source))?;
                }
            }
        }
        let file = folder.join("cgroup.procs");
        std::fs::write(&file, "0").map_err(|source| failed(&file, source))?;
    }
    Ok(())
}

/// Where hierarchies are mounted, each once.
fn points(mounts: &str) -> Vec<&str> {
    let mut seen = Vec::new();
    let mut points = Vec::new();
    for line in mounts.lines() {
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let mut head = head.split(' ').skip(2);
        let (Some(device), Some(_), Some(point)) = (head.next(), head.next(), head.next()) else {
            continue;
        };
        let is_hierarchy = tail.starts_with("cgroup ") || tail.starts_with("cgroup2 ");
        if is_hierarchy && !seen.contains(&device) {
            seen.push(device);
            points.push(point);
        }
    }
    points
}

/// From mountinfo and a process' cgroup file to folders.
fn locate(mounts: &str, places: &str) -> BTreeMap<String, PathBuf> {
    let mut folders = BTreeMap::new();
    for place in places.lines() {
        let mut fields = place.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',') {
            if let Some((root, point)) = mount_of(mounts, controller) {
                let inside = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
                let folder = Path::new(point).join(inside.trim_start_matches('/'));
                folders.insert(controller.to_owned(), folder);
            }
        }
    }
    folders
}

/// Root and mount point of a controller's hierarchy.
fn mount_of<'a>(mounts: &'a str, controller: &str) -> Option<(&'a str, &'a str)> {
    mounts.lines().find_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let mut tail = tail.split(' ');
        let kind = tail.next()?;
        let options = tail.nth(1)?;
        let is_it = match (kind, controller) {
            ("cgroup2", "") => true,
            ("cgroup", name) if !name.is_empty() => options.split(',').any(|option| option == name),
            _ => false,
        };
        let mut head = head.split(' ').skip(3);
        is_it.then_some((head.next()?, head.next()?))
    })
}

/// Becomes readable when the kernel has killed a process of the cgroup for want of memory, or on
/// version 2 when any count of its memory events changes.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    fd: OwnedFd,
}

impl MemoryWatch {
    pub(crate) fn new(cgroup: &Cgroup) -> Result<Self, SysError> {
        match cgroup.version() {
            Version::V1 => Self::eventfd(cgroup),
            Version::V2 => Self::inotify(cgroup),
        }
    }

    fn eventfd(cgroup: &Cgroup) -> Result<Self, SysError> {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        use std::os::fd::AsRawFd as _;

        let folder = cgroup.folder("memory").unwrap_or(Path::new("/"));
        let failed = |source: std::io::Error| {
            SysError::new("watch memory of", folder.display().to_string(), source)
        };
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let control = std::fs::File::open(folder.join("memory.oom_control")).map_err(failed)?;
        let order = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        std::fs::write(folder.join("cgroup.event_control"), order).map_err(failed)?;
        Ok(Self { fd: event.into() })
    }

    fn inotify(cgroup: &Cgroup) -> Result<Self, SysError> {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

        let path = cgroup.folder("").unwrap_or(Path::new("/")).join("memory.events");
        let failed = |errno| SysError::new("watch", path.display().to_string(), errno);
        let inotify =
            Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        inotify.add_watch(&path, AddWatchFlags::IN_MODIFY).map_err(failed)?;
        Ok(Self { fd: inotify.into() })
    }

    /// Takes the word: not readable until the next.
    pub(crate) fn clear(&self) {
        let mut buffer = [0; 512];
        while matches!(super::pipes::read(&self.fd, &mut buffer), Ok(Some(1..))) {}
    }
}

impl AsFd for MemoryWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::locate;
    use std::path::Path;

    #[test]
    fn hybrid_hierarchies() {
        let mounts = "\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 30 0:32 /outer /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
";
        let all = super::points(mounts);
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all.contains(&"/sys/fs/cgroup/unified"), "{all:?}");
        let places = "5:memory:/wharf/a\n4:cpu,cpuacct:/outer/wharf/a\n0::/wharf/a\n";
        let folders = locate(mounts, places);
        for (controller, folder) in [
            ("memory", "/sys/fs/cgroup/memory/wharf/a"),
            ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct/wharf/a"),
            ("", "/sys/fs/cgroup/unified/wharf/a"),
        ] {
            assert_eq!(folders.get(controller).map(AsRef::as_ref), Some(Path::new(folder)));
        }
    }
}
