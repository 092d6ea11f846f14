//! Unix sockets that never block, and where they live.

use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::SysError;

/// Bytes of a path in sockaddr_un, with the NUL.
const SUN_PATH: usize = 108;
/// Where sockets go whose bundle has too long a path.
const SHORT_FOLDER: &str = "/run/wharf/s";

/// The socket of a bundle: inside it, or in a folder of short names.
pub(crate) fn path_for(bundle: &Path, namespace: &str, id: &str) -> PathBuf {
    let inside = bundle.join("shim.sock");
    if inside.as_os_str().as_bytes().len() < SUN_PATH {
        return inside;
    }
    let parts = [bundle.as_os_str().as_bytes(), namespace.as_bytes(), id.as_bytes()];
    Path::new(SHORT_FOLDER).join(format!("{:016x}", fnv(&parts.join(&0))))
}

/// The socket of a bundle in a folder that the caller chose.
pub(crate) fn path_in(folder: &Path, bundle: &Path) -> PathBuf {
    folder.join(format!("{:016x}", fnv(bundle.as_os_str().as_bytes())))
}

/// FNV-1a: the same in every version of the shim, unlike the standard library's hash.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Does somebody answer there?
pub(crate) fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Binds and listens, for the owner only. A socket that nobody answers on is replaced.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, SysError> {
    let failed = |source| SysError::new("listen on", path.display().to_string(), source);
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    super::files::remove(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// A connection that is there at once or not at all: a full backlog counts as nobody listening.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, SysError> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd as _;

    let failed = |errno| SysError::new("connect to", path.display().to_string(), errno);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path).map_err(failed)?).map_err(failed)?;
    Ok(UnixStream::from(socket))
}

/// One caller, if one waits.
pub(crate) fn accept(listener: &UnixListener) -> Result<Option<UnixStream>, SysError> {
    let failed = |source| SysError::new("accept on", "shim socket", source);
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(true).map_err(failed)?;
            Ok(Some(stream))
        }
        Err(source) if is_passing(&source) => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

/// What a socket did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Bytes(usize),
    /// Nothing for now.
    Blocked,
    /// The peer is gone.
    Closed,
}

pub(crate) fn receive(mut stream: &UnixStream, buffer: &mut [u8]) -> Moved {
    match stream.read(buffer) {
        Ok(0) => Moved::Closed,
        Ok(count) => Moved::Bytes(count),
        Err(error) if is_passing(&error) => Moved::Blocked,
        Err(_) => Moved::Closed,
    }
}

pub(crate) fn send(mut stream: &UnixStream, bytes: &[u8]) -> Moved {
    match stream.write(bytes) {
        Ok(count) => Moved::Bytes(count),
        Err(error) if is_passing(&error) => Moved::Blocked,
        Err(_) => Moved::Closed,
    }
}

fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};

    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted)
}

#[cfg(test)]
mod tests {
    use super::{SUN_PATH, path_for};
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    #[test]
    fn paths_always_fit() {
        assert_eq!(path_for(Path::new("/b"), "n", "i"), Path::new("/b/shim.sock"));
        let long = format!("/{}", "x".repeat(200));
        let path = path_for(Path::new(&long), "n", "i");
        assert!(path.as_os_str().as_bytes().len() < SUN_PATH);
        assert_ne!(path, path_for(Path::new(&long), "n", "j"));
    }
}
