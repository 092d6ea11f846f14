//! Capabilities: names in a spec to bits of the kernel.

use std::collections::HashSet;

use crate::spec::{Capability, LinuxCapabilities};

use crate::sys::cred::CapabilitySets;

/// In the kernel's order: the index is the bit.
pub(crate) const BY_BIT: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

fn bits(set: Option<&HashSet<Capability>>) -> u64 {
    set.map_or(0, |set| {
        BY_BIT
            .iter()
            .enumerate()
            .filter(|(_, capability)| set.contains(capability))
            .fold(0, |bits, (bit, _)| bits | 1 << bit)
    })
}

/// The five sets. A spec without capabilities gives none, as the OCI spec's default is empty.
pub(crate) fn sets(spec: Option<&LinuxCapabilities>) -> CapabilitySets {
    let Some(spec) = spec else { return CapabilitySets::default() };
    CapabilitySets {
        bounding: bits(spec.bounding().as_ref()),
        effective: bits(spec.effective().as_ref()),
        permitted: bits(spec.permitted().as_ref()),
        inheritable: bits(spec.inheritable().as_ref()),
        ambient: bits(spec.ambient().as_ref()),
    }
}

/// Their names.
pub(crate) fn names(set: u64) -> Vec<String> {
    let named = BY_BIT.iter().enumerate().filter(|(bit, _)| set & (1 << bit) != 0);
    named.map(|(_, capability)| format!("CAP_{capability}")).collect()
}

/// Takes away what this host can't give (bits outside `ours`), and says what that was.
pub(crate) fn within(sets: CapabilitySets, ours: u64) -> (CapabilitySets, Vec<String>) {
    let asked = sets.bounding | sets.effective | sets.permitted | sets.inheritable;
    let missing = asked & !ours;
    let names = names(missing);
    let permitted = sets.permitted & ours;
    let inheritable = sets.inheritable & ours;
    let cut = CapabilitySets {
        bounding: sets.bounding & ours,
        effective: sets.effective & permitted,
        permitted,
        inheritable,
        ambient: sets.ambient & permitted & inheritable,
    };
    (cut, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_kernels() {
        let set = HashSet::from([Capability::Chown, Capability::SysAdmin, Capability::Bpf]);
        assert_eq!(bits(Some(&set)), 1 | 1 << 21 | 1 << 39);
    }

    #[test]
    fn what_the_host_lacks_is_named_and_left_out() {
        let sets = CapabilitySets { bounding: 3, effective: 3, permitted: 3, ..Default::default() };
        let (cut, names) = within(sets, 1);
        assert_eq!(
            cut,
            CapabilitySets { bounding: 1, effective: 1, permitted: 1, ..Default::default() }
        );
        assert_eq!(names, ["CAP_DAC_OVERRIDE"]);
    }
}
