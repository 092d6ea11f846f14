//! Namespaces: which are new, which are joined, which are the host's.

use std::path::PathBuf;

use crate::spec::{LinuxNamespace, LinuxNamespaceType};

use crate::error::Error;
use crate::sys::process::ns;

/// What becomes of each kind of namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// Bits of the new ones.
    pub(crate) new: u64,
    /// The ones to join, user first, mount last: each may need rights or paths from those before.
    pub(crate) join: Vec<(u64, PathBuf)>,
}

impl Namespaces {
    pub(crate) fn parse(spec: &[LinuxNamespace]) -> Result<Self, Error> {
        let mut all = Self::default();
        let mut seen = 0;
        for (index, namespace) in spec.iter().enumerate() {
            let bit = bit(namespace.typ());
            let field = format!("linux.namespaces[{index}]");
            if seen & bit != 0 {
                let reason = format!("{} is named twice", namespace.typ());
                return Err(Error::Spec { field, reason });
            }
            seen |= bit;
            match namespace.path() {
                None => all.new |= bit,
                Some(path) if path.as_os_str().is_empty() => all.new |= bit,
                Some(path) if !path.is_absolute() => {
                    let reason = "the path must be absolute".to_owned();
                    return Err(Error::Spec { field, reason });
                }
                Some(path) => all.join.push((bit, path.clone())),
            }
        }
        all.join.sort_by_key(|(bit, _)| match *bit {
            ns::USER => 0,
            ns::MOUNT => 2,
            _ => 1,
        });
        Ok(all)
    }

    /// Those that are not the host's.
    pub(crate) fn own(&self) -> u64 {
        self.join.iter().fold(self.new, |bits, (bit, _)| bits | bit)
    }

    /// Not the host's.
    pub(crate) fn has(&self, bit: u64) -> bool {
        self.own() & bit != 0
    }
}

fn bit(kind: LinuxNamespaceType) -> u64 {
    match kind {
        LinuxNamespaceType::Mount => ns::MOUNT,
        LinuxNamespaceType::Cgroup => ns::CGROUP,
        LinuxNamespaceType::Uts => ns::UTS,
        LinuxNamespaceType::Ipc => ns::IPC,
        LinuxNamespaceType::User => ns::USER,
        LinuxNamespaceType::Pid => ns::PID,
        LinuxNamespaceType::Network => ns::NET,
        LinuxNamespaceType::Time => ns::TIME,
    }
}
