//! Values of the command line: sizes, times, mounts, keys. Pure, and no clap in it.

pub(crate) mod env;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod mount;
pub(crate) mod security;
pub(crate) mod size;
pub(crate) mod time;
pub(crate) mod ulimit;
pub(crate) mod userns;
