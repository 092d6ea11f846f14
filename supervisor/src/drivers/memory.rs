//! How the C library's allocator keeps what was given back.

/// Two arenas for all threads, and what is free at the end of the heap given back early. By itself
/// the allocator makes eight arenas a CPU, and each keeps what its busiest moment took. To be called
/// before there is a second thread.
pub fn frugal() {
    #[cfg(target_env = "gnu")]
    {
        const ARENAS: libc::c_int = 2;
        const TRIM_BYTES: libc::c_int = 256 << 10;
        // SAFETY: mallopt takes two numbers and touches no memory of ours; it is not to be called
        // beside other threads that allocate, and the caller has none yet.
        #[expect(unsafe_code, reason = "the allocator is the C library's")]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BYTES);
        }
    }
}
