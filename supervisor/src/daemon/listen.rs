//! The listener: a unix socket that only root (and one group) can open, or TCP with mutual TLS.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixListener as StdUnixListener},
    },
    path::Path,
};

use rustix::net::AddressFamily;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    body::Body,
    codegen::{Bytes, StdError, http},
    service::Routes,
    transport::server::Router,
};

use super::Error;
use crate::{
    config::{Address, Config},
    drivers::handover,
};

/// A socket that listens, as it passes from process to process.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    kind: Kind,
    /// Where it listens, as in the configuration.
    pub(super) address: String,
    /// The service manager made it, and keeps it.
    pub(super) activated: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Unix,
    Tcp,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Listens where the configuration says, on the socket of the service manager if it gave one.
    pub(super) fn bind(config: &Config, activated: Option<OwnedFd>) -> Result<Self, Error> {
        let address = config.address.to_string();
        if let Some(fd) = activated {
            return Self::given(config, &address, fd, true);
        }
        let error = |source| Error::Listen { address: address.clone(), source };
        let (fd, kind): (OwnedFd, _) = match &config.address {
            Address::Tcp(addr) => {
                let listener = std::net::TcpListener::bind(addr).map_err(error)?;
                (listener.into(), Kind::Tcp)
            }
            Address::Unix(path) => {
                (unix(path, config.group.as_deref(), &error)?.into(), Kind::Unix)
            }
        };
        Ok(Self { fd, kind, address, activated: false })
    }

    /// A socket that somebody gave us, which listens at `address`; if the configuration has another
    /// by now, that is where we listen.
    pub(super) fn given(
        config: &Config,
        address: &str,
        fd: OwnedFd,
        activated: bool,
    ) -> Result<Self, Error> {
        if config.address.to_string() != address {
            return Self::bind(config, None);
        }
        let error = |source: io::Error| Error::Listen { address: address.into(), source };
        let family = rustix::net::sockopt::socket_domain(&fd).map_err(|e| error(e.into()))?;
        let kind = match &config.address {
            Address::Unix(_) if family == AddressFamily::UNIX => Kind::Unix,
            Address::Tcp(_) if matches!(family, AddressFamily::INET | AddressFamily::INET6) => {
                Kind::Tcp
            }
            Address::Unix(_) | Address::Tcp(_) => {
                let problem = "the socket that was given is of another kind";
                return Err(error(io::Error::new(io::ErrorKind::InvalidInput, problem)));
            }
        };
        Ok(Self { fd, kind, address: address.into(), activated })
    }

    /// Serves until `end`, and then until all connections have ended. Must be called within the
    /// async runtime.
    pub(super) async fn serve<L, R>(
        &self,
        router: Router<L>,
        end: impl Future<Output = ()>,
    ) -> Result<(), Error>
    where
        L: tower::Layer<Routes>,
        L::Service: tower::Service<http::Request<Body>, Response = http::Response<R>>
            + Clone
            + Send
            + 'static,
        <L::Service as tower::Service<http::Request<Body>>>::Future: Send,
        <L::Service as tower::Service<http::Request<Body>>>::Error: Into<StdError> + Send,
        R: tonic::codegen::Body<Data = Bytes> + Send + 'static,
        R::Error: Into<StdError>,
    {
        let error = |source| Error::Listen { address: self.address.clone(), source };
        let fd = self.fd.try_clone().map_err(error)?;
        let served = match self.kind {
            Kind::Unix => {
                let listener = StdUnixListener::from(fd);
                listener.set_nonblocking(true).map_err(error)?;
                let incoming =
                    UnixListenerStream::new(UnixListener::from_std(listener).map_err(error)?);
                router.serve_with_incoming_shutdown(incoming, end).await
            }
            Kind::Tcp => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true).map_err(error)?;
                let incoming =
                    TcpListenerStream::new(TcpListener::from_std(listener).map_err(error)?);
                router.serve_with_incoming_shutdown(incoming, end).await
            }
        };
        served.map_err(Error::Serve)
    }
}

/// The first socket of systemd's (sd_listen_fds(3)), if it is meant for this process.
pub(super) fn activated() -> Option<OwnedFd> {
    const FIRST: i32 = 3;
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let ours = number("LISTEN_PID") == Some(std::process::id());
    let some = number("LISTEN_FDS").is_some_and(|count| count > 0);
    (ours && some).then(|| handover::started_with(FIRST)).flatten()
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
    Ok(listener)
}
