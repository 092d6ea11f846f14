//! What a parent and its forked child say to each other before execve.
//!
//! ```text
//! child                              parent
//!   ├─ Born {pid} ──────────────────▶ (joined user namespace only) a process in between ends
//!   ├─ MapMe ───────────────────────▶ (new user namespace only) writes the id maps
//!   ◀─────────────────────────── Go ──┤
//!   ├─ Devices + netlink socket ────▶ (network devices only) moves them in
//!   ◀─────────────────────────── Go ──┤
//!   ├─ Hooks ───────────────────────▶ (hooks before the change of root only) runs its own
//!   ◀────────────────────── GoAs {pid} ┤
//!   ├─ Ready {warnings} + pty ──────▶ create returns
//!   ◀─────────────────────────── Go ──┤ start
//!   ├─ Listener + descriptor ───────▶ (seccomp that asks an agent only) passes it on
//!   └─ execve closes the channel ───▶ start returns
//!      or Failed at any point ──────▶ the call fails with it
//! ```

use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    MapMe,
    /// The container's process, born to the reader by the sender; its pidfd comes along.
    Born {
        pid: i32,
    },
    /// A socket of the container's network comes along.
    Devices,
    /// The seccomp listener comes along.
    Listener,
    /// Mounts are made, the root not changed: the runtime's hooks may run.
    Hooks,
    Ready {
        warnings: Vec<String>,
    },
    Failed(Failure),
    Go,
    /// Go on; the child's pid as its parent sees it.
    GoAs {
        pid: i32,
    },
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            // The common ones cost no JSON.
            Self::MapMe => b"M".to_vec(),
            Self::Go => b"G".to_vec(),
            // Said under the filter itself, where no memory may be asked of the kernel.
            Self::Listener => b"L".to_vec(),
            Self::Ready { warnings } if warnings.is_empty() => b"R".to_vec(),
            Self::Hooks
            | Self::Born { .. }
            | Self::Devices
            | Self::GoAs { .. }
            | Self::Ready { .. }
            | Self::Failed(_) => serde_json::to_vec(self).unwrap_or_default(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            b"M" => Some(Self::MapMe),
            b"G" => Some(Self::Go),
            b"L" => Some(Self::Listener),
            b"R" => Some(Self::Ready { warnings: Vec::new() }),
            json => serde_json::from_slice(json).ok(),
        }
    }
}
