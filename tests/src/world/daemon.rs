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
    child: Child,
}

impl Daemon {
    pub(super) fn spawn(mut command: Command, log: File) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start wharfd")?;
        Ok(Self { child })
    }

    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or_default()
    }

    /// How it ended, if it has.
    pub(super) fn gone(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("wait for wharfd")
    }

    pub(super) fn kill9(mut self) -> Result<()> {
        self.child.kill().context("kill wharfd")?;
        self.child.wait().context("wait for wharfd")?;
        Ok(())
    }

    pub(super) async fn terminate(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).context("terminate wharfd")?;
        let status = wait::until_now("wharfd ends after SIGTERM", || self.gone()).await?;
        if !status.success() {
            bail!("wharfd ended with {status} after SIGTERM");
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
