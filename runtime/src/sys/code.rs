//! The memory that the program's own code takes.
//!
//! Whenever code is run for the first time, the kernel maps the 64 KiB around it as well (since 3.15,
//! "fault-around"), and each page counts as this process' memory from then on. A run goes through
//! nearly all of the program, a part at a time; so between two parts what is mapped is let go. It
//! stays in the page cache, from where what is needed again is mapped again: some ten faults of a
//! microsecond.

/// Lets go of the code and constants mapped so far. Only where they are known to lie in one piece:
/// in release programs, see `build.rs`.
pub(crate) fn let_go() {
    #[cfg(wharf_static)]
    {
        unsafe extern "C" {
            // Of the linker: the first byte of the program, and the first after its code.
            static __executable_start: u8;
            static etext: u8;
        }
        let page = 4096;
        let start = &raw const __executable_start as usize;
        let end = (&raw const etext as usize) & !(page - 1);
        // SAFETY: from the first byte to the end of the code there are only segments that are mapped
        // from the program's file and that nobody can write to, so a page that is let go comes back
        // from there as it was. Advice about what is not mapped is refused and changes nothing.
        unsafe {
            libc::madvise(
                start as *mut libc::c_void,
                end.saturating_sub(start),
                libc::MADV_DONTNEED,
            );
        }
    }
}
