//! A container's files, whether it runs or not.
//!
//! A running one is seen through its own mounts (`/proc/<pid>/root`), so volumes and all else are where
//! it has them. One that does not run is mounted for the call, with its volumes and binds, where nobody
//! sees it; it can't be started while it is written to, since two mounts of one layer would be each
//! other's ruin.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    Containers, Error, ask,
    driver::{Command, Tools},
    machine::State,
    record::Record,
    spec::MountKind,
    user_namespace::IdRange,
};
use crate::{
    drivers::{
        files::{self, Follow, Found, Keep, Owners, Run},
        snapshots::{Access, Change, ChangeKind, bind_into},
    },
    ids::Namespace,
};

/// Looks at a container whose state changes before it gives up.
const TRIES: u32 = 20;

/// The root of a container.
#[derive(Debug)]
pub struct Root {
    root: OwnedFd,
    owners: Owners,
    record: Arc<Record>,
    /// It does not start before this is dropped.
    _still: Option<oneshot::Sender<()>>,
}

impl Containers {
    /// The files of a container as it sees them.
    ///
    /// # Errors
    /// When it is not there, or its files can't be reached.
    pub async fn files(
        &self,
        namespace: &Namespace,
        name: &str,
        access: Access,
    ) -> Result<Root, Error> {
        let handle = self.tools.table.find(namespace, name)?;
        for _ in 0..TRIES {
            let record = handle.record();
            if let Some(run) = record.state.current() {
                let (pid, number) = (run.pid, record.state.number());
                let root = File::open(format!("/proc/{pid}/root"));
                // The pid was its own all the while, or it is another's.
                let now = handle.record();
                let is_same = now.state.current().is_some_and(|now| now.pid == pid)
                    && now.state.number() == number;
                match root {
                    Ok(root) if is_same => {
                        let owners = owners(&record);
                        return Ok(Root { root: root.into(), owners, record, _still: None });
                    }
                    Err(source) if is_same => {
                        let path = format!("/proc/{pid}/root").into();
                        return Err(Error::File { step: "open", path, source });
                    }
                    _ => continue,
                }
            }
            if matches!(record.state, State::Removing { .. }) {
                return Err(Error::Removed(record.name.clone()));
            }
            // It waits for a start or an end that is under way.
            let (still, until) = oneshot::channel();
            match ask(&handle, |reply| Command::KeepStill { until, reply }).await {
                Ok(()) => {}
                Err(Error::State { .. }) => continue,
                Err(error) => return Err(error),
            }
            let record = handle.record();
            let (tools, of) = (Arc::clone(&self.tools), Arc::clone(&record));
            let mounted = tokio::task::spawn_blocking(move || mounted(&tools, &of, access));
            let root = mounted.await.expect("mounting does not panic")?;
            // Who only reads is in nobody's way.
            let still = (access == Access::Write).then_some(still);
            return Ok(Root { root, owners: Owners::default(), record, _still: still });
        }
        Err(Error::Busy(handle.record().name.clone()))
    }

    /// The root file system alone, without what is mounted in it.
    ///
    /// # Errors
    /// As [`Containers::files`].
    pub async fn root_alone(&self, namespace: &Namespace, name: &str) -> Result<Root, Error> {
        let record = self.tools.table.find(namespace, name)?.record();
        self.ensure_snapshot(&record).await?;
        let (tools, of) = (Arc::clone(&self.tools), Arc::clone(&record));
        let opened = tokio::task::spawn_blocking(move || {
            let chain_id = of.image.chain_id.as_ref();
            let tree = tools.snapshots.tree(&of.id, chain_id, Access::Read);
            tree.map_err(|source| Error::Snapshot { name: of.name.clone(), source })
        });
        let root = opened.await.expect("mounting does not panic")?;
        Ok(Root { root, owners: Owners::default(), record, _still: None })
    }

    /// Tells what a container has changed, one change at a time.
    ///
    /// # Errors
    /// When it is not there, or its files can't be read.
    pub async fn changed(
        &self,
        namespace: &Namespace,
        name: &str,
        mut tell: impl FnMut(ChangeKind, &[u8]) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let record = self.tools.table.find(namespace, name)?.record();
        self.ensure_snapshot(&record).await?;
        let snapshots = Arc::clone(&self.tools.snapshots);
        let walk = tokio::task::spawn_blocking(move || {
            let own = super::commit::own_paths();
            let chain_id = record.image.chain_id.as_ref();
            let mut visit = |change: &Change<'_>| {
                // What was in a folder that is gone goes without saying, and so does the root.
                if change.path.is_empty() || change.covered {
                    return Ok(());
                }
                tell(change.kind, change.path)
            };
            snapshots
                .changes(&record.id, chain_id, &own, &mut visit)
                .map_err(|source| Error::Snapshot { name: record.name.clone(), source })
        });
        walk.await.expect("the walk does not panic")
    }
}

impl Root {
    /// What is at a path. Blocks.
    ///
    /// # Errors
    /// When there is nothing.
    pub fn find(&self, path: &str, follow: Follow) -> Result<Found, Error> {
        files::find(self.root.as_fd(), path.as_bytes(), follow).map_err(|e| self.error(e))
    }

    /// Writes what was found as a tar. Blocks.
    ///
    /// # Errors
    /// When a file can't be read or the tar not be written.
    pub fn pack(&self, found: &Found, out: impl Write) -> Result<(), Error> {
        found.pack(out, &self.owners).map_err(|e| self.error(e))
    }

    /// Writes a tar into a folder. Blocks, and may spend the thread: it is to be one of its own.
    ///
    /// # Errors
    /// At the first entry that can't be made.
    pub fn extract(&self, tar: impl Read + Send, folder: &str, keep: Keep) -> Result<(), Error> {
        let (root, folder) = (self.root.as_fd(), folder.as_bytes());
        files::extract(tar, root, folder, keep, &self.owners).map_err(|e| self.error(e))
    }

    fn error(&self, source: files::Error) -> Error {
        Error::Files { name: self.record.name.clone(), source }
    }
}

/// Who the users of a running container are on the host; what does not run has the image's owners.
fn owners(record: &Record) -> Owners {
    let runs = |ranges: &[IdRange]| {
        let run = |r: &IdRange| Run { inside: r.container_id, outside: r.host_id, len: r.size };
        ranges.iter().map(run).collect()
    };
    match record.spec.mapped() {
        Some(namespace) => Owners { uids: runs(&namespace.uids), gids: runs(&namespace.gids) },
        None => Owners::default(),
    }
}

fn mounted(tools: &Tools, record: &Record, access: Access) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Snapshot { name: record.name.clone(), source };
    let chain_id = record.image.chain_id.as_ref();
    tools.snapshots.prepare(&record.id, chain_id).map_err(failed)?;
    let access = if record.spec.read_only_rootfs { Access::Read } else { access };
    let root = tools.snapshots.tree(&record.id, chain_id, access).map_err(failed)?;
    let volumes = tools.volume_sources(record);
    let mut mounts: Vec<_> = record.spec.mounts.iter().collect();
    mounts.sort_by_key(|m| m.target.split('/').filter(|part| !part.is_empty()).count());
    for mount in mounts {
        let source = match mount.kind {
            MountKind::Volume => volumes.get(&mount.source).map(|path| path.as_path()),
            MountKind::Bind => Some(Path::new(&mount.source)),
            MountKind::Tmpfs => None,
        };
        let Some(source) = source.filter(|source| source.exists()) else { continue };
        let access = if mount.read_only { Access::Read } else { Access::Write };
        bind_into(root.as_fd(), source, &mount.target, access).map_err(failed)?;
    }
    Ok(root)
}
