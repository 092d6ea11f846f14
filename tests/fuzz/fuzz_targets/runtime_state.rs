//! The state file of a container.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wharf_runtime::fuzzing::state(bytes));
