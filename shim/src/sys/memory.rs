//! Memory that a shim has only while it needs it.

use std::ptr::NonNull;

/// Pages that are zero until written and given back with [`Scratch::release`]: a buffer for the
/// hot path that costs an idle shim nothing.
#[derive(Debug)]
pub(crate) struct Scratch {
    start: Option<NonNull<u8>>,
    len: usize,
}

impl Scratch {
    pub(crate) const fn new(len: usize) -> Self {
        Self { start: None, len }
    }

    /// The buffer, mapped on first use. Contents are whatever was written last.
    pub(crate) fn get(&mut self) -> std::io::Result<&mut [u8]> {
        let start = match self.start {
            Some(start) => start,
            None => {
                let start = map(self.len)?;
                self.start = Some(start);
                start
            }
        };
        // SAFETY: `start` came from mmap with `len` bytes, readable and writable, and is not
        // unmapped before `release` or drop, which need `self`; every byte of it is initialised
        // (anonymous memory is zero); the borrow of `self` keeps the slice the only way in.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.len) })
    }

    /// Gives the pages back to the kernel. The mapping itself stays.
    pub(crate) fn release(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: the range is a mapping of our own, whole, and no slice of it is alive
            // (`&mut self`); after MADV_DONTNEED anonymous pages read as zero.
            let _ = unsafe { libc::madvise(start.as_ptr().cast(), self.len, libc::MADV_DONTNEED) };
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(start) = self.start.take() {
            // SAFETY: mapped by us with this length, never used again.
            let _ = unsafe { libc::munmap(start.as_ptr().cast(), self.len) };
        }
    }
}

fn map(len: usize) -> std::io::Result<NonNull<u8>> {
    // SAFETY: no address is asked for and no file is mapped, so nothing that exists is touched;
    // the result is checked below.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
}

/// Gives freed heap memory back to the kernel, after a spec was parsed and when idle.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches only free chunks.
    let _ = unsafe { libc::malloc_trim(0) };
}
