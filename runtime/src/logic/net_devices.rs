//! Network devices that a container takes from the host.

use std::collections::BTreeMap;

use super::namespaces::Namespaces;
use crate::error::Error;
use crate::spec::LinuxNetDevice;
use crate::sys::process::ns;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetDevice {
    pub(crate) host_name: String,
    /// In the container; `%d` in it is the kernel's to fill.
    pub(crate) name: String,
}

/// The kernel's room for a name, without the NUL at its end.
const MAX_NAME_BYTES: usize = 15;

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && ![".", ".."].contains(&name)
        && !name.contains(['/', ':', '\0'])
        && !name.contains(char::is_whitespace)
}

/// Checks and converts.
pub(crate) fn parse(
    spec: Option<&BTreeMap<String, LinuxNetDevice>>,
    namespaces: &Namespaces,
) -> Result<Vec<NetDevice>, Error> {
    let mut all: Vec<NetDevice> = Vec::new();
    let Some(spec) = spec.filter(|spec| !spec.is_empty()) else { return Ok(all) };
    let refuse = |field: String, reason: &str| {
        Err(Error::Spec { field: format!("linux.netDevices{field}"), reason: reason.to_owned() })
    };
    if !namespaces.has(ns::NET) {
        return refuse(String::new(), "needs a network namespace");
    }
    for (host_name, device) in spec {
        let at = format!("[{host_name:?}]");
        if !is_name(host_name) {
            return refuse(at, "is no name of a network device");
        }
        let name = device.name().as_deref().filter(|name| !name.is_empty()).unwrap_or(host_name);
        let percents = name.matches('%').count();
        if !is_name(name) || percents > 0 && (percents != 1 || !name.contains("%d")) {
            return refuse(format!("{at}.name"), "is no name of a network device");
        }
        if percents == 0 && all.iter().any(|other| other.name == name) {
            return refuse(format!("{at}.name"), "is taken by another device");
        }
        all.push(NetDevice { host_name: host_name.clone(), name: name.to_owned() });
    }
    Ok(all)
}
