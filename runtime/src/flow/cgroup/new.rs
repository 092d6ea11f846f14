//! The making of a container's cgroups.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::{Made, make};
use super::{Cgroup, Dir, Manager, pids_in, v1, v2};
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::flow::systemd::{self, Holder};
use crate::logic::cgroup_layout::Hierarchy;
use crate::logic::devices::Rule;
use crate::spec::{LinuxNamespaceType, LinuxResources, Spec};
use crate::sys::cred;

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
            v2::enable_controllers(dir);
        }
        if let Some(cpuset) = cgroup.with("cpuset") {
            v1::fill_cpuset(&cpuset.mount, &cpuset.path)
                .step(|| format!("copy cpus and mems to {}", cpuset.path.display()))?;
        }
        if let Some(resources) = request.resources {
            cgroup.apply(resources)?;
        }
        cgroup.restrict_devices(request.rules, rootless)?;
        if let (Some(dir), Some(owner)) = (cgroup.unified(), request.new_owner())
            && pure_v2
        {
            v2::hand_over(&dir.path, owner)
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
