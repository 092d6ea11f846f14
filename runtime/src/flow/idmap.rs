//! Mounts whose owners are seen as others (id-mapped mounts, Linux 5.12 and later). Taken by the
//! parent, before the container's process is born: mapping a mount is a right of the host's.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use super::create::write_maps;
use super::init::wait_for_go;
use crate::error::{Error, Failure, Step};
use crate::logic::plan::{IdMap, Plan};
use crate::sys::channel::Channel;
use crate::sys::mount::{self, Attributes, Depth};
use crate::sys::process::{self, Fork, Parent, ns};

/// Detached copies of the sources of all id-mapped mounts, by the mount's index.
pub(crate) type Mapped = BTreeMap<usize, OwnedFd>;

/// Takes and maps them.
pub(crate) fn take(plan: &Plan<'_>) -> Result<Mapped, Error> {
    let mut all = Mapped::new();
    for (index, one) in plan.mounts.iter().enumerate() {
        let Some(map) = &one.idmap else { continue };
        let at = |failure: Failure| Failure {
            step: format!("mounts[{index}]: {}", failure.step),
            ..failure
        };
        let namespace = carrier(map)?;
        let tree = mount::clone_path(&one.source, one.depth())
            .step(|| format!("open source {}", one.source.display()))
            .map_err(at)?;
        let attributes = Attributes {
            set: mount::MAPPED,
            userns_fd: mount::raw(namespace.as_fd()),
            ..Attributes::default()
        };
        let depth = if map.recursive { Depth::Tree } else { Depth::One };
        mount::set_attributes(tree.as_fd(), attributes, depth)
            .step(|| format!("map the owners of {}", one.source.display()))
            .map_err(at)?;
        all.insert(index, tree);
    }
    Ok(all)
}

/// A user namespace that is there only for its mapping: the kernel takes mappings in no other form.
fn carrier(map: &IdMap) -> Result<OwnedFd, Error> {
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
