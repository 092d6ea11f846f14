//! `delete` on the command line: what a shim that died left behind.

use std::time::Duration;

use super::Error;
use super::foreign::Of;
use super::records::{self, StateRecord};
use super::shim::Identity;
use crate::logic::exit::{Ending, Exit};
use crate::sys::{clock, files, process};

/// How long a killed init may take to end.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// Ends the container of a bundle and removes its traces. Nothing there is fine: then it says
/// that the init was killed, as the protocol wants it.
pub(crate) fn cleanup(identity: &Identity) -> Result<Exit, Error> {
    let bundle = &identity.bundle;
    let killed = |pid| Exit::new(pid, Ending::Signal(libc::SIGKILL), false, clock::unix_ns());
    let mut exit = records::load_exit(bundle)?.unwrap_or_else(|| killed(0));
    let mut socket = records::load_address(bundle).unwrap_or_else(|| identity.socket.clone());
    if let Some(state) = StateRecord::load(bundle)? {
        let (pid, ticks) = (state.runtime.pid, state.runtime.start_ticks);
        if let Some(pidfd) = process::open_pidfd(pid, ticks) {
            process::signal(&pidfd, libc::SIGKILL)?;
            process::wait_end(&pidfd, KILL_GRACE);
        }
        if exit.pid == 0 {
            exit = killed(u32::try_from(pid).unwrap_or(0));
        }
        if let Some(foreign) = &state.foreign {
            foreign.delete(Of { id: &state.id, bundle })?;
        }
        state
            .runtime
            .destroy()
            .map_err(|source| Error::Runtime { step: "take container down", source })?;
        socket = state.socket;
    }
    records::remove_task(bundle)?;
    files::remove(&socket)?;
    records::remove_address(bundle)?;
    Ok(exit)
}
