//! wharfd: the API, the metadata, images, snapshots, and what each container should be doing.
//!
//! Four layers, each seeing only those below it: `api` translates, `services` decide, `drivers` act
//! on the kernel, the disk and the network, `store` remembers. Containers are reached through their
//! shims only: nothing here is the parent of a container's process.

#![deny(unsafe_code)]

pub mod config;
pub mod fault;
pub mod faultpoint;
#[cfg(any(test, fuzzing))]
#[allow(unreachable_pub, reason = "public under cfg(fuzzing)")]
pub mod fuzzing;
pub mod ids;
pub mod store;

pub mod drivers;
pub mod services;

pub mod api;
pub mod daemon;
