//! Why the daemon does not begin.

use std::{io, path::PathBuf};

use crate::{
    drivers::{content, snapshots},
    services, store,
};

/// Why the daemon does not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It needs root.
    #[error("wharfd mounts file systems and makes namespaces: start it as root (sudo wharfd)")]
    NotRoot,
    /// Another one has the folder.
    #[error("{} is in use by the wharfd with pid {pid}: end that one (kill {pid}) or choose another folder", folder.display())]
    Locked {
        /// Root or state folder.
        folder: PathBuf,
        /// As its lock file says.
        pid: String,
    },
    /// A file or folder.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim's program is missing.
    #[error("the shim {} is not there: install wharf-shim beside wharfd or in PATH, or set `shim` in the configuration", _0.display())]
    NoShim(PathBuf),
    /// The group of the socket.
    #[error("group {0:?} of the configuration does not exist")]
    NoGroup(String),
    /// The listener.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The listener, later.
    #[error("serve")]
    Serve(#[source] tonic::transport::Error),
    /// The volumes.
    #[error("volumes")]
    Volumes(#[source] services::volumes::Error),
    /// TLS.
    #[error("TLS of the listener")]
    Tls(#[source] tonic::transport::Error),
    /// From one supervisor to the next.
    #[error("take over from the wharfd before this one")]
    Handover(#[source] io::Error),
    /// Signals.
    #[error("wait for signals")]
    Signals(#[source] io::Error),
    /// The description of the API.
    #[error("describe the API")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// The metadata.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The snapshots.
    #[error("snapshots")]
    Snapshots(#[source] snapshots::Error),
    /// The content store.
    #[error("content")]
    Content(#[source] content::Error),
    /// The images.
    #[error("images")]
    Images(#[source] services::images::Error),
    /// The containers.
    #[error("containers")]
    Containers(#[from] services::containers::Error),
}
