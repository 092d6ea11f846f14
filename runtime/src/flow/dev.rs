//! The container's `/dev`: nodes and links.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::{ErrorKind, Failure, Step};
use crate::logic::devices::{LINKS, Node};
use crate::logic::plan::Plan;
use crate::sys::mount::{self, Depth};
use crate::sys::no;
use crate::sys::path::{self, Access, FileKind, Missing, Resolve};
use crate::sys::process::ns;

/// The host's nodes, for a user namespace, which may make none of its own.
pub(crate) fn take(plan: &Plan<'_>) -> Result<Vec<OwnedFd>, Failure> {
    if !plan.namespaces.has(ns::USER) || !plan.owns_dev() {
        return Ok(Vec::new());
    }
    plan.nodes
        .iter()
        .map(|node| {
            mount::clone_path(&node.path, Depth::One)
                .step(|| format!("open device {}", node.path.display()))
        })
        .collect()
}

/// Makes nodes and links. The mask of the process must be 0.
pub(crate) fn fill(
    plan: &Plan<'_>,
    root: BorrowedFd<'_>,
    from_host: Vec<OwnedFd>,
) -> Result<(), Failure> {
    if !plan.owns_dev() {
        return Ok(());
    }
    let dev =
        path::open_or_make(root, Path::new("/dev"), Missing::MakeDirectory).step(|| "open /dev")?;
    let mut from_host = from_host.into_iter();
    for node in &plan.nodes {
        let step = || format!("make device {}", node.path.display());
        if let Some(tree) = from_host.next() {
            let place = path::open_or_make(root, &node.path, Missing::MakeFile).step(step)?;
            mount::attach(tree.as_fd(), place.as_fd()).step(step)?;
            continue;
        }
        let parent = node.path.parent().unwrap_or(Path::new("/"));
        if parent == Path::new("/dev") {
            make(dev.as_fd(), node)?;
        } else {
            let dir = path::open_or_make(root, parent, Missing::MakeDirectory).step(step)?;
            make(dir.as_fd(), node)?;
        }
    }
    for (name, target) in LINKS {
        match path::make_link(Path::new(target), dev.as_fd(), Path::new(name)) {
            Err(e) if e.raw_os_error() == Some(no::EEXIST) => {}
            done => done.step(|| format!("make link /dev/{name}"))?,
        }
    }
    Ok(())
}

fn make(dir: BorrowedFd<'_>, node: &Node) -> Result<(), Failure> {
    let step = || format!("make device {}", node.path.display());
    let name = Path::new(node.path.file_name().unwrap_or_default());
    let done = path::make_node(dir, name, node.mode, node.major, node.minor);
    match done {
        // An image may bring files of these names. Only a right one stays. What else is there (a
        // link to somewhere, CVE-2025-31133) makes way for what every container has; where the spec
        // asks for a device, it wants this to be an error.
        Err(e) if e.raw_os_error() == Some(no::EEXIST) => {
            let place = path::open_at(dir, name, Access::Place, Resolve::NoLinks);
            let same = place.and_then(|place| path::facts(place.as_fd()));
            if same.is_ok_and(|facts| facts.kind == node_kind(node)) {
                return Ok(());
            }
            if node.is_asked {
                let text = "something else is there already";
                return Err(Failure::new(ErrorKind::AlreadyExists, step(), text));
            }
            path::remove(dir, name).step(step)?;
            path::make_node(dir, name, node.mode, node.major, node.minor).step(step)?;
        }
        done => done.step(step)?,
    }
    if (node.uid, node.gid) != (0, 0) {
        path::set_owner(dir, name, node.uid, node.gid).step(step)?;
    }
    Ok(())
}

fn node_kind(node: &Node) -> FileKind {
    let (major, minor) = (node.major, node.minor);
    match node.mode & path::KIND_BITS {
        path::BLOCK_DEVICE => FileKind::BlockDevice { major, minor },
        path::FIFO => FileKind::Fifo,
        _ => FileKind::CharDevice { major, minor },
    }
}

/// What the null device is, wherever it is.
pub(crate) const NULL: FileKind = FileKind::CharDevice { major: 1, minor: 3 };

/// The container's `/dev/null`, made sure to be it.
pub(crate) fn null(root: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let step = || "open /dev/null";
    let place =
        path::open_at(root, Path::new("/dev/null"), Access::Place, Resolve::NoLinks).step(step)?;
    if path::facts(place.as_fd()).step(step)?.kind != NULL {
        return Err(Failure::new(ErrorKind::Invalid, step(), "is not the null device"));
    }
    Ok(place)
}
