//! Running from a copy of the own program that nobody can write to (CVE-2019-5736).
//!
//! A container can make the runtime's program its own, by naming `/proc/self/exe` as interpreter of
//! a script that it has executed, and then open it for writing. So the program is run through a
//! read-only mount that belongs to no namespace and that no container can therefore remount; or,
//! where mounting is not allowed, from a sealed copy in memory.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::mount::{self, Attributes, Depth};
use super::{c_str, check};
use crate::logic::mount_options::attr;

const OWN: &CStr = c"/proc/self/exe";
const SEALS: libc::c_int =
    libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// Returns when this process runs from something that can't be written; else executes the same
/// program with the same arguments from there.
pub(crate) fn run_sealed(args: &[CString], env: &[CString]) -> io::Result<()> {
    if is_sealed()? {
        return Ok(());
    }
    let program = match read_only_mount() {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => sealed_copy()?,
        program => program?,
    };
    Err(execute(&program, args, env))
}

fn is_sealed() -> io::Result<bool> {
    // SAFETY: statvfs is plain data for which zeroes are a valid value.
    let mut facts: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated constant, and `facts` lives through the call, which fills it.
    check(i64::from(unsafe { libc::statvfs(OWN.as_ptr(), &mut facts) }))?;
    // The mount's own flags are among them, whatever the file system's are.
    if facts.f_flag & libc::ST_RDONLY != 0 {
        return Ok(true);
    }
    let own = File::open("/proc/self/exe")?;
    // SAFETY: integers only. Files that can't be sealed answer with an error.
    let seals = unsafe { libc::fcntl(own.as_raw_fd(), libc::F_GET_SEALS) };
    Ok(seals >= 0 && seals & SEALS == SEALS)
}

fn read_only_mount() -> io::Result<OwnedFd> {
    let tree = mount::clone_path("/proc/self/exe".as_ref(), Depth::One)?;
    let attributes = Attributes { set: attr::RDONLY, ..Attributes::default() };
    mount::set_attributes(tree.as_fd(), attributes, Depth::One)?;
    Ok(tree)
}

/// A file in memory, closed by execve.
pub(crate) fn memory_file(name: &str) -> io::Result<OwnedFd> {
    let name = c_str(name.as_bytes())?;
    // SAFETY: `name` is NUL-terminated; a success is a new descriptor that is ours alone.
    unsafe {
        let fd = check(i64::from(libc::memfd_create(
            name.as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let copy = memory_file("wharf-runtime")?;
    let mut to = File::from(copy);
    io::copy(&mut File::open("/proc/self/exe")?, &mut to)?;
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::fcntl(to.as_raw_fd(), libc::F_ADD_SEALS, SEALS) }))?;
    Ok(OwnedFd::from(to))
}

fn execute(program: &OwnedFd, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: the path is an empty C string, all strings are NUL-terminated, both arrays end in
    // null, and everything lives through the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}
