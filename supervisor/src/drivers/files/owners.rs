//! Owners in a container with a user namespace, whose files have others for the host.

use std::io;

use nix::unistd::{Gid, Uid};
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first in the container.
    pub inside: u32,
    /// The first on the host.
    pub outside: u32,
    /// How many.
    pub len: u32,
}

/// How the container's ids are seen here. Empty: as they are.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    /// Users.
    pub uids: Vec<Run>,
    /// Groups.
    pub gids: Vec<Run>,
}

/// Whom the kernel shows for who is not in a mapping.
const NOBODY: u32 = 65534;

fn inward(runs: &[Run], id: u32) -> u32 {
    if runs.is_empty() {
        return id;
    }
    let find = |r: &Run| id.checked_sub(r.outside).filter(|n| *n < r.len).map(|n| r.inside + n);
    runs.iter().find_map(find).unwrap_or(NOBODY)
}

fn outward(runs: &[Run], id: u32) -> Option<u32> {
    if runs.is_empty() {
        return Some(id);
    }
    let find = |r: &Run| id.checked_sub(r.inside).filter(|n| *n < r.len).map(|n| r.outside + n);
    runs.iter().find_map(find)
}

impl Owners {
    /// Who an owner seen here is in the container.
    #[must_use]
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        (inward(&self.uids, uid), inward(&self.gids, gid))
    }

    /// Who an owner of the container's is here.
    pub(super) fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((outward(&self.uids, uid)?, outward(&self.gids, gid)?))
    }

    /// Has this thread make files as the container's root, with its own capabilities: what is mounted
    /// there takes no files of others. For good.
    pub(super) fn become_root(&self) -> io::Result<()> {
        if self.uids.is_empty() {
            return Ok(());
        }
        let Some((uid, gid)) = self.outside(0, 0) else { return Ok(()) };
        let permitted = capabilities(None)?.permitted;
        // They answer with the ids of before, and fail by changing nothing.
        nix::unistd::setfsgid(Gid::from_raw(gid));
        nix::unistd::setfsuid(Uid::from_raw(uid));
        // The change has taken those on files away.
        set_capabilities(
            None,
            CapabilitySets {
                effective: permitted,
                permitted,
                inheritable: capabilities(None)?.inheritable,
            },
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Owners, Run};

    #[test]
    fn in_and_out() {
        let runs = vec![
            Run { inside: 0, outside: 1000, len: 10 },
            Run { inside: 10, outside: 5000, len: 1 },
        ];
        let owners = Owners { uids: runs.clone(), gids: runs };
        assert_eq!(owners.inside(1003, 5000), (3, 10));
        assert_eq!(owners.inside(0, 1010), (65534, 65534));
        assert_eq!(owners.outside(10, 9), Some((5000, 1009)));
        assert_eq!(owners.outside(11, 0), None);
        assert_eq!(Owners::default().outside(7, 8), Some((7, 8)));
        assert_eq!(Owners::default().inside(7, 8), (7, 8));
    }
}
