//! One container's cgroups: one directory in each hierarchy of the host.
//!
//! On v2 (and in the v2 hierarchy of a hybrid host) a process is born in its cgroup. On v1 it moves
//! itself by writing 0 to `tasks`: for a process that moves its own only thread the kernel (5.5 and
//! later) does without the lock over all fork and exit, whose grace period takes milliseconds.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::spec::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::cgroup_layout::{Hierarchy, hierarchies};
use crate::logic::cgroup_v1::Write;
use crate::logic::devices::Rule;
use crate::logic::{cgroup_v1, cgroup_v2, device_program};
use crate::sys::{bpf, no, path};

/// A container's directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dir {
    pub(crate) controllers: Vec<String>,
    pub(crate) unified: bool,
    pub(crate) mount: PathBuf,
    pub(crate) path: PathBuf,
}

/// All of a container's directories. Empty where an ordinary user may make none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroup {
    pub(crate) dirs: Vec<Dir>,
}

/// The hierarchies of this host.
pub(crate) fn host() -> Result<Vec<Hierarchy>, Failure> {
    // Nearly every host today: one statfs instead of a long text.
    let top = Path::new("/sys/fs/cgroup");
    if let Ok(fd) = path::open_host(top)
        && path::fs_kind(std::os::fd::AsFd::as_fd(&fd)).ok() == Some(path::FsKind::Cgroup2)
    {
        return Ok(vec![Hierarchy { controllers: Vec::new(), unified: true, mount: top.into() }]);
    }
    let text = fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
    Ok(hierarchies(&text))
}

impl Cgroup {
    /// Makes the directories, with their limits; on failure nothing is left.
    pub(crate) fn create(
        hierarchies: &[Hierarchy],
        relative: &Path,
        resources: Option<&LinuxResources>,
        rules: &[Rule],
    ) -> Result<Self, Error> {
        let mut cgroup = Self::default();
        let made = cgroup.fill(hierarchies, relative, resources, rules);
        if made.is_err() {
            // The first failure is the one to report.
            let _ = cgroup.remove();
        }
        made.map(|()| cgroup)
    }

    fn fill(
        &mut self,
        hierarchies: &[Hierarchy],
        relative: &Path,
        resources: Option<&LinuxResources>,
        rules: &[Rule],
    ) -> Result<(), Error> {
        let pure_v2 = hierarchies.iter().all(|h| h.unified);
        for hierarchy in hierarchies {
            let dir = Dir {
                controllers: hierarchy.controllers.clone(),
                unified: hierarchy.unified,
                mount: hierarchy.mount.clone(),
                path: hierarchy.mount.join(relative),
            };
            match make(&dir.path) {
                Ok(Made::New) => self.dirs.push(dir),
                Ok(Made::WasThere) => {
                    if !pids_in(&dir.path).unwrap_or_default().is_empty() {
                        let step = format!("make cgroup {}", dir.path.display());
                        let text = "it is there already, with processes in it";
                        return Err(Failure::new(ErrorKind::AlreadyExists, step, text).into());
                    }
                    self.dirs.push(dir);
                }
                Err(error) if may_do_without(&error, resources) => return Ok(()),
                Err(error) => {
                    let done: Result<(), Failure> =
                        Err(error).step(|| format!("make cgroup {}", dir.path.display()));
                    return Ok(done?);
                }
            }
        }
        if pure_v2 && let Some(dir) = self.dirs.first() {
            enable_controllers(dir);
        }
        if let Some(cpuset) = self.with("cpuset") {
            fill_cpuset(&cpuset.mount, &cpuset.path)
                .step(|| format!("copy cpus and mems to {}", cpuset.path.display()))?;
        }
        if let Some(resources) = resources {
            self.apply(resources)?;
        }
        Ok(self.restrict_devices(rules)?)
    }

    /// The v1 directory with a controller.
    pub(crate) fn with(&self, controller: &str) -> Option<&Dir> {
        self.dirs.iter().find(|dir| dir.controllers.iter().any(|own| own == controller))
    }

    /// The directory in the v2 hierarchy.
    pub(crate) fn unified(&self) -> Option<&Dir> {
        self.dirs.iter().find(|dir| dir.unified)
    }

    /// Whether the host has nothing but v2.
    pub(crate) fn is_v2(&self) -> bool {
        !self.dirs.is_empty() && self.dirs.iter().all(|dir| dir.unified)
    }

    /// The v2 directory, to be born in.
    pub(crate) fn birthplace(&self) -> Result<Option<OwnedFd>, Failure> {
        let Some(dir) = self.unified() else { return Ok(None) };
        let fd = path::open_host(&dir.path);
        fd.map(Some).step(|| format!("open cgroup {}", dir.path.display()))
    }

    /// Moves the calling process, which has one thread, into the v1 directories.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        Self::enter_by(self.doors()?)
    }

    /// Open files by which a process enters, for one that will not be allowed to open them: the
    /// kernel asks for the rights of who opened them (5.16 and later).
    pub(crate) fn doors(&self) -> Result<Vec<fs::File>, Failure> {
        self.dirs
            .iter()
            .filter(|dir| !dir.unified)
            .map(|dir| {
                fs::OpenOptions::new()
                    .write(true)
                    .open(dir.path.join("tasks"))
                    .step(|| format!("open {}/tasks", dir.path.display()))
            })
            .collect()
    }

    /// Moves the calling process by such files.
    pub(crate) fn enter_by(doors: Vec<fs::File>) -> Result<(), Failure> {
        for mut door in doors {
            io::Write::write_all(&mut door, b"0").step(|| "enter the container's cgroup")?;
        }
        Ok(())
    }

    /// Writes limits, to a new cgroup or to one in use.
    pub(crate) fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        if self.is_v2() {
            for write in cgroup_v2::writes(resources)? {
                self.write(&write)?;
            }
            return Ok(());
        }
        if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
            let what = "linux.resources.unified: this host has cgroup v1".to_owned();
            return Err(Error::Unsupported { what });
        }
        let writes = cgroup_v1::writes(resources);
        let mut at = 0;
        while let Some(write) = writes.get(at) {
            let done = self.write(write);
            let next = writes.get(at + 1).filter(|next| next.file.contains("memsw"));
            match (done, next) {
                (Ok(()), _) => at += 1,
                // Grown past the present sum of memory and swap: the sum has to go first.
                (Err(_), Some(sum)) if write.file == "memory.limit_in_bytes" => {
                    self.write(sum)?;
                    self.write(write)?;
                    at += 2;
                }
                (Err(failure), _) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    fn write(&self, write: &Write) -> Result<(), Failure> {
        let no_limit = matches!(write.value.as_str(), "max" | "-1");
        let dir = if self.is_v2() { self.unified() } else { self.with(&write.controller) };
        let Some(dir) = dir else {
            return if no_limit { Ok(()) } else { Err(no_controller(write, "is not mounted")) };
        };
        match put(&dir.path.join(&write.file), &write.value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if no_limit {
                    Ok(())
                } else {
                    Err(no_controller(write, "has no such file here"))
                }
            }
            done => done.step(|| {
                format!(
                    "linux.resources.{}: write {} to {}",
                    write.field,
                    write.value,
                    dir.path.join(&write.file).display()
                )
            }),
        }
    }

    fn restrict_devices(&self, rules: &[Rule]) -> Result<(), Failure> {
        if self.is_v2() {
            let Some(code) = device_program::program(rules) else { return Ok(()) };
            let Some(fd) = self.unified().map(|dir| fs::File::open(&dir.path)) else {
                return Ok(());
            };
            let fd = fd.step(|| "open the container's cgroup")?;
            let program = bpf::load_device_program(&code).step(|| "load the device program")?;
            use std::os::fd::AsFd;
            return bpf::attach_device_program(fd.as_fd(), program.as_fd())
                .step(|| "attach the device program to the cgroup");
        }
        if rules.is_empty() {
            return Ok(());
        }
        let Some(dir) = self.with("devices") else {
            let text = "the controller is not mounted";
            return Err(Failure::new(ErrorKind::Unsupported, "linux.resources.devices", text));
        };
        let open = |name: &str| {
            fs::OpenOptions::new()
                .write(true)
                .open(dir.path.join(name))
                .step(|| format!("open {}/{name}", dir.path.display()))
        };
        let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
        for rule in rules.iter().flat_map(Rule::for_v1) {
            let file = if rule.allow { &mut allow } else { &mut deny };
            let line = rule.v1_line();
            io::Write::write_all(file, line.as_bytes()).step(|| {
                let verb = if rule.allow { "allow" } else { "deny" };
                format!("{verb} device {line:?} in {}", dir.path.display())
            })?;
        }
        Ok(())
    }

    /// Removes the directories, which must hold no process; cgroups that the container made below
    /// go too. What is gone already is fine.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.dirs.iter().rev().try_fold((), |(), dir| remove_tree(&dir.path))
    }
}

/// Writes a file of the kernel's, which is there or not: never made, never cut.
pub(crate) fn put(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

fn no_controller(write: &Write, how: &str) -> Failure {
    Failure::new(
        ErrorKind::Unsupported,
        format!("linux.resources.{}", write.field),
        format!("{}: the cgroup controller {} {how}", write.file, write.controller),
    )
}

/// An ordinary user without a delegated cgroup runs without one, unless limits were asked for.
fn may_do_without(error: &io::Error, resources: Option<&LinuxResources>) -> bool {
    let limits = resources.is_some_and(|r| {
        r.memory().is_some() || r.cpu().is_some() || r.pids().is_some() || r.block_io().is_some()
    });
    let refused =
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    refused && !limits && crate::sys::cred::own_uid() != 0
}

enum Made {
    New,
    WasThere,
}

fn make(path: &Path) -> io::Result<Made> {
    // Somebody may remove an empty parent between the two steps; twice is bad luck, ten is not.
    for _ in 0..10 {
        match fs::create_dir(path) {
            Ok(()) => return Ok(Made::New),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(Made::WasThere),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(path))?;
            }
            Err(e) => return Err(e),
        }
    }
    Err(crate::sys::errno(no::ENOENT))
}

/// Hands every controller down to the container's cgroup. What can't be handed down shows when a
/// limit of it is written.
fn enable_controllers(dir: &Dir) {
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

/// A new v1 cpuset is empty and takes no process until it has cpus and memory nodes.
fn fill_cpuset(mount: &Path, dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fill_cpuset_file(mount, dir, file)?;
    }
    Ok(())
}

fn fill_cpuset_file(mount: &Path, dir: &Path, file: &str) -> io::Result<String> {
    let own = fs::read_to_string(dir.join(file))?;
    if !own.trim().is_empty() || dir == mount {
        return Ok(own);
    }
    let above = fill_cpuset_file(mount, dir.parent().unwrap_or(mount), file)?;
    put(&dir.join(file), above.trim())?;
    Ok(above)
}

/// Processes of a cgroup and of those below.
pub(crate) fn pids_in(dir: &Path) -> io::Result<Vec<i32>> {
    let mut all = Vec::new();
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(e) if gone(&e) => return Ok(all),
        Err(e) => return Err(e),
    };
    all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for below in directories(dir)? {
        all.extend(pids_in(&below)?);
    }
    Ok(all)
}

/// Removed meanwhile: by name, or while a file of it is open.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(19 /* ENODEV */)
}

fn directories(dir: &Path) -> io::Result<Vec<PathBuf>> {
    // The kernel counts a cgroup's children as links: two mean none, and no listing is needed.
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(dir) {
        Ok(facts) if facts.nlink() <= 2 => return Ok(Vec::new()),
        Err(e) if gone(&e) => return Ok(Vec::new()),
        Ok(_) | Err(_) => {}
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(e) if e.raw_os_error() == Some(no::EBUSY) => {}
        Err(e) if gone(&e) => return Ok(()),
        done => return done,
    }
    for below in directories(dir)? {
        remove_tree(&below)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if gone(&e) => Ok(()),
        done => done,
    }
}
