//! Waiting for a process in the foreground: its signals, its terminal, its end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use super::CommandError;
use crate::error::Step;
use crate::sys::foreground::{self, Raw, Signals};
use crate::sys::{code, process, tty};

/// Passes signals and bytes on until the process ends; gives its exit code, 128 and the signal's
/// number if one killed it.
pub(crate) fn wait(
    pid: i32,
    pidfd: &OwnedFd,
    pty: Option<OwnedFd>,
    signals: &Signals,
) -> Result<i32, CommandError> {
    // All that is left to do is to wait.
    code::let_go();
    let stdin = std::io::stdin();
    let _raw = pty.as_ref().and_then(|_| Raw::enter(stdin.as_fd()));
    let mut pty = pty.map(File::from);
    if let Some(pty) = &pty {
        foreground::keep_newlines(pty.as_fd()).step(|| "set the terminal up")?;
    }
    let mut input = pty.as_ref().map(|_| stdin.as_fd());
    if let Some(pty) = &pty {
        copy_size(pty);
    }
    loop {
        let ready = foreground::wait_readable([
            Some(signals.fd().as_fd()),
            Some(pidfd.as_fd()),
            input,
            pty.as_ref().map(AsFd::as_fd),
        ])
        .step(|| "wait for the container")?;
        if ready[0] {
            pass_signals(pid, pidfd, pty.as_ref(), signals);
        }
        if ready[2] && !pty.as_mut().is_some_and(copy_input) {
            input = None;
        }
        if ready[3] {
            if !pty.as_mut().is_some_and(copy_output) {
                pty = None;
            }
            // What was written before the end comes out before it.
            continue;
        }
        if ready[1] {
            break;
        }
    }
    let (number, by_signal) = process::reap(pidfd.as_fd()).step(|| "reap the process")?;
    Ok(if by_signal { 128 + number } else { number })
}

fn pass_signals(pid: i32, pidfd: &OwnedFd, pty: Option<&File>, signals: &Signals) {
    while let Some(signal) = signals.next() {
        match (signal, pty) {
            (foreground::CHILD, _) => foreground::reap_orphans(pid),
            (foreground::WINDOW, Some(pty)) => copy_size(pty),
            (foreground::URGENT | foreground::PIPE, _) => {}
            _ => {
                // Ended meanwhile is as good.
                let _ = process::pidfd_signal(pidfd.as_fd(), signal);
            }
        }
    }
}

fn copy_size(pty: &File) {
    if let Some((cols, rows)) = foreground::size(std::io::stdin().as_fd()) {
        // A terminal that is gone needs no size.
        let _ = tty::set_size(pty.as_fd(), cols, rows);
    }
}

/// False at the end.
fn copy_input(pty: &mut File) -> bool {
    let mut part = [0; 4096];
    // Unbuffered: what standard input's own buffer held back would never be seen by poll.
    let Ok(stdin) = std::io::stdin().as_fd().try_clone_to_owned() else { return false };
    match File::from(stdin).read(&mut part) {
        Ok(0) | Err(_) => false,
        Ok(length) => pty.write_all(&part[..length]).is_ok(),
    }
}

/// False at the end.
fn copy_output(pty: &mut File) -> bool {
    let mut part = [0; 8192];
    let mut out = std::io::stdout().lock();
    match pty.read(&mut part) {
        Ok(0) | Err(_) => false,
        Ok(length) => out.write_all(&part[..length]).and_then(|()| out.flush()).is_ok(),
    }
}
