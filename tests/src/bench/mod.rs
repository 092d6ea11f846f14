//! The same work on Wharf and on what Debian has, in one run.
//!
//! Owns the peers (a private containerd; runc and crun alone), the measuring and the table. Writes
//! nothing outside temporary folders of its own.

pub mod containerd;
pub mod memory;
pub mod spec;
pub mod wharf;

pub mod daemons;
pub mod images;
pub mod report;
pub mod runtimes;
pub mod shims;

use std::{future::Future, time::Duration};

use anyhow::Result;

/// What is measured of a daemon that runs containers. Calls are those that any client would make,
/// over the daemon's own gRPC API.
pub trait Engine {
    /// As the table calls it.
    fn name(&self) -> String;
    /// Starts the daemon; until it answers.
    fn start(&mut self) -> impl Future<Output = Result<()>>;
    /// SIGKILL.
    fn kill9(&mut self) -> Result<()>;
    /// Pid of the daemon.
    fn pid(&self) -> Result<i32>;
    /// A caller, to be used from a task of its own.
    fn caller(&self) -> Result<impl Caller>;
    /// Starts the killed daemon, asks until it answers with `count` running containers.
    fn restart_until_listed(&mut self, count: usize) -> impl Future<Output = Result<Duration>>;
    /// Pulls from a registry on loopback and unpacks.
    fn pull(&mut self, reference: &str) -> impl Future<Output = Result<()>>;
    /// Removes what was pulled, so that the next pull begins from nothing.
    fn forget(&mut self, reference: &str) -> impl Future<Output = Result<()>>;
    /// Pids of all shims.
    fn shims(&self) -> Vec<i32>;
    /// Removes all of it.
    fn remove(self) -> impl Future<Output = Result<()>>;
}

/// One client of a daemon.
pub trait Caller: Clone + Send + 'static {
    /// Create, start, exit seen, delete: of `true`.
    fn life(&mut self, id: &str) -> impl Future<Output = Result<()>> + Send;
    /// Create and start one that sleeps.
    fn sleeper(&mut self, id: &str) -> impl Future<Output = Result<()>> + Send;
    /// `true` in a sleeper, to its end.
    fn exec(&mut self, id: &str, exec_id: &str) -> impl Future<Output = Result<()>> + Send;
    /// Kill and delete a sleeper.
    fn remove(&mut self, id: &str) -> impl Future<Output = Result<()>> + Send;
}

/// A word about how far it is.
#[expect(clippy::print_stderr, reason = "progress of a benchmark")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// Removes the empty parent that peers leave under each hierarchy.
fn remove_cgroup(name: &str) {
    let root = std::path::Path::new(crate::leak::CGROUP_ROOT);
    for hierarchy in std::fs::read_dir(root).into_iter().flatten().flatten() {
        drop(std::fs::remove_dir(hierarchy.path().join(name)));
    }
    drop(std::fs::remove_dir(root.join(name)));
}
