//! The streams of wharf.v1.Containers: exec, attach, logs, stats.
//!
//! Each has a task that ends with its client, and a bounded channel between the two: a client that
//! reads slowly slows only its own task.

pub(super) mod attach;
pub(super) mod exec;
pub(super) mod logs;
pub(super) mod stats;

/// Messages on their way to one client.
const QUEUE_LEN: usize = 16;
