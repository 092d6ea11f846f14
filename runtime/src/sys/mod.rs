//! The kernel: every system call of the runtime, and the only place with unsafe code.
//!
//! Functions here do one thing each and decide nothing; errors are plain `io::Error`s, to which
//! the flows add what was being done to what.

pub(crate) mod bpf;
pub(crate) mod channel;
pub(crate) mod code;
pub(crate) mod cred;
mod early;
pub(crate) mod exec;
pub(crate) mod foreground;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod netlink;
pub(crate) mod path;
pub(crate) mod process;
pub(crate) mod sealed;
pub(crate) mod tree;
pub(crate) mod tty;
pub(crate) mod watch;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The result of a call that says -1 and errno.
fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// A path for the kernel; a NUL inside can name no file.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    c_str(path.as_os_str().as_bytes())
}

/// A string for the kernel.
pub(crate) fn c_str(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// An error with a number of our choosing.
pub(crate) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Numbers that decisions are made on, so that flows need no libc.
pub(crate) mod no {
    pub(crate) use libc::{
        EBUSY, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOEXEC, ENOSYS, ENOTDIR, EOPNOTSUPP, EPERM,
        ESRCH,
    };
    pub(crate) use libc::{O_NOFOLLOW as NOFOLLOW, O_NONBLOCK as NONBLOCK};
}

/// Signals that the runtime itself sends.
pub(crate) mod sig {
    pub(crate) use libc::SIGKILL;
}
