//! `start` on the command line: a socket that accepts, a process behind it, an address to print.
//!
//! ```text
//! caller ─▶ wharf-shim start ── bind, listen ── fork ──▶ server: setsid, subreaper, stdio away
//!                                 │
//!                                 └─ answers with the address and exits
//! ```

use std::os::unix::net::UnixListener;

use super::shim::Identity;
use super::{Error, records};
use crate::sys::process::{self, Side};
use crate::sys::{SysError, journal, sockets};

/// Which process came back from [`boot`].
#[derive(Debug)]
pub(crate) enum Booted {
    /// The caller's child: tell the address and leave.
    Parent { address: String },
    /// The shim, in a process of its own.
    Server { listener: UnixListener },
}

/// Makes the shim's process. A second start for a living shim answers with its address.
pub(crate) fn boot(identity: &Identity) -> Result<Booted, Error> {
    boot_as(identity, Inherited::Strangers)
}

/// What other descriptors are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inherited {
    /// What the caller forgot to close.
    Strangers,
    /// Ours, to be kept.
    Ours,
}

/// As [`boot`].
pub(crate) fn boot_as(identity: &Identity, inherited: Inherited) -> Result<Booted, Error> {
    let socket = &identity.socket;
    let address = format!("unix://{}", socket.display());
    if sockets::answers(socket) {
        return Ok(Booted::Parent { address });
    }
    let listener = sockets::listen(socket)?;
    records::save_address(&identity.bundle, &address)?;
    match process::fork()? {
        Side::Parent => Ok(Booted::Parent { address }),
        Side::Child => {
            if let Err(error) = become_server(identity, &listener, inherited) {
                // Nobody listens to this process; the socket closing is what the caller sees.
                journal::write(
                    journal::Level::Error,
                    "shim did not start",
                    &[("error", &journal::chain(&error))],
                );
                std::process::exit(1);
            }
            Ok(Booted::Server { listener })
        }
    }
}

fn become_server(
    identity: &Identity,
    listener: &UnixListener,
    inherited: Inherited,
) -> Result<(), SysError> {
    if inherited == Inherited::Strangers {
        process::close_inherited(listener);
    }
    process::detach()?;
    process::redirect_stdio(&identity.bundle.join("shim.log"))?;
    process::become_subreaper()?;
    name_server(identity);
    Ok(())
}

/// The name for `ps`, and a last word before a panic ends the process.
pub(crate) fn name_server(identity: &Identity) {
    process::set_title(&format!("wharf-shim: {}", identity.id.as_str()));
    std::panic::set_hook(Box::new(|panic| {
        journal::write(journal::Level::Error, "shim is broken", &[("panic", &panic)]);
        std::process::abort();
    }));
}
