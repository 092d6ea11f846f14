//! The mounts of a spec. What comes from the host is taken, detached, while the host's root is
//! still the root; everything is put in place when the container's is, so that no path of the
//! image can lead to the host.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::cgroup::Cgroup;
use super::copy_up;
use super::idmap::{self, Mapped};
use crate::error::{ErrorKind, Failure, Step};
use crate::logic::mount_options::{AttributeChange, attr};
use crate::logic::plan::{MountKind, MountPlan, Plan};
use crate::sys::mount::{self, Attributes, Depth};
use crate::sys::no;
use crate::sys::path::{self, Access, FileKind, FsKind, Missing, Resolve};
use crate::sys::process::ns;

/// What a mount needs from the host's side.
pub(crate) enum Source {
    /// Nothing: it is made in place.
    InPlace,
    /// A bind of what an earlier mount of the container's brings, at this place of its root.
    OfTheRoot(PathBuf, Option<OwnedFd>),
    /// A detached mount.
    Detached(OwnedFd),
    /// The container's cgroup directories, by the name they get.
    Cgroups(Vec<(String, OwnedFd)>),
}

/// Takes what comes from the host.
pub(crate) fn take(
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    mapped: &Mapped,
) -> Result<Vec<Source>, Failure> {
    plan.mounts
        .iter()
        .enumerate()
        .map(|(index, one)| match &one.kind {
            MountKind::Bind => match &one.own_source {
                Some(place) => {
                    let map = mapped.get(&index).map(|map| map.try_clone()).transpose();
                    map.map(|map| Source::OfTheRoot(place.clone(), map))
                        .step(|| format!("mounts[{index}]: keep its mapping"))
                }
                None => bind_source(plan, one, mapped.get(&index))
                    .map(Source::Detached)
                    .map_err(|failure| at_index(index, failure)),
            },
            MountKind::Other(kind) => {
                let source = one.source.to_string_lossy();
                mount::new_file_system(
                    kind,
                    Some(&source),
                    // Quotes keep commas together in mount(2) alone.
                    &data(plan, one).iter().map(|o| o.replace('"', "")).collect::<Vec<_>>(),
                    one.options.change.set,
                )
                .map(Source::Detached)
                .step(|| format!("mounts[{index}]: make {kind} from {source}"))
            }
            MountKind::Cgroup if !plan.namespaces.has(ns::CGROUP) => {
                cgroup_sources(cgroup, one).map_err(|failure| at_index(index, failure))
            }
            // In a user namespace these are only given while the host's own are in sight.
            MountKind::Proc | MountKind::Sysfs if plan.namespaces.has(ns::USER) => {
                kernel_tree(one).map_err(|failure| at_index(index, failure))
            }
            _ => Ok(Source::InPlace),
        })
        .collect()
}

fn at_index(index: usize, failure: Failure) -> Failure {
    Failure { step: format!("mounts[{index}]: {}", failure.step), ..failure }
}

fn kernel_tree(one: &MountPlan) -> Result<Source, Failure> {
    let kind = if one.kind == MountKind::Proc { "proc" } else { "sysfs" };
    match mount::new_file_system(kind, Some(kind), &one.options.data, one.options.change.set) {
        Ok(tree) => Ok(Source::Detached(tree)),
        // A network namespace of somebody else's: its sysfs can't be made, the host's can be shown.
        Err(e) if kind == "sysfs" && e.raw_os_error() == Some(no::EPERM) => {
            let tree = mount::clone_path(Path::new("/sys"), Depth::Tree).step(|| "open /sys")?;
            change(tree.as_fd(), one.options.change, Depth::Tree)?;
            Ok(Source::Detached(tree))
        }
        Err(e) => Err(e).step(|| format!("make {kind}")),
    }
}

fn bind_source(
    plan: &Plan<'_>,
    one: &MountPlan,
    mapped: Option<&OwnedFd>,
) -> Result<OwnedFd, Failure> {
    let step = || format!("open source {}", one.source.display());
    let tree = match mapped {
        Some(tree) => tree.try_clone().step(step)?,
        None => mount::clone_path(&one.source, one.depth()).step(step)?,
    };
    finish_bind(plan, one, tree)
}

fn finish_bind(plan: &Plan<'_>, one: &MountPlan, tree: OwnedFd) -> Result<OwnedFd, Failure> {
    let present = match one.options.change.is_none() {
        true => 0,
        false => path::mount_attributes(tree.as_fd()).step(|| "read the source's options")?,
    };
    let own = one.options.change.of_bind(present, plan.namespaces.has(ns::USER));
    let own = own.map_err(|_| {
        let step = format!("bind {} to {}", one.source.display(), one.destination.display());
        let text = "operation not permitted: a user namespace can't take an option off its source";
        Failure::new(ErrorKind::Denied, step, text)
    })?;
    change(tree.as_fd(), own, Depth::One)?;
    change(tree.as_fd(), one.options.deep_change, Depth::Tree)?;
    spread(one, tree.as_fd())?;
    Ok(tree)
}

/// The source that an earlier mount has brought, looked for inside of the root only.
fn own_bind(
    plan: &Plan<'_>,
    root: BorrowedFd<'_>,
    one: &MountPlan,
    place: &Path,
    map: Option<OwnedFd>,
) -> Result<Source, Failure> {
    let step = || format!("open source {}", one.source.display());
    let place = path::open_at(root, place, Access::Place, Resolve::InRoot).step(step)?;
    let tree = mount::clone_fd(place.as_fd(), one.depth()).step(step)?;
    if let (Some(namespace), Some(map)) = (map, &one.idmap) {
        let depth = if map.recursive { Depth::Tree } else { Depth::One };
        idmap::show_through(tree.as_fd(), namespace.as_fd(), depth)
            .step(|| format!("map the owners of {}", one.source.display()))?;
    }
    finish_bind(plan, one, tree).map(Source::Detached)
}

fn spread(one: &MountPlan, tree: BorrowedFd<'_>) -> Result<(), Failure> {
    let Some(propagation) = one.options.propagation else { return Ok(()) };
    let depth = if propagation.recursive { Depth::Tree } else { Depth::One };
    let attributes = Attributes { propagation: propagation.kind, ..Attributes::default() };
    mount::set_attributes(tree, attributes, depth)
        .step(|| format!("set the propagation of {}", one.destination.display()))
}

fn change(tree: BorrowedFd<'_>, change: AttributeChange, depth: Depth) -> Result<(), Failure> {
    if change.is_none() {
        return Ok(());
    }
    let attributes = Attributes { set: change.set, clear: change.clear, ..Attributes::default() };
    mount::set_attributes(tree, attributes, depth).step(|| "set the mount's options")
}

fn cgroup_sources(cgroup: &Cgroup, one: &MountPlan) -> Result<Source, Failure> {
    let mut all = Vec::new();
    for dir in &cgroup.dirs {
        let tree = mount::clone_path(&dir.path, Depth::One)
            .step(|| format!("open cgroup {}", dir.path.display()))?;
        change(tree.as_fd(), one.options.change, Depth::One)?;
        let name = dir.mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push((name, tree));
    }
    Ok(Source::Cgroups(all))
}

/// What stays open of the mounts for the steps after them.
#[derive(Default)]
pub(crate) struct Placed {
    /// The procfs that we mounted ourselves, from its root: nothing mounted over it is in the way.
    pub(crate) proc: Option<OwnedFd>,
    /// File systems to be made read-only when everything in them is made.
    pub(crate) read_only_later: Vec<OwnedFd>,
}

/// Puts every mount in its place below `root`.
pub(crate) fn place(
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    root: BorrowedFd<'_>,
    sources: Vec<Source>,
) -> Result<Placed, Failure> {
    let mut placed = Placed::default();
    for (index, (one, source)) in plan.mounts.iter().zip(sources).enumerate() {
        place_one(plan, cgroup, root, one, source, &mut placed)
            .map_err(|failure| at_index(index, failure))?;
    }
    Ok(placed)
}

fn place_one(
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    root: BorrowedFd<'_>,
    one: &MountPlan,
    source: Source,
    placed: &mut Placed,
) -> Result<(), Failure> {
    let source = match source {
        Source::OfTheRoot(place, map) => own_bind(plan, root, one, &place, map)?,
        source => source,
    };
    let mode = inherited_mode(root, one);
    let target = open_target(root, one, &source)?;
    match (&one.kind, source) {
        (MountKind::Proc, source) => {
            let tree = match source {
                Source::Detached(tree) => tree,
                _ => mount::new_file_system(
                    "proc",
                    Some("proc"),
                    &one.options.data,
                    one.options.change.set,
                )
                .step(|| "make procfs")?,
            };
            attach(one, tree.as_fd(), target.as_fd())?;
            placed.proc = Some(tree);
        }
        (_, Source::Detached(tree)) => attach(one, tree.as_fd(), target.as_fd())?,
        (MountKind::Cgroup, source) => {
            cgroups(plan, cgroup, root, one, &target, source, placed)?;
        }
        (MountKind::Tmpfs | MountKind::DevPts | MountKind::Mqueue | MountKind::Sysfs, _) => {
            in_place(plan, root, one, &target, mode, placed)?;
        }
        (MountKind::Bind | MountKind::Other(_), _) => {}
    }
    if one.kind != MountKind::Bind && one.options.propagation.is_some() {
        spread(one, reopen(root, &one.destination)?.as_fd())?;
    }
    Ok(())
}

fn attach(one: &MountPlan, tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Failure> {
    mount::attach(tree, target).step(|| format!("attach to {}", one.destination.display()))
}

/// A tmpfs over a directory that was there has its mode, unless it is to have one of its own.
fn inherited_mode(root: BorrowedFd<'_>, one: &MountPlan) -> Option<String> {
    if one.kind != MountKind::Tmpfs || one.options.data.iter().any(|o| o.starts_with("mode=")) {
        return None;
    }
    let place = path::open_at(root, &one.destination, Access::Directory, Resolve::InRoot).ok()?;
    let facts = path::facts(place.as_fd()).ok()?;
    Some(format!("mode={:o}", facts.mode_bits))
}

/// The mount that is now on top at a destination. No link is followed: the way was made or checked
/// when the mount was placed, and whoever changed it since is caught here.
fn reopen(root: BorrowedFd<'_>, destination: &Path) -> Result<OwnedFd, Failure> {
    path::open_at(root, destination, Access::Place, Resolve::InRoot)
        .step(|| format!("open {}", destination.display()))
}

fn open_target(root: BorrowedFd<'_>, one: &MountPlan, source: &Source) -> Result<OwnedFd, Failure> {
    let step = || format!("open destination {}", one.destination.display());
    let missing = match source {
        Source::Detached(tree)
            if path::facts(tree.as_fd()).step(step)?.kind != FileKind::Directory =>
        {
            Missing::MakeFile
        }
        _ => Missing::MakeDirectory,
    };
    let target = path::open_or_make(root, &one.destination, missing).step(step)?;
    // A procfs or sysfs that an image's link leads elsewhere would be a decoy: what is later
    // written to /proc would go to a file of the image's (CVE-2019-19921, CVE-2023-27561).
    if matches!(one.kind, MountKind::Proc | MountKind::Sysfs) {
        let straight = path::open_at(root, &one.destination, Access::Directory, Resolve::NoLinks);
        return match straight {
            Err(e) if matches!(e.raw_os_error(), Some(no::ELOOP | no::ENOTDIR)) => {
                let text = "this file system must be mounted on ordinary directory, not a link";
                Err(Failure::new(ErrorKind::Invalid, step(), text))
            }
            straight => straight.step(step),
        };
    }
    refuse_over_proc(one, source, target.as_fd())?;
    Ok(target)
}

/// Files of procfs that may be covered, as lxcfs and its like do.
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Nothing else may be put over procfs: what the runtime writes there (labels, parameters) must
/// reach the kernel (CVE-2019-16884). Asked of the place that was opened, so a link can't cheat.
fn refuse_over_proc(
    one: &MountPlan,
    source: &Source,
    target: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let step = || format!("check destination {}", one.destination.display());
    if path::fs_kind(target).step(step)? != FsKind::Proc {
        return Ok(());
    }
    let of_proc = match source {
        Source::Detached(tree) => path::fs_kind(tree.as_fd()).step(step)? == FsKind::Proc,
        Source::InPlace | Source::OfTheRoot(..) | Source::Cgroups(_) => false,
    };
    let known = PROC_FILES.iter().any(|file| one.destination == Path::new(file));
    if of_proc || known && one.kind == MountKind::Bind {
        return Ok(());
    }
    Err(Failure::new(ErrorKind::Invalid, step(), "is inside procfs, which may not be covered"))
}

/// The file system's own options, with SELinux' context if there is one for all.
fn data(plan: &Plan<'_>, one: &MountPlan) -> Vec<String> {
    let mut all = one.options.data.clone();
    let takes_label = !matches!(one.kind, MountKind::Proc | MountKind::Sysfs | MountKind::Mqueue);
    if let Some(label) = plan.mount_label.filter(|_| takes_label)
        && !all.iter().any(|option| option.starts_with("context="))
    {
        all.push(format!("context=\"{label}\""));
    }
    all
}

fn in_place(
    plan: &Plan<'_>,
    root: BorrowedFd<'_>,
    one: &MountPlan,
    target: &OwnedFd,
    mode: Option<String>,
    placed: &mut Placed,
) -> Result<(), Failure> {
    let kind = match one.kind {
        MountKind::Tmpfs => "tmpfs",
        MountKind::DevPts => "devpts",
        MountKind::Mqueue => "mqueue",
        _ => "sysfs",
    };
    let mut flags = one.options.mount_flags();
    // Nodes, links and mount points may still have to be made in it.
    let later = one.kind == MountKind::Tmpfs && one.options.read_only();
    if later {
        flags &= !crate::logic::mount_options::ms::RDONLY;
    }
    // By the directory itself, so that no path is walked twice.
    path::change_directory(target.as_fd())
        .step(|| format!("change to {}", one.destination.display()))?;
    let source = one.source.to_string_lossy();
    let options: Vec<_> = mode.into_iter().chain(data(plan, one)).collect();
    mount::mount(&source, Path::new("."), kind, flags, &options.join(","))
        .step(|| format!("mount {kind} on {}", one.destination.display()))?;
    if !later && !one.options.copy_up {
        return Ok(());
    }
    let top = reopen(root, &one.destination)?;
    if one.options.copy_up {
        let keeps_mode = !one.options.data.iter().any(|option| option.starts_with("mode="));
        copy_up::copy(target.as_fd(), top.as_fd(), keeps_mode)
            .step(|| format!("tmpcopyup: fill {}", one.destination.display()))?;
    }
    if later {
        placed.read_only_later.push(top);
    }
    Ok(())
}

/// `/sys/fs/cgroup` as the container sees it: the one tree of v2, or a tmpfs with v1's hierarchies.
fn cgroups(
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    root: BorrowedFd<'_>,
    one: &MountPlan,
    target: &OwnedFd,
    source: Source,
    placed: &mut Placed,
) -> Result<(), Failure> {
    let at = one.destination.display();
    if cgroup.is_v2() {
        if let Source::Cgroups(mut trees) = source {
            return match trees.pop() {
                Some((_, tree)) => attach(one, tree.as_fd(), target.as_fd()),
                None => Ok(()),
            };
        }
        path::change_directory(target.as_fd()).step(|| format!("change to {at}"))?;
        return mount::mount("cgroup2", Path::new("."), "cgroup2", one.options.mount_flags(), "")
            .step(|| format!("mount cgroup2 on {at}"));
    }
    path::change_directory(target.as_fd()).step(|| format!("change to {at}"))?;
    let flags = one.options.mount_flags() & !crate::logic::mount_options::ms::RDONLY;
    mount::mount("tmpfs", Path::new("."), "tmpfs", flags, "mode=755")
        .step(|| format!("mount tmpfs on {at}"))?;
    let top = reopen(root, &one.destination)?;
    let trees = match source {
        Source::Cgroups(trees) => trees,
        _ => Vec::new(),
    };
    for dir in &cgroup.dirs {
        let name = dir.mount.file_name().unwrap_or_default();
        let step = || format!("mount cgroup {} on {at}", name.to_string_lossy());
        path::make_directory(top.as_fd(), Path::new(name), 0o755).step(step)?;
        let place =
            path::open_at(top.as_fd(), Path::new(name), Access::Directory, Resolve::NoLinks)
                .step(step)?;
        if let Some((_, tree)) = trees.iter().find(|(n, _)| name == n.as_str()) {
            mount::attach(tree.as_fd(), place.as_fd()).step(step)?;
            continue;
        }
        if !plan.namespaces.has(ns::CGROUP) {
            continue;
        }
        path::change_directory(place.as_fd()).step(step)?;
        let (kind, data) = match dir.unified {
            true => ("cgroup2", String::new()),
            false => ("cgroup", v1_data(&dir.controllers)),
        };
        mount::mount(kind, Path::new("."), kind, one.options.mount_flags(), &data).step(step)?;
    }
    for dir in cgroup.dirs.iter().filter(|dir| dir.controllers.len() > 1) {
        let name = dir.mount.file_name().unwrap_or_default();
        for controller in dir.controllers.iter().filter(|c| name != c.as_str()) {
            path::make_link(Path::new(name), top.as_fd(), Path::new(controller))
                .step(|| format!("link cgroup {controller}"))?;
        }
    }
    if one.options.read_only() {
        placed.read_only_later.push(top);
    }
    Ok(())
}

fn v1_data(controllers: &[String]) -> String {
    let words = controllers.join(",");
    if words.starts_with("name=") { format!("none,{words}") } else { words }
}

/// Makes a mount read-only, from an open place in it.
pub(crate) fn make_read_only(place: BorrowedFd<'_>) -> std::io::Result<()> {
    let attributes = Attributes { set: attr::RDONLY, ..Attributes::default() };
    mount::set_attributes(place, attributes, Depth::One)
}
