//! What acts on the kernel, the disk and the network; each behind a narrow interface.

pub mod content;
pub mod snapshots;
pub mod unpack;
