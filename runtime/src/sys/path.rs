//! Paths: opened from a directory descriptor and kept inside it by the kernel (openat2), and what
//! a descriptor turns out to be.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use super::{c_path, check, errno};

/// How far a path may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolve {
    /// Symbolic links are followed, "/" and ".." end at the directory.
    InRoot,
    /// No symbolic link anywhere on the way.
    NoLinks,
    /// No symbolic link and no crossing into another mount.
    NoLinksOneMount,
}

/// What an opened thing is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A place, of any kind; nothing is read.
    Place,
    /// A place that must be a directory.
    Directory,
    Write,
    ReadWrite,
}

/// File systems that the runtime must tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FsKind {
    Proc,
    Sysfs,
    DevPts,
    Tmpfs,
    Cgroup2,
    Namespaces,
    Other(i64),
}

/// What kind of file a descriptor is open on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) kind: FileKind,
    pub(crate) uid: u32,
    pub(crate) mode_bits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Directory,
    Regular,
    Link,
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Other,
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens `path` below `dir`.
pub(crate) fn open_at(
    dir: BorrowedFd<'_>,
    path: &Path,
    access: Access,
    resolve: Resolve,
) -> io::Result<OwnedFd> {
    let flags = match access {
        Access::Place => libc::O_PATH,
        Access::Directory => libc::O_PATH | libc::O_DIRECTORY,
        Access::Write => libc::O_WRONLY,
        Access::ReadWrite => libc::O_RDWR | libc::O_NOCTTY,
    };
    let resolve = match resolve {
        Resolve::InRoot => libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
        Resolve::NoLinks => libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS,
        Resolve::NoLinksOneMount => {
            libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_XDEV
        }
    };
    open_how(dir, path, flags as u64, 0, resolve)
}

/// Makes a regular file that was not there.
fn create_file_at(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<OwnedFd> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    open_how(dir, name, flags as u64, u64::from(mode), libc::RESOLVE_IN_ROOT)
}

fn open_how(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: u64,
    mode: u64,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let how = OpenHow { flags: flags | libc::O_CLOEXEC as u64, mode, resolve };
    // The kernel may say EAGAIN when something on the way is renamed meanwhile; bounded, so that
    // a hostile neighbour can't keep us here.
    for _ in 0..128 {
        // SAFETY: `path` is NUL-terminated, `how` is a whole open_how of the size given, both live
        // through the call; a success is a new descriptor that is ours alone.
        let opened = unsafe {
            check(libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                std::ptr::from_ref(&how),
                std::mem::size_of::<OpenHow>(),
            ))
            .map(|fd| OwnedFd::from_raw_fd(fd as i32))
        };
        match opened {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            other => return other,
        }
    }
    Err(errno(libc::EAGAIN))
}

/// What must be at a mount's target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    MakeDirectory,
    MakeFile,
}

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Opens the place `path` inside `root`; what is missing on the way is made. A link that leads to
/// nothing is followed inside of the root, as it would be if its end were there: images have such
/// for what is only there while they run (`/etc/resolv.conf`).
pub(crate) fn open_or_make(
    root: BorrowedFd<'_>,
    path: &Path,
    missing: Missing,
) -> io::Result<OwnedFd> {
    match open_at(root, path, Access::Place, Resolve::InRoot) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
        other => return other,
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(errno(libc::EINVAL));
    }
    let mut todo = names_of(path);
    let mut reached = PathBuf::from("/");
    let mut here = open_at(root, &reached, Access::Directory, Resolve::InRoot)?;
    let mut links = 0;
    while let Some(name) = todo.pop() {
        let next = reached.join(&name);
        here = match open_at(root, &next, Access::Place, Resolve::InRoot) {
            Ok(place) => place,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let name = Path::new(&name);
                if let Some(target) = read_link(here.as_fd(), name)? {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(errno(libc::ELOOP));
                    }
                    if target.is_absolute() {
                        reached = PathBuf::from("/");
                        here = open_at(root, &reached, Access::Directory, Resolve::InRoot)?;
                    }
                    todo.extend(names_of(&target));
                    continue;
                }
                if todo.is_empty() && missing == Missing::MakeFile {
                    return create_file_at(here.as_fd(), name, 0o644)
                        .and_then(|file| reopen_place(here.as_fd(), name, &file));
                }
                make_directory(here.as_fd(), name, 0o755)?;
                open_at(here.as_fd(), name, Access::Directory, Resolve::NoLinks)?
            }
            Err(e) => return Err(e),
        };
        reached = next;
    }
    Ok(here)
}

/// The names of a path, the last first.
fn names_of(path: &Path) -> Vec<std::ffi::OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut all: Vec<_> = names.collect();
    all.reverse();
    all
}

/// Where a link leads; none if there is nothing of that name.
fn read_link(dir: BorrowedFd<'_>, name: &Path) -> io::Result<Option<PathBuf>> {
    match nix::fcntl::readlinkat(dir, name) {
        Ok(target) => Ok(Some(target.into())),
        Err(nix::errno::Errno::ENOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn reopen_place(dir: BorrowedFd<'_>, name: &Path, made: &OwnedFd) -> io::Result<OwnedFd> {
    let place = open_at(dir, name, Access::Place, Resolve::NoLinks)?;
    let (a, b) = (facts(place.as_fd())?, facts(made.as_fd())?);
    if (a.device, a.inode) != (b.device, b.inode) {
        return Err(errno(libc::ELOOP));
    }
    Ok(place)
}

/// mkdirat; already there is an error, as it may be a link.
pub(crate) fn make_directory(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<()> {
    let name = c_path(name)?;
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(i64::from(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }))?;
    Ok(())
}

/// mknodat of a device or FIFO; the last name is never followed.
pub(crate) fn make_node(
    dir: BorrowedFd<'_>,
    name: &Path,
    mode: u32,
    major: u32,
    minor: u32,
) -> io::Result<()> {
    let name = c_path(name)?;
    let device = libc::makedev(major, minor);
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(i64::from(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }))?;
    Ok(())
}

/// File type bits for [`make_node`].
pub(crate) const CHAR_DEVICE: u32 = libc::S_IFCHR;
pub(crate) const BLOCK_DEVICE: u32 = libc::S_IFBLK;
pub(crate) const FIFO: u32 = libc::S_IFIFO;
/// All bits of a file's type.
pub(crate) const KIND_BITS: u32 = libc::S_IFMT;

/// symlinkat.
pub(crate) fn make_link(target: &Path, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    let (target, name) = (c_path(target)?, c_path(name)?);
    // SAFETY: both strings are NUL-terminated and live through the call.
    check(i64::from(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }))?;
    Ok(())
}

/// unlinkat of a file.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    let name = c_path(name)?;
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(i64::from(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) }))?;
    Ok(())
}

/// fchownat without following the last link.
pub(crate) fn set_owner(dir: BorrowedFd<'_>, name: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let name = c_path(name)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `name` is NUL-terminated and lives through the call.
    check(i64::from(unsafe { libc::fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, flags) }))?;
    Ok(())
}

/// Changes to the directory that `dir` is open on.
pub(crate) fn change_directory(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call.
    check(i64::from(unsafe { libc::fchdir(dir.as_raw_fd()) }))?;
    Ok(())
}

/// Where this process is, as the kernel sees it: outside of the root it does not begin with "/".
pub(crate) fn current_directory() -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: pointer and length are of one live buffer. The raw call is used because the C
    // library hides an unreachable directory behind an error of its own.
    let length =
        check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    buffer.truncate((length as usize).saturating_sub(1));
    Ok(buffer)
}

/// The file system that a descriptor is on.
pub(crate) fn fs_kind(fd: BorrowedFd<'_>) -> io::Result<FsKind> {
    // SAFETY: statfs is plain data for which zeroes are a valid value.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` lives through the call, which fills it.
    check(i64::from(unsafe { libc::fstatfs(fd.as_raw_fd(), &mut stat) }))?;
    #[allow(clippy::unnecessary_cast)] // its width differs between C libraries
    Ok(match stat.f_type as i64 {
        0x9fa0 => FsKind::Proc,
        0x6265_6572 => FsKind::Sysfs,
        0x1cd1 => FsKind::DevPts,
        0x0102_1994 => FsKind::Tmpfs,
        0x6367_7270 => FsKind::Cgroup2,
        0x6e73_6673 => FsKind::Namespaces,
        other => FsKind::Other(other),
    })
}

/// The attributes of the mount that a descriptor is in, in the numbers of mount_setattr: read-only,
/// nosuid, nodev, noexec.
pub(crate) fn mount_attributes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let flags = nix::sys::statvfs::fstatvfs(fd)?.flags().bits();
    // The first four are the same numbers there.
    #[allow(clippy::unnecessary_cast)] // its width differs between C libraries
    Ok(flags as u64 & 0xf)
}

/// What a descriptor is open on.
pub(crate) fn facts(fd: BorrowedFd<'_>) -> io::Result<FileFacts> {
    // SAFETY: stat is plain data for which zeroes are a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` lives through the call, which fills it.
    check(i64::from(unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) }))?;
    let kind = match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFREG => FileKind::Regular,
        libc::S_IFLNK => FileKind::Link,
        libc::S_IFCHR => FileKind::CharDevice {
            major: libc::major(stat.st_rdev),
            minor: libc::minor(stat.st_rdev),
        },
        libc::S_IFBLK => FileKind::BlockDevice {
            major: libc::major(stat.st_rdev),
            minor: libc::minor(stat.st_rdev),
        },
        libc::S_IFIFO => FileKind::Fifo,
        _ => FileKind::Other,
    };
    Ok(FileFacts {
        device: stat.st_dev,
        inode: stat.st_ino,
        kind,
        uid: stat.st_uid,
        mode_bits: stat.st_mode & 0o7777,
    })
}

/// What a regular file of the container's holds, up to `most` bytes; never waits for a writer, and
/// never follows a magic link.
pub(crate) fn read_small(root: BorrowedFd<'_>, path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    let file = open_how(root, path, flags as u64, 0, resolve)?;
    if facts(file.as_fd())?.kind != FileKind::Regular {
        return Err(errno(libc::EINVAL));
    }
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::from(file), most), &mut bytes)?;
    Ok(bytes)
}

/// Writes all of `text` in one call, as files of the kernel want it.
pub(crate) fn write_at(
    dir: BorrowedFd<'_>,
    path: &Path,
    resolve: Resolve,
    text: &str,
) -> io::Result<()> {
    File::from(open_at(dir, path, Access::Write, resolve)?).write_all(text.as_bytes())
}

/// Sets the file mode mask; gives the old one.
pub(crate) fn set_umask(mask: u32) -> u32 {
    // SAFETY: no conditions; never fails.
    unsafe { libc::umask(mask) }
}

/// The root directory of this process, as a place.
pub(crate) fn open_root() -> io::Result<OwnedFd> {
    open_host(Path::new("/"))
}

/// A path of the host, as a place. Only for paths that no container can have a hand in.
pub(crate) fn open_host(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: `path` is NUL-terminated; a success is a new descriptor that is ours alone.
    unsafe {
        let fd = check(i64::from(libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC)))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}
