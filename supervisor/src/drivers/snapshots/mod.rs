//! Snapshots: layers by chain id, a read-write layer for each container, and their mounts.
//!
//! Nothing here mounts anything where the host could see it: [`Snapshotter::prepare`] says what to
//! mount, and the shim does so inside of the container's own mount namespace. A [`RootView`] is a
//! mount that hangs in the air and goes with its descriptor.
//!
//! A layer is on its way ([`Snapshotter::begin_layer`]), then recorded in the same commit as the
//! image that needs it. A folder that no record names is garbage, never trusted.
//!
//! All of it blocks: call it from blocking threads.

mod chain;
mod changes;
mod copy;
mod error;
mod implicit;
mod native;
mod overlay;
mod trash;
mod usage;
mod view;

use std::{
    collections::HashSet,
    fmt::Debug,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use chain::chain_ids;
pub(in crate::drivers) use changes::xattrs;
pub use changes::{Change, ChangeKind, Now, Visit};
pub use copy::copy_tree;
pub use error::Error;
pub use native::Native;
pub use overlay::Overlay;
pub use trash::Trash;
pub use usage::measure;
pub use view::{Access, RootView, bind_into};

use crate::{drivers::content::Digest, ids::ContainerId, store::Record};

/// A layer, as it is recorded under its chain id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its own name, again.
    pub chain_id: Digest,
    /// Number of its folder.
    pub number: u64,
    /// Chain id of the layer below it.
    pub parent: Option<Digest>,
    /// Digest of its tar.
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size_bytes: u64,
}

impl Record for LayerRecord {
    const TREE: &'static str = "layers";
}

/// A file system to mount, as containerd's API says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// "overlay" or "bind".
    pub kind: String,
    /// What to mount.
    pub source: String,
    /// As mount(8) takes them.
    pub options: Vec<String>,
}

/// Disk space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files, folders and all else.
    pub inodes: u64,
}

/// A layer on its way in: a folder that is removed again unless [`NewLayer::keep`] is called.
#[derive(Debug)]
pub struct NewLayer {
    number: u64,
    folder: PathBuf,
    files: PathBuf,
    trash: trash::Trash,
    kept: bool,
}

impl NewLayer {
    /// Number of its folder, for the record.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where its files go.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Where to move what is in the way.
    #[must_use]
    pub fn trash(&self) -> PathBuf {
        self.folder.join("trash")
    }

    /// It has been recorded.
    pub fn keep(mut self) {
        self.kept = true;
        self.trash.purge(&self.trash());
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        if !self.kept {
            self.trash.throw(&self.folder);
        }
    }
}

/// What holds layers and gives root file systems.
pub trait Snapshotter: Debug + Send + Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// A folder for a layer that is to be unpacked.
    ///
    /// # Errors
    /// When it can't be made.
    fn begin_layer(&self) -> Result<NewLayer, Error>;

    /// The record of a layer.
    ///
    /// # Errors
    /// When the records can't be read.
    fn layer(&self, chain_id: &Digest) -> Result<Option<LayerRecord>, Error>;

    /// Gives folders of a new layer that have no entry of their own the mode and owner they have in
    /// the layers below: `below` are the folders of those, the nearest first.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn adopt_implicit(
        &self,
        files: &Path,
        implicit: &[Vec<u8>],
        below: &[PathBuf],
    ) -> Result<(), Error>;

    /// Where a recorded layer's files are.
    fn layer_files(&self, number: u64) -> PathBuf;

    /// Takes the layer's folder away, once its record is gone.
    fn remove_layer(&self, number: u64);

    /// Makes a container's read-write layer over the given stack (None: over nothing) and says what
    /// to mount. One that is there already is left as it is.
    ///
    /// # Errors
    /// When a layer is not here or a folder can't be made.
    fn prepare(&self, id: &ContainerId, chain_id: Option<&Digest>) -> Result<Vec<Mount>, Error>;

    /// What to mount for a container that has been prepared.
    ///
    /// # Errors
    /// When it has not.
    fn mounts(&self, id: &ContainerId, chain_id: Option<&Digest>) -> Result<Vec<Mount>, Error>;

    /// Removes a container's read-write layer; one that is not there is no error.
    ///
    /// # Errors
    /// When it can't be moved away.
    fn remove(&self, id: &ContainerId) -> Result<(), Error>;

    /// Space that a container's read-write layer takes.
    ///
    /// # Errors
    /// When it is not there or can't be read.
    fn usage(&self, id: &ContainerId) -> Result<Usage, Error>;

    /// The files of a stack, to be read without mounting it anywhere.
    ///
    /// # Errors
    /// When a layer is not here.
    fn view(&self, chain_id: Option<&Digest>) -> Result<RootView, Error>;

    /// [`Snapshotter::view`] with a container's own changes on top.
    ///
    /// # Errors
    /// As [`Snapshotter::view`].
    fn view_container(
        &self,
        id: &ContainerId,
        chain_id: Option<&Digest>,
    ) -> Result<RootView, Error>;

    /// A container's root file system, mounted where nobody sees it and gone with its descriptor. To
    /// be written to only while nothing else has it mounted.
    ///
    /// # Errors
    /// When it has not been prepared.
    fn tree(
        &self,
        id: &ContainerId,
        chain_id: Option<&Digest>,
        access: Access,
    ) -> Result<OwnedFd, Error>;

    /// Tells what a container has changed, folders before what is in them. What the runtime makes at
    /// `own` paths to mount on is no change while it is empty.
    ///
    /// # Errors
    /// When a layer is not here, or reading or `visit` fails.
    fn changes(
        &self,
        id: &ContainerId,
        chain_id: Option<&Digest>,
        own: &HashSet<Vec<u8>>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error>;

    /// Returns when all that was written is on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    fn flush(&self) -> Result<(), Error>;

    /// Removes layers with no record and read-write layers of containers that are not in
    /// `containers`. Layers that options in `mounted` name are in use by something that runs. What is
    /// not ours is left alone. Only before anything else uses the snapshotter.
    ///
    /// # Errors
    /// When the folders or records can't be read.
    fn sweep(&self, containers: &HashSet<ContainerId>, mounted: &[String]) -> Result<(), Error>;
}

#[cfg(test)]
mod tests;
