//! What a world leaves on the machine, as the kernel and /proc tell it.
//!
//! A world puts its mark into all that it makes: its folder's name and its cgroup parent's name. So
//! tests that run at the same time can tell their own leaks from the others' work.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// Names that only one world uses.
#[derive(Clone, Debug)]
pub struct Mark {
    /// "/tmp/w-1a2b3c"
    pub folder: PathBuf,
    /// "wharf-test-1a2b3c", directly under each hierarchy's root.
    pub cgroup: String,
}

/// One thing that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trace {
    /// A line of the mount table.
    Mount(String),
    /// A cgroup's folder.
    Cgroup(PathBuf),
    /// A process that runs in the world's cgroups, in its folder or with it on its command line.
    Process {
        /// Its pid.
        pid: i32,
        /// Its command line, or its name.
        command: String,
    },
    /// A loop device over a file of the world.
    Loop(PathBuf),
    /// A bound unix socket.
    Socket(String),
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(line) => write!(f, "mount: {line}"),
            Self::Cgroup(path) => write!(f, "cgroup: {}", path.display()),
            Self::Process { pid, command } => write!(f, "process {pid}: {command}"),
            Self::Loop(path) => write!(f, "loop device: {}", path.display()),
            Self::Socket(path) => write!(f, "socket: {path}"),
        }
    }
}

/// Where cgroup hierarchies are mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl Mark {
    /// All that bears the mark now. Network namespaces show up as the mount or the process that
    /// keeps them; one that neither keeps is gone.
    #[must_use]
    pub fn traces(&self) -> Vec<Trace> {
        let mut found = self.mounts();
        found.extend(self.cgroups().into_iter().map(Trace::Cgroup));
        found.extend(self.processes());
        found.extend(self.loops());
        found.extend(self.sockets());
        found
    }

    fn folder_text(&self) -> &str {
        self.folder.to_str().unwrap_or_default()
    }

    fn owns(&self, text: &str) -> bool {
        text.contains(self.folder_text()) || text.contains(&self.cgroup)
    }

    fn mounts(&self) -> Vec<Trace> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        table.lines().filter(|l| self.owns(l)).map(|l| Trace::Mount(l.to_owned())).collect()
    }

    /// Mount points of the world in this mount namespace, the innermost first.
    #[must_use]
    pub fn mount_points(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let point = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
        let mut points: Vec<_> =
            table.lines().filter_map(point).filter(|p| p.starts_with(&self.folder)).collect();
        points.reverse();
        points
    }

    /// The world's cgroups under every hierarchy, a parent after its children.
    #[must_use]
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new(CGROUP_ROOT);
        let hierarchies = folders(root).into_iter().chain([root.to_owned()]);
        let mut found = Vec::new();
        for hierarchy in hierarchies {
            let top = hierarchy.join(&self.cgroup);
            if top.is_dir() {
                collect(&top, &mut found);
            }
        }
        found
    }

    /// Processes of the world: container processes by their cgroup, all others by what they were
    /// started with or where they are.
    #[must_use]
    pub fn processes(&self) -> Vec<Trace> {
        let me = std::process::id();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != me)
            .filter_map(|pid| self.process(pid))
            .collect()
    }

    fn process(&self, pid: u32) -> Option<Trace> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let text = |name: &str| {
            let bytes = fs::read(folder.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
        };
        let link = |name: &str| {
            fs::read_link(folder.join(name)).map(|p| p.display().to_string()).unwrap_or_default()
        };
        let command = text("cmdline");
        let ours = self.owns(&command)
            || self.owns(&text("cgroup"))
            || ["cwd", "root", "exe"].iter().any(|name| self.owns(&link(name)))
            || self.owns(&text("environ"));
        let command = if command.is_empty() { format!("[{}]", text("comm")) } else { command };
        ours.then_some(Trace::Process { pid: i32::try_from(pid).ok()?, command })
    }

    fn loops(&self) -> Vec<Trace> {
        folders(Path::new("/sys/block"))
            .into_iter()
            .filter(|device| {
                let file = device.join("loop/backing_file");
                fs::read_to_string(file).is_ok_and(|path| self.owns(&path))
            })
            .map(Trace::Loop)
            .collect()
    }

    fn sockets(&self) -> Vec<Trace> {
        let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        let mut paths: Vec<_> = table
            .lines()
            .filter_map(|line| line.split_whitespace().nth(7))
            .filter(|path| self.owns(path))
            .map(str::to_owned)
            .collect();
        // Each accepted connection is a line with the same path.
        paths.sort_unstable();
        paths.dedup();
        paths.into_iter().map(Trace::Socket).collect()
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for child in folders(folder) {
        collect(&child, found);
    }
    found.push(folder.to_owned());
}

/// Every path under a folder, relative to it, sorted.
#[must_use]
pub fn tree(folder: &Path) -> Vec<PathBuf> {
    fn walk(folder: &Path, top: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            found.push(path.strip_prefix(top).unwrap_or(&path).to_owned());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&path, top, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort_unstable();
    found
}
