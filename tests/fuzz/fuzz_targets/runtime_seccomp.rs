//! A seccomp profile: compiled, and every program that comes out is walked to its end.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wharf_runtime::fuzzing::seccomp(bytes));
