//! Decisions without effects: no I/O, no clock, no syscall. All of it is tested as plain functions.

pub(crate) mod exit;
pub(crate) mod frames;
pub(crate) mod ids;
pub(crate) mod lines;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod timestamp;
pub(crate) mod uri;
