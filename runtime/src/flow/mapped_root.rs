//! The root file system of a container in a user namespace. Its layers are the host's, so it is
//! mounted with the host's rights: by a process in a mount namespace that is there for that alone,
//! which hands the whole over as a detached mount.
//!
//! Layers can be shown to the container as if their owners were in its mapping, so that nothing has
//! to be given to others on the disk. In the options of a mount of the root:
//!
//! | option | what is shown through the mapping |
//! | --- | --- |
//! | `idmap` | all of it, by the container's own mapping: what the container writes has unmapped owners on the disk, too |
//! | `uidmap=C:H:N`, `gidmap=C:H:N` | containerd's: the lower layers of an overlay, or a bind. Who prepared the upper one has given it to the container's root |

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::spec::LinuxIdMapping;

use super::create::{host_id, receive};
use super::idmap::{carrier, show_through};
use super::init::run_child;
use super::rootfs::{self, split_layers};
use super::task::kill_and_reap;
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::message::Message;
use crate::logic::mount_options::{MountOptions, ms};
use crate::logic::plan::{IdMap, Plan};
use crate::sys::channel::Channel;
use crate::sys::mount::{self, Depth};
use crate::sys::process::{self, Fork, Parent, ns};
use crate::sys::{cred, path};
use crate::{Rootfs, RootfsMount};

const DEADLINE: Duration = Duration::from_secs(120);

/// What is to be seen through one mapping.
#[derive(Debug)]
struct Shown {
    namespace: OwnedFd,
    places: Vec<PathBuf>,
}

/// Mounts the root for a container in a user namespace; none if the container's own process does.
pub(crate) fn take(
    plan: &Plan<'_>,
    rootfs: &Rootfs<'_>,
    at: &Path,
) -> Result<Option<OwnedFd>, Error> {
    let Rootfs::Mounts(parts) = rootfs else { return Ok(None) };
    let in_user_namespace = plan.namespaces.has(ns::USER);
    let mut shown = Vec::new();
    let mut maker = None;
    for part in *parts {
        let options = MountOptions::parse(&part.options);
        let Some(map) = mapping(plan, &options)? else { continue };
        if !in_user_namespace {
            return Err(refuse("the root's owners are mapped, and there is no user namespace"));
        }
        if options.idmap.is_some() {
            maker = host_id(&map.uids, 0).zip(host_id(&map.gids, 0));
            if maker.is_none() {
                return Err(refuse("the mapping of a root has to have user 0 and group 0"));
            }
        }
        let places = places(part, &options);
        shown.push(Shown { namespace: carrier(&map)?, places });
    }
    // An ordinary user has no rights but those in its own namespaces.
    if shown.is_empty() && (!in_user_namespace || cred::own_uid() != 0) {
        return Ok(None);
    }
    let step = || "mount the root file system";
    let (ours, theirs) = Channel::pair().step(step)?;
    let forked = process::fork(ns::MOUNT, None, Parent::Caller).step(step)?;
    let pidfd = match forked {
        Fork::Child => {
            drop(ours);
            run_child(&theirs, || make(parts, &shown, maker, at, &theirs))
        }
        Fork::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    match receive(&ours, DEADLINE) {
        Ok((Message::Ready { .. }, Some(tree))) => {
            process::reap(pidfd.as_fd()).step(step)?;
            Ok(Some(tree))
        }
        Ok((Message::Failed(failure), _)) => Err(kill_and_reap(&pidfd, failure.into())),
        Ok(_) => {
            let text = "it said what is not its turn to say";
            let failure = Failure::new(ErrorKind::Internal, step(), text);
            Err(kill_and_reap(&pidfd, failure.into()))
        }
        Err(error) => Err(kill_and_reap(&pidfd, error)),
    }
}

fn refuse(reason: &str) -> Error {
    Error::Spec { field: "root.path".to_owned(), reason: reason.to_owned() }
}

/// The mapping that a mount of the root is seen through.
fn mapping(plan: &Plan<'_>, options: &MountOptions) -> Result<Option<IdMap>, Error> {
    let lists = |prefix: &str| {
        let words = options.data.iter().filter_map(|option| option.strip_prefix(prefix));
        words.flat_map(|list| list.split(',')).map(id_mapping).collect::<Option<Vec<_>>>()
    };
    let (Some(uids), Some(gids)) = (lists("uidmap="), lists("gidmap=")) else {
        return Err(refuse("a mapping is CONTAINER:HOST:SIZE"));
    };
    match (options.idmap, uids.is_empty(), gids.is_empty()) {
        (None, true, true) => Ok(None),
        (None, false, false) => Ok(Some(IdMap { uids, gids, joined: None, recursive: false })),
        (Some(_), true, true) if !plan.uid_map.is_empty() => Ok(Some(IdMap {
            joined: None,
            uids: plan.uid_map.to_vec(),
            gids: plan.gid_map.to_vec(),
            recursive: false,
        })),
        (Some(_), true, true) => Err(refuse("idmap needs linux.uidMappings")),
        _ => Err(refuse("idmap, or uidmap and gidmap together, map a root")),
    }
}

fn id_mapping(text: &str) -> Option<LinuxIdMapping> {
    let mut numbers = text.split(':').map(|number| number.parse::<u32>().ok());
    let (inside, outside, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() || size == 0 {
        return None;
    }
    Some(LinuxIdMapping::new(inside, outside, size))
}

/// The directories to be seen through a mapping. Upper and work directory of an overlay have to be
/// on one mount, so where they are mapped, what all directories share is.
fn places(part: &RootfsMount, options: &MountOptions) -> Vec<PathBuf> {
    if part.kind != "overlay" {
        return vec![PathBuf::from(&part.source)];
    }
    let named = |prefix: &'static str| {
        options.data.iter().filter_map(move |option| option.strip_prefix(prefix))
    };
    let layers = named("lowerdir=").flat_map(split_layers).map(|layer| layer.replace("\\:", ":"));
    let layers: Vec<String> = layers.collect();
    if options.idmap.is_none() {
        return layers.iter().map(PathBuf::from).collect();
    }
    let own = named("upperdir=").chain(named("workdir="));
    let all: Vec<&str> = layers.iter().map(String::as_str).chain(own).collect();
    rootfs::shared_directory(&all).map(PathBuf::from).into_iter().collect()
}

/// In the process that is there for it.
fn make(
    parts: &[RootfsMount],
    shown: &[Shown],
    maker: Option<(u32, u32)>,
    at: &Path,
    channel: &Channel,
) -> Result<Infallible, Failure> {
    mount::set_propagation(Path::new("/"), ms::PRIVATE | ms::REC)
        .step(|| "set the propagation of the root mount")?;
    for Shown { namespace, places } in shown {
        for place in places {
            let step = || format!("map the owners of {}", place.display());
            let tree = mount::clone_path(place, Depth::One).step(step)?;
            show_through(tree.as_fd(), namespace.as_fd(), Depth::One).step(step)?;
            let under = path::open_host(place).step(step)?;
            mount::attach(tree.as_fd(), under.as_fd()).step(step)?;
        }
    }
    if let Some((uid, gid)) = maker {
        cred::act_on_files_as(uid, gid).step(|| "make files as the container's root")?;
    }
    rootfs::mount_root(parts, at)?;
    let tree = mount::clone_path(at, Depth::Tree).step(|| "hand the root file system over")?;
    channel
        .send(&Message::Ready { warnings: Vec::new() }.encode(), Some(tree.as_fd()))
        .step(|| "hand the root file system over")?;
    process::exit_now(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_through_a_mapping() {
        let overlay = |extra: &str| RootfsMount {
            kind: "overlay".into(),
            options: ["lowerdir=/s/l/2/fs:/s/l/1/fs", "upperdir=/s/c/x/fs", "workdir=/s/c/x/work"]
                .into_iter()
                .chain(extra.split(' '))
                .map(str::to_owned)
                .collect(),
            ..RootfsMount::default()
        };
        let of = |part: &RootfsMount| places(part, &MountOptions::parse(&part.options));
        assert_eq!(of(&overlay("idmap")), [Path::new("/s/")]);
        let layers = [Path::new("/s/l/2/fs"), Path::new("/s/l/1/fs")];
        assert_eq!(of(&overlay("uidmap=0:1:2 gidmap=0:1:2")), layers);
        let bind = RootfsMount { kind: "bind".into(), source: "/b".into(), ..Default::default() };
        assert_eq!(of(&bind), [Path::new("/b")]);
    }

    #[test]
    fn mappings_are_three_numbers() {
        let map = id_mapping("1:2:3").expect("a mapping");
        assert_eq!((map.container_id(), map.host_id(), map.size()), (1, 2, 3));
        for bad in ["", "1:2", "1:2:3:4", "a:2:3", "1:2:0", "-1:2:3"] {
            assert!(id_mapping(bad).is_none(), "{bad}");
        }
    }
}
