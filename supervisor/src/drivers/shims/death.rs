//! The death of a shim's process, by pidfd.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// A process whose death can be made sure of. Nothing is done to it before.
#[derive(Debug)]
pub struct Death(OwnedFd);

impl Death {
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Waits until the process is dead, and kills one that is not by itself within `patience`: a
    /// shim that can't be reached must not be there beside its successor. Blocks.
    ///
    /// # Errors
    /// When it does not even end by SIGKILL within that time.
    pub fn make_sure(&self, patience: Duration) -> io::Result<()> {
        if self.is_over(patience)? {
            return Ok(());
        }
        pidfd_send_signal(&self.0, Signal::KILL)?;
        if self.is_over(patience)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    fn is_over(&self, within: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(within).map_err(io::Error::other)?;
        loop {
            let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut watched, Some(&limit)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::Death;

    #[test]
    fn who_does_not_die_is_killed() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a process");
        let death = Death::of(child.id()).expect("it is there");
        assert!(!death.is_over(Duration::ZERO).expect("poll"));
        death
            .make_sure(Duration::from_millis(10))
            .or_else(|_| death.make_sure(Duration::from_secs(30)))
            .expect("dead");
        assert!(death.is_over(Duration::ZERO).expect("poll"));
        child.wait().expect("reaped");
    }
}
