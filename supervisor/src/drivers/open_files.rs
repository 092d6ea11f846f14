//! How many descriptors the daemon may have open, which is not what its containers are given.
//!
//! The shim of each running container has the daemon keep some, so the soft limit, 1024 nearly
//! everywhere, is raised to the hard one. Programs that use `select` fear more, and containers
//! have the limits of the daemon: shims are told the one that it was started with, and go back.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Variable that tells a shim, and the next daemon, the limit that this one was started with.
pub const VARIABLE: &str = "WHARF_OPEN_FILES";

static GIVEN: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the limit as far as it goes. Degraded, and said so, where it can't be.
pub fn raise() {
    let now = getrlimit(Resource::Nofile);
    GIVEN.get_or_init(|| told(std::env::var(VARIABLE).ok().as_deref()).or(now.current));
    if now.current == now.maximum {
        return;
    }
    let most = Rlimit { current: now.maximum, maximum: now.maximum };
    if let Err(errno) = setrlimit(Resource::Nofile, most) {
        let errno = errno.raw_os_error();
        tracing::warn!(errno, limit = now.current, "few containers can be kept: open files");
    }
}

/// For the environment of a shim or the next daemon.
#[must_use]
pub fn variable() -> Option<(&'static str, String)> {
    let given = GIVEN.get().copied().flatten()?;
    Some((VARIABLE, given.to_string()))
}

fn told(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_told() {
        assert_eq!(super::told(Some("1024")), Some(1024));
        for nothing in [None, Some(""), Some("-1"), Some("many")] {
            assert_eq!(super::told(nothing), None);
        }
    }
}
