//! What only cgroup v2 has.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::Dir;
use crate::error::{ErrorKind, Failure, Step};
use crate::logic::device_program;
use crate::logic::devices::Rule;
use crate::spec::LinuxResources;
use crate::sys::{bpf, no};

/// On v2 one file has quota and period, and swap's limit is counted from memory's: what was not
/// named is as it is now.
pub(super) fn completed(dir: &Dir, resources: &LinuxResources) -> LinuxResources {
    let mut resources = resources.clone();
    let read = |file: &str| fs::read_to_string(dir.path.join(file)).unwrap_or_default();
    if let Some(mut cpu) = resources.cpu().clone() {
        let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
        if (quota == 0) != (period == 0) {
            let text = read("cpu.max");
            let mut words = text.split_whitespace();
            let (now_quota, now_period) = (words.next(), words.next());
            if quota == 0 {
                cpu.set_quota(now_quota.map(|word| word.parse().unwrap_or(-1)));
            } else {
                cpu.set_period(now_period.and_then(|word| word.parse().ok()));
            }
            resources.set_cpu(Some(cpu));
        }
    }
    if let Some(mut memory) = *resources.memory()
        && memory.swap().is_some_and(|swap| swap > 0)
        && memory.limit().is_none_or(|limit| limit == 0)
    {
        memory.set_limit(read("memory.max").trim().parse().ok());
        resources.set_memory(Some(memory));
    }
    resources
}

/// A limit below what is in use kills; whoever does not want that asks to look first.
pub(super) fn check_usage(dir: &Dir, resources: &LinuxResources) -> Result<(), Failure> {
    let Some(memory) = resources.memory() else { return Ok(()) };
    if memory.check_before_update() != Some(true) {
        return Ok(());
    }
    let text = fs::read_to_string(dir.path.join("memory.current")).unwrap_or_default();
    let usage: i64 = text.trim().parse().unwrap_or(0);
    for (what, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
        if let Some(limit) = limit.filter(|limit| *limit > 0 && *limit < usage) {
            let text = format!("rejecting {what} limit {limit} < usage {usage}");
            return Err(Failure::new(ErrorKind::Precondition, "linux.resources.memory", text));
        }
    }
    Ok(())
}

/// Attaches the rules as a program to the cgroup.
pub(super) fn restrict_devices(dir: &Dir, rules: &[Rule], rootless: bool) -> Result<(), Failure> {
    let Some(code) = device_program::program(rules) else { return Ok(()) };
    let cgroup = fs::File::open(&dir.path).step(|| "open the container's cgroup")?;
    let program = match bpf::load_device_program(&code) {
        // An ordinary user has no say in devices, nor any to give away.
        Err(e) if e.raw_os_error() == Some(no::EPERM) && rootless => return Ok(()),
        program => program.step(|| "load the device program")?,
    };
    bpf::attach_device_program(cgroup.as_fd(), program.as_fd())
        .step(|| "attach the device program to the cgroup")
}

/// What the kernel says may be given to another user.
pub(super) fn hand_over(dir: &Path, owner: u32) -> io::Result<()> {
    let list = fs::read_to_string("/sys/kernel/cgroup/delegate")
        .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
    std::os::unix::fs::chown(dir, Some(owner), None)?;
    for file in list.lines() {
        match std::os::unix::fs::chown(dir.join(file), Some(owner), None) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

/// Hands every controller down to the container's cgroup. What can't be handed down shows when a
/// limit of it is written.
pub(super) fn enable_controllers(dir: &Dir) {
    let Ok(below) = dir.path.strip_prefix(&dir.mount) else { return };
    let mut at = dir.mount.clone();
    for name in below.components() {
        let read = |file: &str| fs::read_to_string(at.join(file)).unwrap_or_default();
        let (all, on) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
        let missing = all.split_whitespace().filter(|c| !on.split_whitespace().any(|o| o == *c));
        let missing: Vec<String> = missing.map(|c| format!("+{c}")).collect();
        let file = at.join("cgroup.subtree_control");
        // Together in one write; one by one only if that is refused.
        if !missing.is_empty() && fs::write(&file, missing.join(" ")).is_err() {
            for one in &missing {
                let _ = fs::write(&file, one);
            }
        }
        at.push(name);
    }
}

/// Where a process is in the v2 hierarchy.
pub(crate) fn unified_place_of(pid: i32, mount: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let place = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!place.starts_with("..")).then(|| mount.join(place))
}
