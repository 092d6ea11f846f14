//! How far the clocks of a time namespace are from the host's.

use std::collections::BTreeMap;

use super::namespaces::Namespaces;
use crate::error::Error;
use crate::spec::LinuxTimeOffset;
use crate::sys::process::ns;

/// The lines for `/proc/self/timens_offsets`; `None` when nothing is asked.
pub(crate) fn parse(
    spec: Option<&BTreeMap<String, LinuxTimeOffset>>,
    namespaces: &Namespaces,
) -> Result<Option<String>, Error> {
    let Some(spec) = spec.filter(|all| !all.is_empty()) else { return Ok(None) };
    let refuse = |field: String, reason: &str| {
        Err(Error::Spec { field: format!("linux.timeOffsets{field}"), reason: reason.to_owned() })
    };
    if namespaces.new & ns::TIME == 0 {
        return refuse(String::new(), "needs a new time namespace");
    }
    let mut lines = String::new();
    for (clock, offset) in spec {
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return refuse(format!("[{clock:?}]"), "only monotonic and boottime can be set off");
        }
        let nanosecs = offset.nanosecs().unwrap_or(0);
        if nanosecs >= 1_000_000_000 {
            return refuse(format!("[{clock:?}].nanosecs"), "is a second or more");
        }
        lines.push_str(&format!("{clock} {} {nanosecs}\n", offset.secs().unwrap_or(0)));
    }
    Ok(Some(lines))
}
