//! `tmpcopyup`: a new tmpfs begins with what is in the directory under it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sys::errno;
use crate::sys::no;
use crate::sys::tree::{self, Copied};

/// Deeper than any tree that is not made to exhaust whoever walks it.
const MAX_DEPTH: usize = 128;

/// Copies the content of `from`, the directory below, into `to`, the tmpfs on it. Both are open
/// from before and after the mount, so no path is walked. Bounded by the tmpfs' own size.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, keeps_mode: bool) -> io::Result<()> {
    tree::copy_top(from, to, keeps_mode)?;
    content(from, to, 0)
}

fn content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(errno(no::ELOOP));
    }
    for name in tree::names(from)? {
        if let Copied::Directory(from, to) = tree::copy(from, to, &name)? {
            content(from.as_fd(), to.as_fd(), depth + 1)?;
        }
    }
    Ok(())
}
