//! How a process that is not our child has ended.

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use super::SysError;
use crate::logic::exit::Ending;

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Ended(Ending),
    /// Its parent has not reaped it.
    NotYet,
    /// It is gone, and this kernel keeps nothing (before 6.15).
    Never,
}

/// `struct pidfd_info` of linux/pidfd.h, in its first size.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
    // The eight ids are real, effective, saved and file-system ones, after pid, tgid and ppid.
}

/// `PIDFD_INFO_EXIT`, since Linux 6.15: kept from the reaping on as long as a pidfd is open that
/// was opened before.
const INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xff, 11, 64 bytes)`.
const GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;

/// To be asked when the pidfd says that the process has ended.
pub(crate) fn ending(pidfd: impl AsFd, pid: i32, ticks: u64) -> Told {
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    // SAFETY: the descriptor is borrowed and therefore open; `info` has the 64 bytes that the
    // request's number announces, and is valid for writing during the call.
    let result = unsafe { libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO, &mut info) };
    if result == 0 && info.mask & INFO_EXIT != 0 {
        return Told::Ended(of_status(info.exit_code));
    }
    match zombie(pid, ticks) {
        Some(status) => Told::Ended(of_status(status)),
        // Reaped after the question was asked, if the next one has the answer.
        None if result == 0 => Told::NotYet,
        None if super::process::start_ticks(pid) == Some(ticks) => Told::NotYet,
        None => Told::Never,
    }
}

/// Field 52 of a zombie's stat file: its wait status.
fn zombie(pid: i32, ticks: u64) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 2..].split_ascii_whitespace().collect();
    let is_it = fields.first() == Some(&"Z") && fields.get(19)?.parse() == Ok(ticks);
    if is_it { fields.get(49)?.parse().ok() } else { None }
}

fn of_status(status: i32) -> Ending {
    match status & 0x7f {
        0 => Ending::Code(status >> 8 & 0xff),
        signal => Ending::Signal(signal),
    }
}

/// A descriptor of a process that is no more, for a container whose init is not there.
pub(crate) fn of_nobody() -> Result<OwnedFd, SysError> {
    let failed = |source| SysError::new("make", "pidfd", source);
    let nobody = std::process::Command::new("/proc/self/exe")
        .arg("-v")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .map_err(failed)?;
    let pid = i32::try_from(nobody.id()).unwrap_or(0);
    // SAFETY: pidfd_open takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let error = std::io::Error::last_os_error();
    super::process::wait_child(pid);
    let fd = i32::try_from(fd).ok().filter(|&fd| fd >= 0).ok_or_else(|| failed(error))?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::{Ending, Told, ending, of_status};
    use crate::sys::process::{open_pidfd, start_ticks};

    #[test]
    fn wait_statuses() {
        assert_eq!(of_status(7 << 8), Ending::Code(7));
        assert_eq!(of_status(9), Ending::Signal(9));
        assert_eq!(of_status(0x80 | 11), Ending::Signal(11));
    }

    #[test]
    fn of_one_that_is_reaped_and_of_a_zombie() {
        let mut child =
            std::process::Command::new("sh").args(["-c", "exit 23"]).spawn().expect("sh");
        let pid = i32::try_from(child.id()).expect("pid");
        let ticks = start_ticks(pid).expect("there, at least as a zombie");
        let pidfd = open_pidfd(pid, ticks).expect("the same");
        assert!(crate::sys::process::wait_end(&pidfd, std::time::Duration::from_secs(60)));
        assert_eq!(ending(&pidfd, pid, ticks), Told::Ended(Ending::Code(23)), "zombie");
        child.wait().expect("reaped");
        let told = ending(&pidfd, pid, ticks);
        assert!(matches!(told, Told::Ended(Ending::Code(23)) | Told::Never), "{told:?}");
    }
}
