//! One run of `wharfd`.

use std::{
    fs::File,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// The process; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    pid: i32,
    /// None for one that took over from another: somebody else's child.
    child: Option<Child>,
}

impl Daemon {
    pub(super) fn spawn(mut command: Command, log: File) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start wharfd")?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        Ok(Self { pid, child: Some(child) })
    }

    /// One that was started by another.
    pub(super) fn adopted(pid: i32) -> Self {
        Self { pid, child: None }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, if it has; of one that is not our child only that it has.
    pub(super) fn gone(&mut self) -> Result<Option<ExitStatus>> {
        if let Some(child) = &mut self.child {
            return child.try_wait().context("wait for wharfd");
        }
        Ok(has_ended(self.pid).then(ExitStatus::default))
    }

    /// Waits until it has ended by itself, with success.
    pub(super) async fn ended(mut self) -> Result<()> {
        let status = wait::until_now("wharfd ends", || self.gone()).await?;
        if !status.success() {
            bail!("wharfd ended with {status}");
        }
        Ok(())
    }

    pub(super) fn kill9(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).context("kill wharfd")?;
        while self.gone()?.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    }

    pub(super) async fn terminate(self) -> Result<()> {
        kill(Pid::from_raw(self.pid), Signal::SIGTERM).context("terminate wharfd")?;
        self.ended().await.context("after SIGTERM")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.gone() {
            // Gone in between is as good.
            let _gone = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
        if let Some(child) = &mut self.child {
            drop(child.wait());
        }
    }
}

/// Whether a process has ended, waited for by its parent or not.
#[must_use]
pub fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}
