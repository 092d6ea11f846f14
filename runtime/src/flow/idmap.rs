//! Mounts whose owners are seen as others (id-mapped mounts, Linux 5.12 and later). Taken by the
//! parent, before the container's process is born: mapping a mount is a right of the host's. So are
//! all sources of a container in a user namespace, whose root may not walk the host's paths.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::create::write_maps;
use super::init::wait_for_go;
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::plan::{IdMap, MountKind, Plan};
use crate::sys::channel::Channel;
use crate::sys::mount::{self, Attributes, Depth};
use crate::sys::process::{self, Fork, Parent, ns};
use crate::sys::{cred, no};

/// Detached copies of the sources that the parent takes, by the mount's index; the user namespace of
/// a mapping where the source is not there yet.
pub(crate) type Mapped = BTreeMap<usize, OwnedFd>;

/// Takes and maps them.
pub(crate) fn take(plan: &Plan<'_>) -> Result<Mapped, Error> {
    let mut all = Mapped::new();
    let all_binds = plan.namespaces.has(ns::USER) && cred::own_uid() == 0;
    for (index, one) in plan.mounts.iter().enumerate() {
        if one.kind != MountKind::Bind || one.idmap.is_none() && !all_binds {
            continue;
        }
        if one.own_source.is_some() {
            // It is not there yet: who places it maps it.
            if let Some(map) = &one.idmap {
                all.insert(index, carrier(map)?);
            }
            continue;
        }
        let at = |failure: Failure| Failure {
            step: format!("mounts[{index}]: {}", failure.step),
            ..failure
        };
        let tree = mount::clone_path(&one.source, one.depth())
            .step(|| format!("open source {}", one.source.display()))
            .map_err(at)?;
        if let Some(map) = &one.idmap {
            let namespace = carrier(map)?;
            let depth = if map.recursive { Depth::Tree } else { Depth::One };
            let step = || format!("map the owners of {}", one.source.display());
            match show_through(tree.as_fd(), namespace.as_fd(), depth) {
                Err(e) if e.raw_os_error() == Some(no::EINVAL) => {
                    let text = "a file system there can't show its owners as others (idmap)";
                    return Err(at(Failure::new(ErrorKind::Unsupported, step(), text)).into());
                }
                done => done.step(step).map_err(at)?,
            }
        }
        all.insert(index, tree);
    }
    Ok(all)
}

/// Has the owners of a detached mount seen through the mapping of a user namespace.
pub(super) fn show_through(
    tree: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
    depth: Depth,
) -> std::io::Result<()> {
    let attributes = Attributes {
        set: mount::MAPPED,
        userns_fd: mount::raw(namespace),
        ..Attributes::default()
    };
    mount::set_attributes(tree, attributes, depth)
}

/// A user namespace that is there only for its mapping: the kernel takes mappings in no other form.
pub(super) fn carrier(map: &IdMap) -> Result<OwnedFd, Error> {
    if let Some(path) = &map.joined {
        let opened = process::open_namespace(path);
        return Ok(opened.step(|| format!("open the user namespace {}", path.display()))?);
    }
    let step = || "make a user namespace for a mount's mapping";
    let (ours, theirs) = Channel::pair().step(step)?;
    let forked = process::fork(ns::USER, None, Parent::Caller).step(step)?;
    let (pid, pidfd) = match forked {
        Fork::Child => {
            drop(ours);
            let _ = wait_for_go(&theirs);
            process::exit_now(0)
        }
        Fork::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let written = write_maps(pid, &map.uids, &map.gids);
    let opened = written
        .and_then(|()| process::open_namespace(format!("/proc/{pid}/ns/user").as_ref()).step(step));
    // Its end of the channel closing is what the child waits for.
    drop(ours);
    process::reap(pidfd.as_fd()).step(step)?;
    Ok(opened?)
}
