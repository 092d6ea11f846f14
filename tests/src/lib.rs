//! The harness: what the end-to-end tests and the benchmarks stand on.
//!
//! Owns private worlds (a real `wharfd` on folders and a cgroup parent of its own), small real
//! images, a registry on loopback, and the check that nothing is left behind. Drives the product
//! from outside only, through its binaries and its API: it links neither the supervisor, nor the
//! shim, nor the runtime.

#![forbid(unsafe_code)]

pub mod host;
pub mod wait;

pub mod image;
pub mod registry;

pub mod api;
pub mod leak;
pub mod terminal;
pub mod world;

pub mod bench;
