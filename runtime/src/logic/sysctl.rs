//! Kernel parameters: only those that belong to a namespace of the container.

use crate::error::Error;
use crate::logic::namespaces::Namespaces;
use crate::sys::process::ns;

/// Of the IPC namespace, below `kernel.`.
const IPC: [&str; 8] =
    ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// Checks a parameter; gives its path below `/proc/sys`.
pub(crate) fn path(name: &str, namespaces: &Namespaces) -> Result<String, Error> {
    let refuse = |reason: &str| {
        Err(Error::Spec { field: format!("linux.sysctl[{name:?}]"), reason: reason.to_owned() })
    };
    // With a slash anywhere the slashes separate, and dots are part of the names (an interface's).
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return refuse("not a parameter's name");
    }
    let needs = match path.split_once('/') {
        Some(("net", _)) => ns::NET,
        Some(("fs", rest)) if rest.starts_with("mqueue/") => ns::IPC,
        Some(("kernel", rest)) if IPC.contains(&rest) => ns::IPC,
        Some(("kernel", "domainname")) => ns::UTS,
        Some(("kernel", "hostname")) => return refuse("set hostname in the spec instead"),
        Some(("user", _)) => ns::USER,
        _ => return refuse("belongs to the whole host, not to a namespace"),
    };
    if !namespaces.has(needs) {
        return refuse("its namespace is the host's");
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_containers_own() {
        let own = Namespaces { new: ns::NET | ns::IPC, join: Vec::new() };
        assert_eq!(path("net.ipv4.ip_forward", &own).expect("own"), "net/ipv4/ip_forward");
        assert_eq!(
            path("net/ipv4/conf/eth0.1/rp_filter", &own).expect("own"),
            "net/ipv4/conf/eth0.1/rp_filter"
        );
        assert_eq!(path("fs.mqueue.msg_max", &own).expect("own"), "fs/mqueue/msg_max");
        for bad in
            ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "kernel.domainname", "net..x"]
        {
            assert!(path(bad, &own).is_err(), "{bad}");
        }
        assert!(path("net.ipv4.ip_forward", &Namespaces::default()).is_err());
    }
}
