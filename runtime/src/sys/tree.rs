//! Walking a tree of files by descriptors: what is in a directory, and each of them copied.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, errno};

/// The names in a directory, without "." and "..".
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    // A descriptor of its own: reading moves its place.
    let own = open(dir, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    let mut all = Vec::new();
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        // SAFETY: pointer and length are of one live buffer.
        let length = check(unsafe {
            libc::syscall(libc::SYS_getdents64, own.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
        })? as usize;
        if length == 0 {
            return Ok(all);
        }
        let mut at = 0;
        while at + 19 <= length {
            // struct linux_dirent64: two numbers of eight bytes, the entry's length, a type, a name.
            let size = usize::from(u16::from_ne_bytes([buffer[at + 16], buffer[at + 17]]));
            let entry = buffer.get(at + 19..at + size).ok_or_else(|| errno(libc::EIO))?;
            let name = CStr::from_bytes_until_nul(entry).map_err(|_| errno(libc::EIO))?;
            if name != c"." && name != c".." {
                all.push(name.to_owned());
            }
            at += size;
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &CStr, flags: libc::c_int, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: `name` is NUL-terminated and lives through the call; a success is a new descriptor
    // that is ours alone.
    unsafe {
        let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let fd = check(i64::from(libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, mode)))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn stat(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<libc::stat> {
    // SAFETY: stat is plain data for which zeroes are a valid value.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `name` is NUL-terminated; `stat` lives through the call, which fills it.
    check(i64::from(unsafe { libc::fstatat(dir.as_raw_fd(), name.as_ptr(), &mut stat, flags) }))?;
    Ok(stat)
}

/// What a copy turned out to be.
pub(crate) enum Copied {
    Done,
    /// A directory, open on both sides, whose content is left to do.
    Directory(OwnedFd, OwnedFd),
}

/// Copies one name: kind, content, owner, mode and times. No link is followed.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<Copied> {
    let facts = stat(from, name)?;
    let mode = facts.st_mode & 0o7777;
    let mut copied = Copied::Done;
    match facts.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            // SAFETY: `name` is NUL-terminated and lives through the call.
            check(i64::from(unsafe { libc::mkdirat(to.as_raw_fd(), name.as_ptr(), 0o700) }))?;
            let open = |dir| open(dir, name, libc::O_RDONLY | libc::O_DIRECTORY, 0);
            copied = Copied::Directory(open(from)?, open(to)?);
        }
        libc::S_IFREG => {
            let mut source = File::from(open(from, name, libc::O_RDONLY, 0)?);
            let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
            io::copy(&mut source, &mut File::from(open(to, name, flags, 0o600)?))?;
        }
        libc::S_IFLNK => {
            let mut target = vec![0u8; libc::PATH_MAX as usize];
            // SAFETY: `name` is NUL-terminated; pointer and length are of one live buffer, whose
            // last byte stays zero.
            let length = check(unsafe {
                libc::readlinkat(
                    from.as_raw_fd(),
                    name.as_ptr(),
                    target.as_mut_ptr().cast(),
                    target.len() - 1,
                )
            } as i64)?;
            target.truncate(length as usize);
            let target = super::c_str(&target)?;
            // SAFETY: both strings are NUL-terminated and live through the call.
            check(i64::from(unsafe {
                libc::symlinkat(target.as_ptr(), to.as_raw_fd(), name.as_ptr())
            }))?;
        }
        kind => {
            // SAFETY: `name` is NUL-terminated and lives through the call.
            check(i64::from(unsafe {
                libc::mknodat(to.as_raw_fd(), name.as_ptr(), kind | 0o600, facts.st_rdev)
            }))?;
        }
    }
    let at = to.as_raw_fd();
    // SAFETY: `name` is NUL-terminated and lives through the calls, and the times are two.
    unsafe {
        let no_follow = libc::AT_SYMLINK_NOFOLLOW;
        check(libc::fchownat(at, name.as_ptr(), facts.st_uid, facts.st_gid, no_follow).into())?;
        if facts.st_mode & libc::S_IFMT != libc::S_IFLNK {
            // After the owner, whose change takes set-user-id away.
            check(libc::fchmodat(at, name.as_ptr(), mode, 0).into())?;
        }
        set_times(at, name, &facts)?;
    }
    Ok(copied)
}

/// # Safety
/// None beyond what the types say; the call wants a name and two times.
unsafe fn set_times(dir: i32, name: &CStr, facts: &libc::stat) -> io::Result<()> {
    let times = [
        libc::timespec { tv_sec: facts.st_atime, tv_nsec: facts.st_atime_nsec as _ },
        libc::timespec { tv_sec: facts.st_mtime, tv_nsec: facts.st_mtime_nsec as _ },
    ];
    // SAFETY: `name` is NUL-terminated, and the times are two, as the call wants them.
    check(i64::from(unsafe {
        libc::utimensat(dir, name.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW)
    }))?;
    Ok(())
}

/// Gives the directory `to` the owner of `from`, and its mode if wanted.
pub(crate) fn copy_top(from: BorrowedFd<'_>, to: BorrowedFd<'_>, mode: bool) -> io::Result<()> {
    let facts = stat(from, c"")?;
    let own = open(to, c".", libc::O_RDONLY | libc::O_DIRECTORY, 0)?;
    // SAFETY: integers only; the descriptor is ours.
    unsafe {
        check(libc::fchown(own.as_raw_fd(), facts.st_uid, facts.st_gid).into())?;
        if mode {
            check(libc::fchmod(own.as_fd().as_raw_fd(), facts.st_mode & 0o7777).into())?;
        }
    }
    Ok(())
}
