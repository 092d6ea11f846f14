//! The root file system: mounted in the container's own mount namespace, and put in the place of
//! the host's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::RootfsMount;
use crate::error::{ErrorKind, Failure, Step};
use crate::logic::mount_options::{MountOptions, ms};
use crate::sys::mount::{self, Attributes, Depth};
use crate::sys::{no, path};

/// Longest options that mount(2) takes.
const PAGE_BYTES: usize = 4096;

/// Cuts the mount namespace off from the host's, or ties it as the spec says.
pub(crate) fn set_propagation(propagation: Option<u64>) -> Result<(), Failure> {
    // Slave by default: binds with `rslave` can still hear of the host's new mounts.
    let bits = propagation.unwrap_or(ms::SLAVE | ms::REC);
    // What can't be bound can't be the source of the container's own root.
    let bits = if bits & ms::UNBINDABLE != 0 { ms::PRIVATE | bits & ms::REC } else { bits };
    mount::set_propagation(Path::new("/"), bits).step(|| "set the propagation of the root mount")
}

/// Binds a root that is there already to itself: pivot_root wants a mount.
pub(crate) fn bind_root(at: &Path) -> Result<(), Failure> {
    let tree =
        mount::clone_path(at, Depth::Tree).step(|| format!("open root.path {}", at.display()))?;
    let place = path::open_host(at).step(|| format!("open root.path {}", at.display()))?;
    mount::attach(tree.as_fd(), place.as_fd())
        .step(|| format!("bind root.path {} to itself", at.display()))
}

/// Mounts the root from its parts, seen by nobody outside this mount namespace.
pub(crate) fn mount_root(mounts: &[RootfsMount], at: &Path) -> Result<(), Failure> {
    for one in mounts {
        let target = match one.target.trim_start_matches('/') {
            "" => at.to_owned(),
            below => at.join(below),
        };
        mount_one(one, &target).map_err(|failure| Failure {
            step: format!("mount the root file system: {}", failure.step),
            ..failure
        })?;
    }
    Ok(())
}

fn mount_one(one: &RootfsMount, target: &Path) -> Result<(), Failure> {
    let mut options = MountOptions::parse(&one.options);
    // Who mounts for a user namespace has done what these say: see `mapped_root`.
    options.data.retain(|option| !option.starts_with("uidmap=") && !option.starts_with("gidmap="));
    if one.kind == "bind" || options.bind.is_some() {
        let depth = if options.bind == Some(true) { Depth::Tree } else { Depth::One };
        let tree = mount::clone_path(Path::new(&one.source), depth)
            .step(|| format!("open {}", one.source))?;
        let change = Attributes {
            set: options.change.set,
            clear: options.change.clear,
            ..Attributes::default()
        };
        if !options.change.is_none() {
            mount::set_attributes(tree.as_fd(), change, Depth::One)
                .step(|| format!("set the options of {}", one.source))?;
        }
        let place = path::open_host(target).step(|| format!("open {}", target.display()))?;
        return mount::attach(tree.as_fd(), place.as_fd())
            .step(|| format!("bind {} to {}", one.source, target.display()));
    }
    let data = options.data.join(",");
    let step = || format!("mount {} on {}", one.kind, target.display());
    // One call when the options fit into its page.
    if data.len() < PAGE_BYTES {
        return mount::mount(&one.source, target, &one.kind, options.mount_flags(), &data)
            .step(step);
    }
    long_overlay(one, &options, target).unwrap_or_else(|| {
        let text = format!("the options are {} bytes long, over the kernel's page", data.len());
        Err(Failure::new(ErrorKind::Exhausted, step(), text))
    })
}

/// An overlay of many layers: each layer in a call of its own (6.7 and later), or all relative to
/// the directory that they share.
fn long_overlay(
    one: &RootfsMount,
    options: &MountOptions,
    target: &Path,
) -> Option<Result<(), Failure>> {
    if one.kind != "overlay" {
        return None;
    }
    let mut each = Vec::new();
    for option in &options.data {
        match option.strip_prefix("lowerdir=") {
            Some(layers) => {
                each.extend(split_layers(layers).into_iter().map(|l| format!("lowerdir+={l}")));
            }
            None => each.push(option.clone()),
        }
    }
    match mount::new_file_system("overlay", Some(&one.source), &each, options.change.set) {
        Ok(tree) => {
            let place = path::open_host(target).step(|| format!("open {}", target.display()));
            return Some(place.and_then(|place| {
                mount::attach(tree.as_fd(), place.as_fd())
                    .step(|| format!("attach the overlay to {}", target.display()))
            }));
        }
        Err(e) if e.raw_os_error() == Some(no::EINVAL) => {}
        Err(e) => return Some(Err(e).step(|| format!("mount overlay on {}", target.display()))),
    }
    relative_overlay(one, options, target)
}

fn relative_overlay(
    one: &RootfsMount,
    options: &MountOptions,
    target: &Path,
) -> Option<Result<(), Failure>> {
    let (layers, rest): (Vec<_>, Vec<_>) =
        options.data.iter().partition(|option| option.starts_with("lowerdir="));
    let layers = split_layers(layers.first()?.strip_prefix("lowerdir=")?);
    let shared = shared_directory(&layers)?;
    let short: Vec<&str> = layers.iter().filter_map(|l| l.strip_prefix(shared)).collect();
    let mut words = vec![format!("lowerdir={}", short.join(":"))];
    words.extend(rest.into_iter().cloned());
    let data = words.join(",");
    if data.len() >= PAGE_BYTES {
        return None;
    }
    let done = path::open_host(Path::new(shared))
        .and_then(|dir| path::change_directory(dir.as_fd()))
        .and_then(|()| mount::mount(&one.source, target, &one.kind, options.mount_flags(), &data));
    Some(done.step(|| format!("mount overlay on {}", target.display())))
}

/// At colons that no backslash guards; the layers keep their backslashes, as both ways of mounting
/// take them off again.
pub(super) fn split_layers(layers: &str) -> Vec<&str> {
    let bytes = layers.as_bytes();
    let mut all = Vec::new();
    let mut from = 0;
    for at in 0..bytes.len() {
        if bytes[at] == b':' && (at == 0 || bytes[at - 1] != b'\\') {
            all.push(&layers[from..at]);
            from = at + 1;
        }
    }
    all.push(&layers[from..]);
    all
}

/// The longest directory, with its slash, that all layers begin with.
pub(super) fn shared_directory<'a>(layers: &[&'a str]) -> Option<&'a str> {
    let first = layers.first()?;
    let mut length = first.len();
    for layer in layers {
        let same = first.bytes().zip(layer.bytes()).take_while(|(a, b)| a == b).count();
        length = length.min(same);
    }
    let slash = first[..length].rfind('/')?;
    Some(&first[..=slash])
}

/// Makes the mount at `at` the root; gives a descriptor of it. The old root stays mounted over it,
/// one ".." away, until [`leave_old_root`].
pub(crate) fn pivot(at: &Path, propagation: Option<u64>) -> Result<OwnedFd, Failure> {
    if propagation.is_some_and(|bits| bits & ms::SHARED != 0) {
        make_parent_private(at)?;
        // The root itself became shared when it was mounted there, and would hold the old one for a
        // moment; what the spec wants of it is set at the end.
        mount::set_propagation(at, ms::PRIVATE)
            .step(|| format!("make {} private", at.display()))?;
    }
    let root = path::open_host(at).step(|| format!("open {}", at.display()))?;
    path::change_directory(root.as_fd()).step(|| format!("change to {}", at.display()))?;
    mount::pivot_here().step(|| format!("pivot_root to {}", at.display()))?;
    Ok(root)
}

/// The same for a root that the parent has mounted: it is put over the old one first, which no path
/// of the host's, closed to a user namespace's root, is needed for.
pub(crate) fn pivot_to(
    tree: OwnedFd,
    old_root: BorrowedFd<'_>,
    propagation: Option<u64>,
) -> Result<OwnedFd, Failure> {
    let step = || "put the root file system in place";
    let is_shared = propagation.is_some_and(|bits| bits & ms::SHARED != 0);
    if is_shared {
        mount::set_propagation(Path::new("/"), ms::PRIVATE).step(step)?;
    }
    mount::attach(tree.as_fd(), old_root).step(step)?;
    path::change_directory(tree.as_fd()).step(step)?;
    mount::pivot_here().step(|| "pivot_root to the root file system")?;
    Ok(tree)
}

/// The same for a host whose root can't be pivoted away (an initial ramdisk).
pub(crate) fn move_root(at: &Path) -> Result<OwnedFd, Failure> {
    hide_kernel_trees(at)?;
    let root = path::open_host(at).step(|| format!("open {}", at.display()))?;
    path::change_directory(root.as_fd()).step(|| format!("change to {}", at.display()))?;
    mount::move_here_to_root().step(|| format!("move {} to the root", at.display()))?;
    Ok(root)
}

/// The same in the host's own mount namespace, which nothing of may change: the root is one for this
/// process alone. What is mounted in it is the host's to see, until [`unmount`].
pub(crate) fn change_root(at: &Path) -> Result<OwnedFd, Failure> {
    let root = path::open_host(at).step(|| format!("open {}", at.display()))?;
    path::change_directory(root.as_fd()).step(|| format!("change to {}", at.display()))?;
    mount::change_root_here().step(|| format!("chroot to {}", at.display()))?;
    Ok(root)
}

/// Takes away what a container without a mount namespace has mounted: all is on its root, bound to
/// itself. A mount there that is anything else is its owner's.
pub(crate) fn unmount(at: &Path) -> Result<(), Failure> {
    let text =
        std::fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
    if !is_bound_to_itself(&text, at) {
        return Ok(());
    }
    mount::detach(at).step(|| format!("unmount {}", at.display()))
}

/// Whether the topmost mount at `at` shows what is at that place of the mount below it.
fn is_bound_to_itself(mountinfo: &str, at: &Path) -> bool {
    let fields = |line: &'_ str| -> Option<[String; 5]> {
        let all: Vec<String> = line.split(' ').take(5).map(str::to_owned).collect();
        all.try_into().ok()
    };
    let all: Vec<_> = mountinfo.lines().filter_map(fields).collect();
    let Some([_, parent, device, root, _]) =
        all.iter().rev().find(|[.., place]| Path::new(place) == at)
    else {
        return false;
    };
    let Some([_, _, below, its_root, its_place]) = all.iter().find(|[id, ..]| id == parent) else {
        return false;
    };
    let shown = at.strip_prefix(its_place).map(|rest| Path::new(its_root).join(rest));
    device == below && shown.is_ok_and(|shown| shown == Path::new(root))
}

/// A root that is only moved leaves the host's mounts in this namespace, out of sight. The kernel
/// takes a whole procfs among them for leave to mount another, with nothing masked: so they go.
fn hide_kernel_trees(at: &Path) -> Result<(), Failure> {
    let text =
        std::fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
    for line in text.lines() {
        let mut fields = line.split(' ');
        let (Some(root), Some(place)) = (fields.nth(3), fields.next()) else { continue };
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next());
        // The kernel writes a blank as \\040, and so on; such a place is no host's for these.
        let place = Path::new(place);
        if root != "/" || !matches!(kind, Some("proc" | "sysfs")) || place.starts_with(at) {
            continue;
        }
        let step = || format!("hide {} of the host", place.display());
        match mount::set_propagation(place, ms::SLAVE | ms::REC) {
            // What it was on has gone before.
            Err(e) if e.raw_os_error() == Some(no::ENOENT) => continue,
            done => done.step(step)?,
        }
        match mount::detach(place) {
            Err(e) if matches!(e.raw_os_error(), Some(no::EINVAL | no::EPERM)) => {
                mount::mount("tmpfs", place, "tmpfs", 0, "").step(step)?;
            }
            done => done.step(step)?,
        }
    }
    Ok(())
}

/// Lets go of the host's file systems.
pub(crate) fn leave_old_root(
    old_root: BorrowedFd<'_>,
    new_root: BorrowedFd<'_>,
    propagation: Option<u64>,
) -> Result<(), Failure> {
    path::change_directory(old_root).step(|| "change to the old root")?;
    if propagation.is_some() {
        // Where the spec tied this namespace to the host's, the unmount must not travel there.
        mount::set_propagation(Path::new("."), ms::SLAVE | ms::REC)
            .step(|| "cut the old root off")?;
    }
    mount::detach_here().step(|| "unmount the old root")?;
    path::change_directory(new_root).step(|| "change to the root")
}

/// pivot_root refuses a new root whose parent mount is shared.
fn make_parent_private(at: &Path) -> Result<(), Failure> {
    let text =
        std::fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
    let parent = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
        .filter(|mount| at.starts_with(mount) && *mount != at)
        .max_by_key(|mount| mount.as_os_str().len())
        .unwrap_or(Path::new("/"));
    mount::set_propagation(parent, ms::PRIVATE)
        .step(|| format!("make {} private", parent.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_bound_to_itself() {
        let disk = "20 1 8:1 / / rw - ext4 disk rw\n";
        let bound = format!("{disk}30 20 8:1 /b/rootfs /b/rootfs rw - ext4 disk rw\n");
        let at = Path::new("/b/rootfs");
        assert!(is_bound_to_itself(&bound, at));
        let overlay = format!("{disk}30 20 0:9 / /b/rootfs rw - overlay overlay rw\n");
        assert!(!is_bound_to_itself(&overlay, at));
        let both = format!("{overlay}31 30 0:9 / /b/rootfs rw - overlay overlay rw\n");
        assert!(is_bound_to_itself(&both, at));
        let other = format!("{disk}30 20 8:1 /elsewhere /b/rootfs rw - ext4 disk rw\n");
        assert!(!is_bound_to_itself(&other, at));
        assert!(!is_bound_to_itself(disk, at));
    }

    #[test]
    fn layers_are_split_at_bare_colons_and_share_a_directory() {
        assert_eq!(split_layers(r"/a\:b:/c"), [r"/a\:b", "/c"]);
        assert_eq!(shared_directory(&["/v/s/12/fs", "/v/s/13/fs"]), Some("/v/s/"));
        assert_eq!(shared_directory(&["/a", "/b"]), Some("/"));
    }
}
