//! The caller's terminal: raw mode, size.
//!
//! Raw mode is undone when its guard is dropped, which a panic does too. Signals are turned into
//! ordinary ends of the program by `interact`, so they pass the guard as well.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result, bail};
use rustix::termios::{self, OptionalActions, Termios};
use wharf_client::v1::WindowSize;

/// Raw mode of the terminal on standard input, while this lives.
#[derive(Debug)]
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    pub(crate) fn enter() -> Result<Self> {
        let before =
            termios::tcgetattr(rustix::stdio::stdin()).context("read the terminal's mode")?;
        let mode = Self { before };
        mode.again()?;
        Ok(mode)
    }

    /// Back to raw after the shell has changed it (stopped and continued).
    pub(crate) fn again(&self) -> Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)
            .context("set the terminal to raw mode")
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Refuses `-t` with `-i` when the input is no terminal.
pub(crate) fn require(tty: bool, stdin: bool) -> Result<()> {
    if tty && stdin && !std::io::stdin().is_terminal() {
        bail!("the input device is not a TTY (leave out -t when input comes from a pipe or file)");
    }
    Ok(())
}

/// Size of the terminal on standard output or input; none if neither is one.
pub(crate) fn window() -> Option<WindowSize> {
    let size = termios::tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| termios::tcgetwinsize(rustix::stdio::stdin()))
        .ok()?;
    // A terminal that was never told its size says 0.
    (size.ws_col > 0 && size.ws_row > 0)
        .then(|| WindowSize { width: size.ws_col.into(), height: size.ws_row.into() })
}
