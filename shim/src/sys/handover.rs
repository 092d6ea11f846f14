//! One program to another in the same process: state in a memory file, descriptors by number.
//!
//! ```text
//! old: state ─▶ memory file ─▶ check by the new program, in a child ─▶ descriptors kept open ─▶ execve
//! new: memory file ─▶ state, descriptors owned again ─▶ goes on
//! ```
//! A check that fails, or an execve, leaves the old program as it was.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::SysError;

/// For the new program to say that it understands the state.
const PATIENCE: Duration = Duration::from_secs(3);
/// Descriptor of the state in a program that checks it.
const CHECK_FD: RawFd = 0;

thread_local! {
    /// Descriptors that the state names.
    static NAMED: RefCell<Vec<RawFd>> = const { RefCell::new(Vec::new()) };
    /// Descriptors that came with a state from elsewhere, by the numbers that it has for them.
    static GIVEN: RefCell<Option<BTreeMap<RawFd, OwnedFd>>> = const { RefCell::new(None) };
    /// Only look: descriptors are stood in for.
    static IS_CHECK: Cell<bool> = const { Cell::new(false) };
}

/// Serializes a descriptor as its number.
pub(crate) mod fd {
    use super::{IS_CHECK, NAMED, take};
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

    pub(crate) fn serialize<T: AsFd, S: Serializer>(fd: &T, to: S) -> Result<S::Ok, S::Error> {
        let number = fd.as_fd().as_raw_fd();
        NAMED.with_borrow_mut(|named| named.push(number));
        to.serialize_i32(number)
    }

    pub(crate) fn deserialize<'a, T: From<OwnedFd>, D: Deserializer<'a>>(
        from: D,
    ) -> Result<T, D::Error> {
        let number = i32::deserialize(from)?;
        take(number, IS_CHECK.get()).map(T::from).map_err(serde::de::Error::custom)
    }
}

/// As [`fd`], for one that may be absent.
pub(crate) mod optional_fd {
    use super::{GIVEN, IS_CHECK, NAMED, take};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};
    use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

    pub(crate) fn serialize<T: AsFd, S: Serializer>(
        fd: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let number = fd.as_ref().map(|fd| fd.as_fd().as_raw_fd());
        NAMED.with_borrow_mut(|named| named.extend(number));
        number.serialize(to)
    }

    pub(crate) fn deserialize<'a, T: From<OwnedFd>, D: Deserializer<'a>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        let Some(number) = Option::<i32>::deserialize(from)? else { return Ok(None) };
        let given =
            GIVEN.with_borrow_mut(|given| given.as_mut().map(|given| given.remove(&number)));
        if let Some(given) = given {
            return Ok(given.map(T::from));
        }
        take(number, IS_CHECK.get()).map(|fd| Some(fd.into())).map_err(serde::de::Error::custom)
    }
}

/// Owns a descriptor that the program before us left open.
fn take(number: RawFd, is_check: bool) -> std::io::Result<OwnedFd> {
    if is_check {
        return File::open("/dev/null").map(OwnedFd::from);
    }
    set_close_on_exec(number, FdFlag::FD_CLOEXEC)?;
    // SAFETY: the state names each descriptor once, it is open (fcntl has just succeeded), and
    // nothing else in this program, which has just begun, owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn set_close_on_exec(number: RawFd, flag: FdFlag) -> std::io::Result<()> {
    if number < 3 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: borrowed for this call only; a number that is not open makes fcntl fail.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_SETFD(flag))?;
    Ok(())
}

/// Runs `write`, and answers with the numbers of the descriptors that it serialized.
pub(crate) fn collect<T>(write: impl FnOnce() -> T) -> (T, Vec<RawFd>) {
    NAMED.with_borrow_mut(Vec::clear);
    let result = write();
    (result, NAMED.with_borrow_mut(std::mem::take))
}

/// Runs `read` with descriptors from elsewhere; numbers that are not among them are absent.
pub(crate) fn with_given<T>(given: BTreeMap<RawFd, OwnedFd>, read: impl FnOnce() -> T) -> T {
    GIVEN.set(Some(given));
    let result = read();
    GIVEN.set(None);
    result
}

/// One more descriptor for what a number, just serialized, means.
pub(crate) fn duplicate(number: RawFd) -> Result<OwnedFd, SysError> {
    // SAFETY: borrowed for this call only; a number that is not open makes it fail.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fd.try_clone_to_owned().map_err(|source| SysError::new("duplicate", "descriptor", source))
}

/// Runs `read` with descriptors stood in for.
pub(crate) fn dry<T>(read: impl FnOnce() -> T) -> T {
    IS_CHECK.set(true);
    let result = read();
    IS_CHECK.set(false);
    result
}

/// State on its way.
#[derive(Debug)]
pub(crate) struct Handover {
    file: File,
    named: Vec<RawFd>,
}

impl Handover {
    /// Writes the state down; `write` serializes it.
    pub(crate) fn new(
        write: impl FnOnce() -> Result<Vec<u8>, serde_json::Error>,
    ) -> Result<Self, SysError> {
        NAMED.with_borrow_mut(Vec::clear);
        let bytes = write().map_err(|error| failed("write state to")(error.into()))?;
        let named = NAMED.with_borrow_mut(std::mem::take);
        // SAFETY: the name ends in NUL and is read during the call only.
        let fd = unsafe { libc::memfd_create(c"handover".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(failed("make")(std::io::Error::last_os_error()));
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let mut file = unsafe { File::from_raw_fd(fd) };
        file.write_all(&bytes).map_err(failed("write state to"))?;
        Ok(Self { file, named })
    }

    /// Asks the new program, in a child, whether it understands the state.
    pub(crate) fn check(&self, binary: &Path, args: &[String]) -> Result<(), SysError> {
        let told = |source| SysError::new("check", binary.display().to_string(), source);
        // Its own place in the file: a child that shares ours would move it.
        let copy = File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).map_err(told)?;
        let mut child = Command::new(binary)
            .args(args)
            .args(["-state", &CHECK_FD.to_string(), "check"])
            .stdin(copy)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(told)?;
        let ended =
            child.stdout.as_ref().is_some_and(|out| super::process::wait_end(out, PATIENCE));
        if !ended {
            let _ = child.kill();
        }
        match child.wait() {
            Ok(status) if ended && status.success() => Ok(()),
            Ok(status) => Err(told(std::io::Error::other(status.to_string()))),
            Err(error) => Err(told(error)),
        }
    }

    /// Becomes the new program. Returns only when that failed, and then nothing has changed.
    pub(crate) fn exec(self, binary: &Path, args: &[String]) -> SysError {
        let told = |source| SysError::new("become", binary.display().to_string(), source);
        let state = self.file.as_raw_fd();
        let kept: Vec<RawFd> = self.named.iter().copied().chain([state]).collect();
        let open = |flag| kept.iter().try_for_each(|&number| set_close_on_exec(number, flag));
        let number = state.to_string();
        let words = [binary.as_os_str().as_bytes()]
            .into_iter()
            .chain(args.iter().map(String::as_bytes))
            .chain([&b"-state"[..], number.as_bytes(), b"resume"])
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>();
        let source = match (words, open(FdFlag::empty())) {
            (Ok(words), Ok(())) => match nix::unistd::execv(&words[0], &words) {
                Err(errno) => errno.into(),
                Ok(never) => match never {},
            },
            (Err(error), _) => error.into(),
            (_, Err(error)) => error,
        };
        let _ = open(FdFlag::FD_CLOEXEC);
        told(source)
    }
}

/// The state that the program before us left.
pub(crate) fn read_state(number: RawFd) -> Result<Vec<u8>, SysError> {
    // SAFETY: the command line says that this descriptor is for us, and this program has just
    // begun: nothing else in it owns the descriptor.
    let mut file = unsafe { File::from_raw_fd(number) };
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(failed("read state from"))?;
    Ok(bytes)
}

fn failed(action: &'static str) -> impl Fn(std::io::Error) -> SysError {
    move |source| SysError::new(action, "memory file", source)
}
