//! A program on a real pseudo-terminal, as a person would have it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context as _, Result};
use nix::pty::{Winsize, openpty};

use crate::{host, wait};

/// The terminal with its program; the program is killed on drop.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// Kept open: the terminal's settings are read from it after the program has gone.
    line: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Terminal {
    /// Starts `command` with a terminal of 80 × 24 as its stdin, stdout, stderr and controlling
    /// terminal.
    ///
    /// # Errors
    /// When there is no pty or `setsid` (util-linux) is missing.
    pub fn spawn(command: &Command) -> Result<Self> {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).context("open a pseudo-terminal")?;
        let slave = || -> Result<OwnedFd> { pty.slave.try_clone().context("copy the terminal") };
        // setsid(1) makes stdin the controlling terminal, which would be unsafe code here.
        let mut wrapped = Command::new(host::tool("setsid").context("no setsid(1) here")?);
        wrapped.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        let child = wrapped
            .stdin(Stdio::from(slave()?))
            .stdout(Stdio::from(slave()?))
            .stderr(Stdio::from(slave()?))
            .spawn()
            .context("start a program on a terminal")?;
        let master = File::from(pty.master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, shared) = (master.try_clone()?, screen.clone());
        // Ends when the terminal's last slave is closed.
        thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if let (Ok(mut screen), Some(new)) = (shared.lock(), buffer.get(..n)) {
                    screen.extend_from_slice(new);
                }
            }
        });
        Ok(Self { child, keyboard: master, line: File::from(pty.slave), screen })
    }

    /// Types.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("type on a terminal")
    }

    /// All that was shown.
    #[must_use]
    pub fn screen(&self) -> String {
        let bytes = self.screen.lock().map(|s| s.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `text` has been shown.
    ///
    /// # Errors
    /// When it is not in time, with what was shown.
    pub async fn expect(&self, text: &str) -> Result<()> {
        wait::until_now(&format!("the terminal shows {text:?}"), || {
            Ok(self.screen().contains(text).then_some(()))
        })
        .await
        .with_context(|| format!("shown so far: {:?}", self.screen()))
    }

    /// Gives the terminal another size; the program gets SIGWINCH.
    ///
    /// # Errors
    /// When stty(1) fails.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.stty(&["rows", &rows.to_string(), "cols", &columns.to_string()]).map(drop)
    }

    /// Whether the terminal echoes what is typed: not while it is raw.
    ///
    /// # Errors
    /// When stty(1) fails.
    pub fn echoes(&self) -> Result<bool> {
        let settings = self.stty(&["-a"])?;
        Ok(settings.split_whitespace().any(|word| word == "echo"))
    }

    fn stty(&self, args: &[&str]) -> Result<String> {
        let output = Command::new("stty")
            .args(args)
            .stdin(Stdio::from(self.line.try_clone()?))
            .output()
            .context("run stty")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// When it does not end in time, with what was shown.
    pub async fn end(&mut self) -> Result<ExitStatus> {
        let ended =
            wait::until_now("the program on the terminal ends", || Ok(self.child.try_wait()?))
                .await;
        ended.with_context(|| format!("shown so far: {:?}", self.screen()))
    }
}
