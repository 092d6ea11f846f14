//! Mounts, by the calls of Linux 5.2 and later (open_tree, move_mount, fsopen, mount_setattr) and
//! by mount(2) where one call does what the new ones need five for.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use super::{c_path, c_str, check};

/// Whether what is mounted below goes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    One,
    Tree,
}

const EMPTY_PATH: libc::c_int = libc::AT_EMPTY_PATH;
const AT_RECURSIVE: libc::c_int = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// What `mount_setattr` takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) userns_fd: u64,
}

/// An attribute: owners are seen through the user namespace of `userns_fd`.
pub(crate) const MAPPED: u64 = 0x10_0000;

/// A descriptor as [`Attributes`] have it; it must stay open until they are set.
pub(crate) fn raw(fd: BorrowedFd<'_>) -> u64 {
    fd.as_raw_fd() as u64
}

/// A detached copy of the mount at `path`; a last symbolic link is followed.
pub(crate) fn clone_path(path: &Path, depth: Depth) -> io::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, &c_path(path)?, 0, depth)
}

/// A detached copy of the mount that the descriptor is in, from there on down.
pub(crate) fn clone_fd(fd: BorrowedFd<'_>, depth: Depth) -> io::Result<OwnedFd> {
    open_tree(fd.as_raw_fd(), c"", EMPTY_PATH, depth)
}

fn open_tree(dir: i32, path: &CStr, flags: libc::c_int, depth: Depth) -> io::Result<OwnedFd> {
    let mut flags = flags as u32 | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    if depth == Depth::Tree {
        flags |= AT_RECURSIVE as u32;
    }
    // SAFETY: `path` is NUL-terminated and lives through the call; a success is a new descriptor
    // that is ours alone.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// Attaches a detached mount on top of what `target` is open on.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are empty C strings; the descriptors are borrowed for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Changes the attributes of the mount whose root (or any place) `fd` is open on.
pub(crate) fn set_attributes(
    fd: BorrowedFd<'_>,
    attributes: Attributes,
    depth: Depth,
) -> io::Result<()> {
    let flags = if depth == Depth::Tree { EMPTY_PATH | AT_RECURSIVE } else { EMPTY_PATH };
    // SAFETY: the path is an empty C string; `attributes` is a whole mount_attr of the size given
    // and lives through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            std::mem::size_of::<Attributes>(),
        )
    })?;
    Ok(())
}

/// A new file system that is mounted nowhere yet. Options are `key=value` or `flag`.
pub(crate) fn new_file_system(
    kind: &str,
    source: Option<&str>,
    options: &[String],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let kind = c_str(kind.as_bytes())?;
    // SAFETY: `kind` is NUL-terminated and lives through the call; the new descriptor is ours.
    let context = unsafe {
        let fd = check(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1 /* CLOEXEC */))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    if let Some(source) = source {
        configure(&context, FSCONFIG_SET_STRING, Some("source"), Some(source))?;
    }
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => {
                configure(&context, FSCONFIG_SET_STRING, Some(key), Some(value))?;
            }
            None => configure(&context, FSCONFIG_SET_FLAG, Some(option), None)?,
        }
    }
    configure(&context, FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: integers only; the new descriptor is ours alone.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            1, // CLOEXEC
            attributes as libc::c_uint,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: Option<&str>,
    value: Option<&str>,
) -> io::Result<()> {
    let key = key.map(|key| c_str(key.as_bytes())).transpose()?;
    let value = value.map(|value| c_str(value.as_bytes())).transpose()?;
    // SAFETY: key and value are NUL-terminated strings that live through the call, or null where
    // the command takes none.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr()),
            value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr()),
            0,
        )
    })?;
    Ok(())
}

/// mount(2). `target` "." is the current directory, whatever its name.
pub(crate) fn mount(
    source: &str,
    target: &Path,
    kind: &str,
    flags: u64,
    data: &str,
) -> io::Result<()> {
    let (source, target) = (c_str(source.as_bytes())?, c_path(target)?);
    let (kind, data) = (c_str(kind.as_bytes())?, c_str(data.as_bytes())?);
    // SAFETY: four NUL-terminated strings that live through the call. Data is a string for every
    // file system that takes a string, and the runtime names no other.
    check(i64::from(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags as libc::c_ulong,
            data.as_ptr().cast(),
        )
    }))?;
    Ok(())
}

/// Sets how mounts and unmounts travel, for the mount at `target`.
pub(crate) fn set_propagation(target: &Path, flags: u64) -> io::Result<()> {
    mount("", target, "", flags, "")
}

/// Puts the current directory, a mount, in the place of the root, with the old root over it, and
/// leaves the current directory on the old root's mount.
pub(crate) fn pivot_here() -> io::Result<()> {
    // SAFETY: two NUL-terminated constants.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    Ok(())
}

/// Takes the topmost mount at the current directory away, with all below it.
pub(crate) fn detach_here() -> io::Result<()> {
    // SAFETY: a NUL-terminated constant.
    check(i64::from(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }))?;
    Ok(())
}

/// Makes the current directory this process' root.
pub(crate) fn change_root_here() -> io::Result<()> {
    // SAFETY: a NUL-terminated constant.
    check(i64::from(unsafe { libc::chroot(c".".as_ptr()) }))?;
    Ok(())
}

/// Moves the mount at the current directory over "/" and makes it the root (for hosts whose root
/// is the initial ramdisk, which can't be pivoted away).
pub(crate) fn move_here_to_root() -> io::Result<()> {
    mount(".", Path::new("/"), "", libc::MS_MOVE, "")?;
    change_root_here()
}

/// Lets a mount go, with what is below it, once nobody uses it.
pub(crate) fn detach(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    let flags = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
    // SAFETY: `target` is NUL-terminated and lives through the call.
    check(i64::from(unsafe { libc::umount2(target.as_ptr(), flags) }))?;
    Ok(())
}
