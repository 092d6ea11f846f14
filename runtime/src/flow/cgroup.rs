//! One container's cgroups: one directory in each hierarchy of the host.
//!
//! On v2 (and in the v2 hierarchy of a hybrid host) a process is born in its cgroup. On v1 it moves
//! itself by writing 0 to `tasks`: for a process that moves its own only thread the kernel (5.5 and
//! later) does without the lock over all fork and exit, whose grace period takes milliseconds.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::spec::{LinuxNamespaceType, LinuxResources, Spec};
use serde::{Deserialize, Serialize};

use super::systemd::{self, Holder, Unit};
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::cgroup_layout::{Hierarchy, hierarchies};
use crate::logic::cgroup_v1::Write;
use crate::logic::devices::Rule;
use crate::logic::{cgroup_v1, cgroup_v2, device_program};
use crate::sys::{bpf, cred, no, path};

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
    /// The unit of systemd that they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<Unit>,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manager {
    /// This runtime, by the files.
    #[default]
    Files,
    Systemd,
}

/// What a cgroup is made by.
pub(crate) struct Request<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) id: &'a str,
    /// Below each hierarchy's mount; not for systemd.
    pub(crate) relative: &'a Path,
    pub(crate) resources: Option<&'a LinuxResources>,
    pub(crate) rules: &'a [Rule],
    pub(crate) manager: Manager,
    pub(crate) rootless: Option<bool>,
}

/// A cgroup that was just made.
#[derive(Debug, Default)]
pub(crate) struct New {
    pub(crate) cgroup: Cgroup,
    /// Keeps it until a process is in it.
    pub(crate) holder: Option<Holder>,
    pub(crate) warnings: Vec<String>,
}

impl Request<'_> {
    fn is_rootless(&self) -> bool {
        self.rootless.unwrap_or_else(|| cred::own_uid() != 0 || in_user_namespace())
    }

    fn named_path(&self) -> Option<&str> {
        let path = self.spec.linux().as_ref()?.cgroups_path().as_ref()?.to_str()?;
        Some(path).filter(|path| !path.is_empty())
    }

    /// The user of the host to whom the container's root may hand its cgroup, if it gets it at all:
    /// by a namespace of users and one of cgroups, and a mount that can be written.
    fn new_owner(&self) -> Option<u32> {
        let linux = self.spec.linux().as_ref()?;
        let is_new = |kind| {
            linux.namespaces().iter().flatten().any(|one| {
                one.typ() == kind && one.path().as_ref().is_none_or(|p| p.as_os_str().is_empty())
            })
        };
        if !is_new(LinuxNamespaceType::User) || !is_new(LinuxNamespaceType::Cgroup) {
            return None;
        }
        let writable = self.spec.mounts().iter().flatten().any(|mount| {
            matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
                && !mount.options().iter().flatten().any(|word| word == "ro")
        });
        let map = linux.uid_mappings().iter().flatten().find(|one| one.container_id() == 0);
        map.filter(|_| writable).map(|one| one.host_id())
    }
}

fn in_user_namespace() -> bool {
    // The first namespace maps everything onto itself.
    let text = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut words = text.split_whitespace();
    (words.next(), words.next(), words.next()) != (Some("0"), Some("0"), Some("4294967295"))
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

/// Whether this host has nothing but v2.
pub(crate) fn host_is_v2() -> bool {
    host().is_ok_and(|all| !all.is_empty() && all.iter().all(|one| one.unified))
}

impl Cgroup {
    /// Makes the directories, with their limits; on failure nothing is left.
    pub(crate) fn create(hierarchies: &[Hierarchy], request: &Request<'_>) -> Result<New, Error> {
        let mut new = New::default();
        let made = new.fill(hierarchies, request);
        if made.is_err() {
            // The first failure is the one to report.
            let _ = new.cgroup.remove();
        }
        made.map(|()| new)
    }

    /// Where a process is that another runtime has put there. What is the caller's own place as
    /// well, or a hierarchy's root, is not the process' alone.
    pub(crate) fn of(pid: i32) -> Result<Self, Failure> {
        let read = |who: &str| {
            let file = format!("/proc/{who}/cgroup");
            fs::read_to_string(&file).step(|| format!("read {file}"))
        };
        let (theirs, ours) = (read(&pid.to_string())?, read("self")?);
        let dirs = host()?.into_iter().filter_map(|hierarchy| {
            let place = place_in(&theirs, &hierarchy)?;
            if place == "/" || place_in(&ours, &hierarchy) == Some(place) {
                return None;
            }
            Some(Dir {
                path: hierarchy.mount.join(place.trim_start_matches('/')),
                controllers: hierarchy.controllers,
                unified: hierarchy.unified,
                mount: hierarchy.mount,
            })
        });
        Ok(Self { dirs: dirs.collect(), ..Self::default() })
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
                    .step(|| format!("adding pid to cgroup: open {}/tasks", dir.path.display()))
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

    /// The cgroups below this one that an exec names.
    pub(crate) fn below(&self, places: &[SubCgroup]) -> Result<Self, Error> {
        let mut sub = self.clone();
        sub.unit = None;
        for place in places {
            let mut found = false;
            for dir in &mut sub.dirs {
                let named = match &place.controller {
                    None => true,
                    // Nothing else names v2's.
                    Some(name) => dir.controllers.contains(name) || dir.unified && name.is_empty(),
                };
                if named {
                    dir.path = dir.path.join(&place.path);
                    found = true;
                }
            }
            if let (false, Some(name)) = (found, &place.controller) {
                let step = format!("unknown controller {name} in --cgroup");
                return Err(Failure::new(ErrorKind::Invalid, "exec", step).into());
            }
        }
        Ok(sub)
    }

    /// Changes the limits of a container that runs, and tells systemd.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        let resources = &self.completed(resources);
        self.check_usage(resources)?;
        if let Some(unit) = &self.unit {
            unit.update(resources, self.is_v2())?;
        }
        self.apply(resources)
    }

    /// On v2 one file has quota and period, and swap's limit is counted from memory's: what was not
    /// named is as it is now.
    fn completed(&self, resources: &LinuxResources) -> LinuxResources {
        let mut resources = resources.clone();
        let Some(dir) = self.unified().filter(|_| self.is_v2()) else { return resources };
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
    fn check_usage(&self, resources: &LinuxResources) -> Result<(), Failure> {
        let Some(memory) = resources.memory() else { return Ok(()) };
        let Some(dir) = self.unified().filter(|_| self.is_v2()) else { return Ok(()) };
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

    /// Writes limits, to a new cgroup or to one in use.
    pub(crate) fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let writes = if self.is_v2() {
            cgroup_v2::writes(resources)?
        } else {
            if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
                let what =
                    "invalid configuration: linux.resources.unified: this host has cgroup v1";
                return Err(Error::Unsupported { what: what.to_owned() });
            }
            cgroup_v1::writes(resources)
        };
        // Some pairs of values (memory and its sum with swap, quota and period) are refused in one
        // order and taken in the other, depending on what they were before.
        let mut again = Vec::new();
        for write in &writes {
            match self.write(write) {
                Err(failure) if failure.errno == no::EINVAL && writes.len() > 1 => {
                    again.push(write)
                }
                done => done?,
            }
        }
        again.into_iter().try_for_each(|write| Ok(self.write(write)?))
    }

    fn write(&self, write: &Write) -> Result<(), Failure> {
        let no_limit = matches!(write.value.as_str(), "max" | "-1");
        let dir = if self.is_v2() { self.unified() } else { self.with(&write.controller) };
        let Some(dir) = dir else {
            return match no_limit || write.optional {
                true => Ok(()),
                false => Err(no_controller(write, "is not mounted")),
            };
        };
        let (mut file, mut value) = (&write.file, &write.value);
        let mut done = put(&dir.path.join(file), value);
        if let (Err(error), Some((other, text))) = (&done, &write.instead)
            && error.kind() == io::ErrorKind::NotFound
        {
            (file, value) = (other, text);
            done = put(&dir.path.join(file), value);
        }
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if no_limit || write.optional {
                    Ok(())
                } else {
                    Err(no_controller(write, "has no such file here"))
                }
            }
            done => done.step(|| {
                let at = dir.path.join(file);
                format!("linux.resources.{}: write {value} to {}", write.field, at.display())
            }),
        }
    }

    fn restrict_devices(&self, rules: &[Rule], rootless: bool) -> Result<(), Failure> {
        if self.is_v2() {
            let Some(code) = device_program::program(rules) else { return Ok(()) };
            let Some(fd) = self.unified().map(|dir| fs::File::open(&dir.path)) else {
                return Ok(());
            };
            let fd = fd.step(|| "open the container's cgroup")?;
            let program = match bpf::load_device_program(&code) {
                // An ordinary user has no say in devices, nor any to give away.
                Err(e) if e.raw_os_error() == Some(no::EPERM) && rootless => return Ok(()),
                program => program.step(|| "load the device program")?,
            };
            use std::os::fd::AsFd;
            return bpf::attach_device_program(fd.as_fd(), program.as_fd())
                .step(|| "attach the device program to the cgroup");
        }
        if rules.is_empty() || rootless {
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

    /// Ends systemd's unit, if there is one, with all that is in it.
    pub(crate) fn stop_unit(&self) -> Result<(), Failure> {
        self.unit.as_ref().map_or(Ok(()), Unit::stop)
    }
}

impl New {
    fn fill(&mut self, hierarchies: &[Hierarchy], request: &Request<'_>) -> Result<(), Error> {
        let pure_v2 = hierarchies.iter().all(|h| h.unified);
        let rootless = request.is_rootless();
        let relative = match request.manager {
            Manager::Files => request.relative.to_owned(),
            Manager::Systemd => self.start_unit(request, pure_v2)?,
        };
        if !self.make_all(hierarchies, &relative, request, rootless)? {
            return Ok(());
        }
        let cgroup = &self.cgroup;
        if pure_v2 && let Some(dir) = cgroup.dirs.first() {
            enable_controllers(dir);
        }
        if let Some(cpuset) = cgroup.with("cpuset") {
            fill_cpuset(&cpuset.mount, &cpuset.path)
                .step(|| format!("copy cpus and mems to {}", cpuset.path.display()))?;
        }
        if let Some(resources) = request.resources {
            cgroup.apply(resources)?;
        }
        cgroup.restrict_devices(request.rules, rootless)?;
        if let (Some(dir), Some(owner)) = (cgroup.unified(), request.new_owner())
            && pure_v2
        {
            hand_over(&dir.path, owner)
                .step(|| format!("give {} to the container's root", dir.path.display()))?;
        }
        Ok(())
    }

    /// Has systemd make the scope; gives its place.
    fn start_unit(&mut self, request: &Request<'_>, v2: bool) -> Result<PathBuf, Error> {
        let user = cred::own_uid() != 0;
        let path = request.named_path();
        let name = crate::logic::systemd::unit_name(path, request.id, user)?;
        let annotations: Vec<_> = request
            .spec
            .annotations()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let started = systemd::start(&name, user, request.resources, &annotations, v2)?;
        self.cgroup.unit = Some(started.unit);
        self.holder = started.holder;
        self.warnings.extend(started.words);
        Ok(started.path)
    }

    /// False: an ordinary user goes on without any.
    fn make_all(
        &mut self,
        hierarchies: &[Hierarchy],
        relative: &Path,
        request: &Request<'_>,
        rootless: bool,
    ) -> Result<bool, Error> {
        for hierarchy in hierarchies {
            let dir = Dir {
                controllers: hierarchy.controllers.clone(),
                unified: hierarchy.unified,
                mount: hierarchy.mount.clone(),
                path: hierarchy.mount.join(relative),
            };
            match make(&dir.path) {
                Ok(Made::New) => {}
                // The scope, or what systemd made in it.
                Ok(Made::WasThere) if self.cgroup.unit.is_some() => {}
                Ok(Made::WasThere) => check_unused(&dir)?,
                Err(error) if rootless && refused(&error) => {
                    self.go_without(&error, &dir, request)?;
                    return Ok(false);
                }
                Err(error) => {
                    let done: Result<(), Failure> =
                        Err(error).step(|| format!("make cgroup {}", dir.path.display()));
                    done?;
                }
            }
            self.cgroup.dirs.push(dir);
        }
        Ok(true)
    }

    /// An ordinary user without a delegated cgroup runs without one, unless one was asked for.
    fn go_without(
        &mut self,
        error: &io::Error,
        dir: &Dir,
        request: &Request<'_>,
    ) -> Result<(), Failure> {
        let fail = |text: String| {
            let step = "unable to apply cgroup configuration";
            Err(Failure {
                errno: error.raw_os_error().unwrap_or(0),
                ..Failure::new(ErrorKind::Denied, step, text)
            })
        };
        if request.named_path().is_some() {
            let reason = crate::error::reason(error);
            return fail(format!("make cgroup {}: {reason}", dir.path.display()));
        }
        if request.resources.is_some_and(limits) {
            let text = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups";
            return fail(text.to_owned());
        }
        // What could be made serves nothing alone.
        let _ = self.cgroup.remove();
        self.cgroup = Cgroup::default();
        let namespaces =
            request.spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        let kinds = namespaces.into_iter().flatten();
        let more = match kinds.map(|one| one.typ()).any(|kind| kind == LinuxNamespaceType::Pid) {
            true => "",
            false => {
                "; with no pid namespace either, nothing but its init can be found again. Such configuration is strongly discouraged"
            }
        };
        self.warnings
            .push(format!("no permission to make cgroups: the container runs without{more}"));
        Ok(())
    }
}

/// Whether anything is asked for that only a cgroup can give.
fn limits(resources: &LinuxResources) -> bool {
    resources.memory().is_some()
        || resources.cpu().is_some()
        || resources.pids().is_some()
        || resources.block_io().is_some()
        || resources.hugepage_limits().as_ref().is_some_and(|all| !all.is_empty())
        || resources.network().is_some()
        || resources.rdma().as_ref().is_some_and(|all| !all.is_empty())
        || resources.unified().as_ref().is_some_and(|all| !all.is_empty())
}

fn refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// A directory that was there must hold no process, and no process that enters may stand still.
fn check_unused(dir: &Dir) -> Result<(), Failure> {
    let step = || format!("make cgroup {}", dir.path.display());
    let count = pids_in(&dir.path).unwrap_or_default().len();
    if count > 0 {
        let text = format!("container's cgroup is not empty: {count} process(es) found");
        return Err(Failure::new(ErrorKind::AlreadyExists, step(), text));
    }
    let read = |file: &str| fs::read_to_string(dir.path.join(file)).unwrap_or_default();
    if matches!(read("freezer.state").trim(), "FROZEN" | "FREEZING")
        || read("cgroup.freeze").trim() == "1"
    {
        let text = "container's cgroup unexpectedly frozen";
        return Err(Failure::new(ErrorKind::Precondition, step(), text));
    }
    Ok(())
}

/// What the kernel says may be given to another user.
fn hand_over(dir: &Path, owner: u32) -> io::Result<()> {
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

/// A place below a container's cgroup: `PATH`, or `CONTROLLER:PATH` on v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubCgroup {
    controller: Option<String>,
    path: PathBuf,
}

impl SubCgroup {
    /// One for each controller that is named.
    pub(crate) fn parse(text: &str) -> Result<Vec<Self>, Failure> {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (Some(controllers), path),
            None => (None, text),
        };
        let plain = Path::new(path).components().all(|part| {
            matches!(part, std::path::Component::Normal(_) | std::path::Component::RootDir)
        });
        if !plain {
            let text = format!("bad sub cgroup path: {path}");
            return Err(Failure::new(ErrorKind::Invalid, "exec", text));
        }
        let path = PathBuf::from(path.trim_matches('/'));
        Ok(match controllers {
            None => vec![Self { controller: None, path }],
            Some(controllers) => controllers
                .split(',')
                .map(|name| Self { controller: Some(name.to_owned()), path: path.clone() })
                .collect(),
        })
    }
}

/// A process' place in a hierarchy, from its cgroup file.
fn place_in<'a>(text: &'a str, hierarchy: &Hierarchy) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, place) = (fields.next()?, fields.next()?);
        let is_it = if hierarchy.unified {
            controllers.is_empty()
        } else {
            controllers.split(',').any(|name| hierarchy.controllers.iter().any(|one| one == name))
        };
        is_it.then_some(place)
    })
}

/// Where a process is in the v2 hierarchy.
pub(crate) fn unified_place_of(pid: i32, mount: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let place = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!place.starts_with("..")).then(|| mount.join(place))
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
