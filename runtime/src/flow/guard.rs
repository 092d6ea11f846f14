//! What the container may see and change of the kernel: parameters, masked and read-only paths.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::dev;
use super::mounts::make_read_only;
use crate::error::{ErrorKind, Failure, Step};
use crate::logic::mount_options::attr;
use crate::logic::plan::Plan;
use crate::sys::mount::{self, Attributes, Depth};
use crate::sys::no;
use crate::sys::path::{self, Access, FileKind, FsKind, Resolve};

/// Sets kernel parameters, through a procfs that is known to be one.
pub(crate) fn set_parameters(plan: &Plan<'_>, proc: Option<&OwnedFd>) -> Result<(), Failure> {
    if plan.sysctls.is_empty() {
        return Ok(());
    }
    let own;
    let proc = match proc {
        Some(proc) => proc,
        None => {
            own = mount::new_file_system("proc", Some("proc"), &[], 0).step(|| "make procfs")?;
            &own
        }
    };
    let step = || "check procfs";
    if path::fs_kind(proc.as_fd()).step(step)? != FsKind::Proc {
        return Err(Failure::new(ErrorKind::Internal, step(), "is not procfs"));
    }
    for (name, value) in &plan.sysctls {
        // Nothing mounted over a part of it is crossed, no link followed.
        let file = Path::new("sys").join(name);
        path::write_at(proc.as_fd(), &file, Resolve::NoLinksOneMount, value)
            .step(|| format!("linux.sysctl: write {value:?} to {}", file.display()))?;
    }
    Ok(())
}

fn open_guarded(root: BorrowedFd<'_>, at: &str) -> Result<Option<OwnedFd>, Failure> {
    match path::open_at(root, Path::new(at), Access::Place, Resolve::InRoot) {
        Err(e) if matches!(e.raw_os_error(), Some(no::ENOENT | no::ENOTDIR)) => Ok(None),
        place => place.map(Some).step(|| format!("open {at}")),
    }
}

/// Makes paths read-only, with all that is mounted below them.
pub(crate) fn protect(plan: &Plan<'_>, root: BorrowedFd<'_>) -> Result<(), Failure> {
    for at in plan.read_only {
        let Some(place) = open_guarded(root, at)? else { continue };
        let step = || format!("linux.readonlyPaths: protect {at}");
        let tree = mount::clone_fd(place.as_fd(), Depth::Tree).step(step)?;
        let attributes = Attributes { set: attr::RDONLY, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), attributes, Depth::Tree).step(step)?;
        mount::attach(tree.as_fd(), place.as_fd()).step(step)?;
    }
    Ok(())
}

/// Covers paths: files with the null device, directories with one empty read-only tmpfs for all.
pub(crate) fn mask(plan: &Plan<'_>, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let (mut null, mut empty): (Option<OwnedFd>, Option<OwnedFd>) = (None, None);
    for at in plan.masked {
        let Some(place) = open_guarded(root, at)? else { continue };
        let step = || format!("linux.maskedPaths: cover {at}");
        let cover = if path::facts(place.as_fd()).step(step)?.kind == FileKind::Directory {
            match &empty {
                Some(empty) => mount::clone_fd(empty.as_fd(), Depth::One).step(step)?,
                None => {
                    let options = ["size=0".to_owned(), "nr_inodes=2".to_owned()];
                    let flags = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
                    mount::new_file_system("tmpfs", Some("tmpfs"), &options, flags).step(step)?
                }
            }
        } else {
            if null.is_none() {
                null = Some(dev::null(root)?);
            }
            let Some(null) = &null else { continue };
            mount::clone_fd(null.as_fd(), Depth::One).step(step)?
        };
        mount::attach(cover.as_fd(), place.as_fd()).step(step)?;
        if empty.is_none() && path::facts(cover.as_fd()).step(step)?.kind == FileKind::Directory {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// What was left writable to be filled is closed.
pub(crate) fn close_later(later: &[OwnedFd]) -> Result<(), Failure> {
    later
        .iter()
        .try_for_each(|place| make_read_only(place.as_fd()).step(|| "make a tmpfs read-only"))
}

/// The root itself is closed, when the spec says so.
pub(crate) fn close_root(plan: &Plan<'_>, root: BorrowedFd<'_>) -> Result<(), Failure> {
    if !plan.root_read_only {
        return Ok(());
    }
    make_read_only(root).step(|| "make the root read-only")
}
