//! One process beside each container: its parent, its stdio, its exit status.
//!
//! Owns the container's process tree, its log and the record of its end. Never talks to a network,
//! parses images or opens the metadata store. One thread, one loop, no peer that it waits for.
//!
//! Four layers, each seeing only those below: `edge` (command line, socket), `flow` (one file a
//! verb), `logic` (pure) and `sys` (kernel).

#![deny(unsafe_code)]

mod edge;
mod flow;
#[cfg(any(test, fuzzing))]
#[allow(unreachable_pub, reason = "public under cfg(fuzzing)")]
pub mod fuzzing;
mod logic;
mod sys;

use std::process::ExitCode;

/// The program, given its arguments without its name.
///
/// For `start` this returns twice: in the caller's child, which has printed the address, and,
/// after `Shutdown`, in the shim that it forked. Must be called with one thread alive.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    edge::run(arguments)
}
