//! What acts on the kernel, the disk and the network; each behind a narrow interface.

pub mod archive;
pub mod aside;
pub mod content;
pub mod files;
pub mod handover;
pub mod host;
pub mod leftovers;
pub mod logs;
pub mod memory;
pub mod oci;
pub mod open_files;
pub mod pack;
pub mod processes;
pub mod registry;
pub mod shims;
pub mod signatures;
pub mod snapshots;
pub mod unpack;
