//! Bytes of a connection to the shim, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wharf_shim::fuzzing::frames(bytes));
