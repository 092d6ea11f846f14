//! What a supervisor and its containers have in the kernel, seen from outside: shims, cgroups and
//! mounts; and how to take away what is nobody's. All of it blocks.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::processes;

const HIERARCHIES: &str = "/sys/fs/cgroup";
/// How long killed processes may take to be gone.
const DYING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// A process that works in the folder of a bundle: a shim, or what it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimProcess {
    /// On the host.
    pub pid: u32,
    /// When it was started: with the pid, its name for all time.
    pub start_ticks: u64,
    /// The bundle's folder.
    pub bundle: PathBuf,
}

/// Processes whose working folder is a bundle below `bundles`.
#[must_use]
pub fn shims(bundles: &Path) -> Vec<ShimProcess> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            // In a mount namespace of its own a process' paths are not the host's.
            let same = |name: &str| fs::read_link(format!("/proc/{name}/ns/mnt")).ok();
            if folder.parent() != Some(bundles) || same(&pid.to_string()) != same("self") {
                return None;
            }
            let start_ticks = processes::start_ticks(pid)?;
            Some(ShimProcess { pid, start_ticks, bundle: folder })
        })
        .collect()
}

/// Cgroups of containers below `parent`, in all hierarchies: name and folder.
#[must_use]
pub fn cgroups(parent: &str) -> Vec<(String, PathBuf)> {
    let root = Path::new(HIERARCHIES);
    let below = folders(root);
    let mut found = Vec::new();
    for hierarchy in below.iter().map(PathBuf::as_path).chain([root]) {
        for folder in folders(&hierarchy.join(parent.trim_start_matches('/'))) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push((name, folder));
        }
    }
    found
}

/// Processes of a cgroup and of those below it.
#[must_use]
pub fn processes_of(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    for folder in folders(cgroup) {
        pids.extend(processes_of(&folder));
    }
    pids
}

/// Kills all processes of a cgroup and removes it.
///
/// # Errors
/// When processes don't die, or the kernel refuses.
pub fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    let end = Instant::now() + DYING;
    loop {
        let pids = processes_of(cgroup);
        for pid in &pids {
            // Looked at again after it is held, so that it is still the one of the cgroup.
            let Some(handle) = open(*pid) else { continue };
            if processes_of(cgroup).contains(pid) {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
        if pids.is_empty() {
            match remove_tree(cgroup) {
                // A process that is being taken apart by the kernel.
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {}
                other => return other,
            }
        } else if Instant::now() > end {
            return Err(io::Error::other(format!("processes {pids:?} do not end")));
        }
        std::thread::sleep(PAUSE);
    }
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for folder in folders(cgroup) {
        remove_tree(&folder)?;
    }
    match fs::remove_dir(cgroup) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Kills a shim, if it is still that process, and waits until it is gone.
///
/// # Errors
/// When it does not die.
pub fn kill(process: &ShimProcess) -> io::Result<()> {
    let Some(handle) = open(process.pid) else { return Ok(()) };
    let same = || processes::start_ticks(process.pid) == Some(process.start_ticks);
    if !same() {
        return Ok(());
    }
    pidfd_send_signal(&handle, Signal::KILL)?;
    let end = Instant::now() + DYING;
    let link = format!("/proc/{}/cwd", process.pid);
    // One that nobody reaps has no working folder any more.
    while same() && fs::read_link(&link).is_ok() {
        if Instant::now() > end {
            return Err(io::Error::other(format!("process {} does not end", process.pid)));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn open(pid: u32) -> Option<std::os::fd::OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Mount points below one of `folders`, the innermost first.
#[must_use]
pub fn mounts(folders: &[PathBuf]) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let point = |line: &str| line.split(' ').nth(4).map(|text| PathBuf::from(plain(text)));
    let below = |point: &PathBuf| folders.iter().any(|f| point.starts_with(f) && point != f);
    let mut points: Vec<PathBuf> = table.lines().filter_map(point).filter(below).collect();
    points.reverse();
    points
}

/// The table writes blanks and backslashes in octal.
fn plain(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Takes a mount away from where it is; what uses it keeps it.
///
/// # Errors
/// When the kernel refuses.
pub fn detach(point: &Path) -> io::Result<()> {
    Ok(unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let real = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter(real).map(|entry| entry.path()).collect()
}
