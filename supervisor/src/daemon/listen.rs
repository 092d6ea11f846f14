//! The listener: a unix socket that only root (and one group) can open, or TCP with mutual TLS.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdUnixListener},
    path::Path,
};

use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;

use super::Error;
use crate::config::{Address, Config};

/// A socket that listens.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens where the configuration says. Must be called within the async runtime.
    pub(super) fn bind(config: &Config) -> Result<Self, Error> {
        let error = |source| Error::Listen { address: config.address.to_string(), source };
        match &config.address {
            Address::Tcp(addr) => {
                let listener = std::net::TcpListener::bind(addr).map_err(error)?;
                listener.set_nonblocking(true).map_err(error)?;
                Ok(Self::Tcp(TcpListener::from_std(listener).map_err(error)?))
            }
            Address::Unix(path) => {
                let listener = unix(path, config.group.as_deref(), &error)?;
                Ok(Self::Unix(UnixListener::from_std(listener).map_err(error)?))
            }
        }
    }

    /// Serves until the listener fails.
    pub(super) async fn serve(self, router: Router) -> Result<(), Error> {
        let served = match self {
            Self::Unix(listener) => {
                router.serve_with_incoming(UnixListenerStream::new(listener)).await
            }
            Self::Tcp(listener) => {
                router.serve_with_incoming(TcpListenerStream::new(listener)).await
            }
        };
        served.map_err(Error::Serve)
    }
}

/// Binds beside the path and renames: at every moment either the old socket is there or the new
/// one, and it is never open to more than it should be. The lock on the state folder says that no
/// other wharfd of that folder listens; a socket elsewhere that answers is somebody else's.
fn unix(
    path: &Path,
    group: Option<&str>,
    error: &impl Fn(io::Error) -> Error,
) -> Result<StdUnixListener, Error> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(error(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens there",
        )));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(error)?;
    }
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
        _ => {}
    }
    let listener = StdUnixListener::bind(&new).map_err(error)?;
    let mode = match group {
        None => 0o600,
        Some(name) => {
            let found = nix::unistd::Group::from_name(name).ok().flatten();
            let gid = found.ok_or_else(|| Error::NoGroup(name.into()))?.gid;
            std::os::unix::fs::chown(&new, None, Some(gid.as_raw())).map_err(error)?;
            0o660
        }
    };
    fs::set_permissions(&new, fs::Permissions::from_mode(mode)).map_err(error)?;
    fs::rename(&new, path).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}
