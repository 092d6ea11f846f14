//! `config.json`: read, checked and planned, with nothing done.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wharf_runtime::fuzzing::config(bytes));
