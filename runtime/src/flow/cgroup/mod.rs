//! One container's cgroups: one directory in each hierarchy of the host.
//!
//! On v2 (and in the v2 hierarchy of a hybrid host) a process is born in its cgroup. On v1 it moves
//! itself by writing 0 to `tasks`: for a process that moves its own only thread the kernel (5.5 and
//! later) does without the lock over all fork and exit, whose grace period takes milliseconds.

//!
//! `new` makes them, `limits` writes what the spec says to them; what only one version has is in `v1`
//! and `v2`, systemd's part beside this folder.

mod files;
mod limits;
mod new;
mod oom;
mod sub;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::systemd::Unit;
use crate::error::{Failure, Step};
use crate::logic::cgroup_layout::{Hierarchy, hierarchies};
use crate::sys::path;

pub(crate) use files::{pids_in, put};
pub(crate) use new::Request;
pub(crate) use oom::{OomWatch, oom_kills};
pub(crate) use sub::SubCgroup;
pub(crate) use v2::unified_place_of;

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
    /// Removes the directories, which must hold no process; cgroups that the container made below
    /// go too. What is gone already is fine.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.dirs.iter().rev().try_fold((), |(), dir| files::remove_tree(&dir.path))
    }

    /// Ends systemd's unit, if there is one, with all that is in it.
    pub(crate) fn stop_unit(&self) -> Result<(), Failure> {
        self.unit.as_ref().map_or(Ok(()), Unit::stop)
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
