//! Volumes on their way: made, and not recorded yet.

use tokio::sync::OwnedRwLockReadGuard;

use super::{Error, Volume, Volumes};
use crate::store::Ops;

/// Volumes that a container is to have; what is new of them goes again when this is dropped before
/// [`Prepared::keep`].
#[derive(Debug)]
pub struct Prepared {
    pub(super) new: Vec<Volume>,
    pub(super) volumes: Volumes,
    pub(super) kept: bool,
    pub(super) _gate: OwnedRwLockReadGuard<()>,
}

impl Prepared {
    /// Adds the records of the new ones, and their events, to a commit.
    ///
    /// # Errors
    /// When one is too large.
    pub fn record(&self, ops: &mut Ops) -> Result<(), Error> {
        for volume in &self.new {
            self.volumes.record(volume, ops)?;
        }
        Ok(())
    }

    /// That commit has been done.
    pub fn keep(mut self) {
        self.kept = true;
        for volume in &self.new {
            self.volumes.settle(volume);
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.kept {
            for volume in &self.new {
                self.volumes.inner.trash.throw(&self.volumes.folder(volume));
            }
        }
    }
}
