//! Checkpoint and restore, by criu: it is started with a socket to it, asked one thing, and tells
//! of its turns on the way.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::criu_message::{self, Message, RequestKind, Response};
use crate::sys::channel::{Channel, Received};
use crate::sys::process::{self, Fork, Parent};
use crate::sys::{exec, sig};

/// Between two words of criu's: all of a container's memory may go to a slow disk meanwhile.
const DEADLINE: Duration = Duration::from_secs(3600);
/// Where it finds its socket; descriptors that it inherits follow.
const SOCKET: i32 = 3;

/// What is asked.
pub(crate) struct Request<'a> {
    pub(crate) program: &'a Path,
    pub(crate) kind: RequestKind,
    pub(crate) options: Message,
    /// Descriptors from [`SOCKET`] + 1 on.
    pub(crate) inherited: Vec<OwnedFd>,
    /// Where criu runs, and with it what it restores.
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// Whether it has our standard descriptors, for what it restores.
    pub(crate) stdio: bool,
}

/// The number of the first inherited descriptor in criu.
pub(crate) const FIRST_INHERITED: u64 = SOCKET as u64 + 1;

/// Carries a request out. `tell` hears of each turn: its name, a pid, perhaps a descriptor. Gives the
/// pid of what was restored, which is our child.
pub(crate) fn ask(
    request: Request<'_>,
    mut tell: impl FnMut(&str, i32, Option<OwnedFd>) -> Result<(), Error>,
) -> Result<i32, Error> {
    let program = find(request.program)?;
    let (ours, theirs) = Channel::pair().step(|| "make a channel to criu")?;
    let birthplace = request.cgroup.map(Cgroup::birthplace).transpose()?.flatten();
    let forked = process::fork(0, birthplace.as_ref().map(|fd| fd.as_fd()), Parent::Caller);
    let pidfd = match forked.step(|| "fork for criu")? {
        Fork::Child => become_criu(&program, &theirs, &request),
        Fork::Parent { pidfd, .. } => pidfd,
    };
    drop(theirs);
    let bytes = criu_message::request(request.kind, &request.options);
    let done = talk(&ours, &bytes, request.kind, &mut tell);
    // Its end of the socket closed, criu ends; a pre-dump's stays for the next one.
    drop(ours);
    if done.is_err() || request.kind == RequestKind::PreDump {
        let _ = process::pidfd_signal(pidfd.as_fd(), sig::SIGKILL);
    }
    let (code, by_signal) = process::reap(pidfd.as_fd()).step(|| "wait for criu")?;
    let pid = done?;
    if (code != 0 || by_signal) && request.kind != RequestKind::PreDump {
        let how = if by_signal { "signal" } else { "exit code" };
        return Err(
            Failure::new(ErrorKind::Internal, "criu failed", format!("{how} {code}")).into()
        );
    }
    Ok(pid)
}

fn find(program: &Path) -> Result<CString, Failure> {
    let name = program.to_string_lossy();
    let places: Vec<PathBuf> = if name.contains('/') {
        vec![program.to_owned()]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // It is in /usr/sbin, which an engine's PATH may lack.
        let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
        std::env::split_paths(&path).chain(more).map(|dir| dir.join(program)).collect()
    };
    let found = places.iter().find(|place| place.is_file());
    let found = found.and_then(|place| CString::new(place.as_os_str().as_bytes()).ok());
    found.ok_or_else(|| {
        Failure::new(
            ErrorKind::NotFound,
            format!("exec: {name:?}"),
            "executable file not found in $PATH",
        )
    })
}

fn become_criu(program: &CString, socket: &Channel, request: &Request<'_>) -> ! {
    let run = || -> Result<std::convert::Infallible, Failure> {
        if let Some(cgroup) = request.cgroup {
            cgroup.enter()?;
        }
        if !request.stdio {
            let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
            let null = null.step(|| "open /dev/null")?;
            for at in 0..3 {
                exec::place_stdio(null.as_fd(), at).step(|| "set criu's descriptors")?;
            }
        }
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(socket.as_fd())
            .chain(request.inherited.iter().map(AsFd::as_fd))
            .collect();
        exec::place_from(SOCKET, &fds).step(|| "set criu's descriptors")?;
        exec::reset_signals().step(|| "reset signals")?;
        let args = [c"criu".to_owned(), c"swrk".to_owned(), c"3".to_owned()];
        let env: Vec<CString> = std::env::vars_os()
            .filter_map(|(name, value)| {
                CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
            })
            .collect();
        let error = exec::execve(program, &args, &env);
        Err::<std::convert::Infallible, _>(error)
            .step(|| format!("exec {}", program.to_string_lossy()))
    };
    let Err(failure) = run();
    // The parent sees the socket close; what went wrong is for people.
    let _ = writeln!(std::io::stderr(), "{failure}");
    process::exit_now(1)
}

fn talk(
    channel: &Channel,
    request: &[u8],
    kind: RequestKind,
    tell: &mut impl FnMut(&str, i32, Option<OwnedFd>) -> Result<(), Error>,
) -> Result<i32, Error> {
    let step = || "talk to criu";
    channel.send(request, None).step(step)?;
    loop {
        let Received::Message { bytes, fd } = channel.receive(Some(DEADLINE)).step(step)? else {
            return Err(Failure::new(
                ErrorKind::Internal,
                "criu failed",
                "it ended without a word",
            )
            .into());
        };
        let response = Response::parse(&bytes)
            .ok_or_else(|| Failure::new(ErrorKind::Internal, step(), "an unknown word"))?;
        if !response.success {
            let text = match response.error.as_str() {
                "" => format!("type {} errno {}", response.kind, response.errno),
                text => text.to_owned(),
            };
            return Err(Failure::new(ErrorKind::Internal, "criu failed", text).into());
        }
        if response.kind == RequestKind::Notify as u64 {
            tell(&response.script, response.script_pid, fd)?;
            channel.send(&criu_message::notified(), None).step(step)?;
        } else if response.kind == kind as u64 {
            return Ok(response.restored_pid);
        } else {
            return Err(
                Failure::new(ErrorKind::Internal, step(), "an answer to something else").into()
            );
        }
    }
}
