//! Who a process is and what it may: ids, capabilities, limits.

use std::io;

use super::{check, errno};
use crate::logic::process_plan::SchedulerPlan;

/// The five sets of capabilities, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapabilitySets {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Takes from the bounding set what is not in `keep`.
pub(crate) fn limit_bounding(keep: u64) -> io::Result<()> {
    for bit in 0..64u32 {
        if keep & (1 << bit) != 0 {
            continue;
        }
        // SAFETY: integers only.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) };
        if done < 0 {
            let error = io::Error::last_os_error();
            // The first number that this kernel does not know ends the list.
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(());
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Keeps the permitted set over a change away from user 0.
pub(crate) fn keep_over_setuid() -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }))?;
    Ok(())
}

/// Sets effective, permitted and inheritable.
pub(crate) fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes a header and two data blocks, which both live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) })?;
    Ok(())
}

/// The permitted set of this process.
pub(crate) fn permitted() -> io::Result<u64> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and room for two data blocks; both live through the call.
    check(unsafe {
        libc::syscall(libc::SYS_capget, std::ptr::from_ref(&header), data.as_mut_ptr())
    })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Sets the ambient set: empties it, then raises each.
pub(crate) fn set_ambient(ambient: u64) -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    }))?;
    for bit in (0..64u32).filter(|bit| ambient & (1 << bit) != 0) {
        // SAFETY: integers only.
        check(i64::from(unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, bit, 0, 0)
        }))?;
    }
    Ok(())
}

/// Sets groups, then group, then user, for good. `groups` is `None` where the user namespace
/// forbids setgroups.
pub(crate) fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> io::Result<()> {
    if let Some(groups) = groups {
        // SAFETY: pointer and count are of one live slice. The raw calls change this thread alone,
        // which is the only one.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: integers only; one thread, as above.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Has files made and looked at as another user, with all capabilities that this one has: a mount
/// whose owners are mapped takes nothing that is made by who is not in the mapping.
pub(crate) fn act_on_files_as(uid: u32, gid: u32) -> io::Result<()> {
    let permitted = permitted()?;
    // SAFETY: integers only. They give the ids of before, never an error.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
    // The change took those on files from the effective set.
    set_capabilities(CapabilitySets {
        effective: permitted,
        permitted,
        ..CapabilitySets::default()
    })
}

/// Real user of this process.
pub(crate) fn own_uid() -> u32 {
    // SAFETY: no conditions; never fails.
    unsafe { libc::geteuid() }
}

/// Real group of this process.
pub(crate) fn own_gid() -> u32 {
    // SAFETY: no conditions; never fails.
    unsafe { libc::getegid() }
}

/// Sets the I/O priority of this process, class and level as the kernel packs them.
pub(crate) fn set_io_priority(packed: u32) -> io::Result<()> {
    // SAFETY: integers only; 1 means a process, 0 this one.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, packed) })?;
    Ok(())
}

/// The kernel's sched_attr in its first form.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Sets how this process is scheduled.
pub(crate) fn set_scheduler(plan: SchedulerPlan) -> io::Result<()> {
    let attr = SchedAttr {
        size: std::mem::size_of::<SchedAttr>() as u32,
        policy: plan.policy,
        flags: plan.flags,
        nice: plan.nice,
        priority: plan.priority,
        runtime: plan.runtime_ns,
        deadline: plan.deadline_ns,
        period: plan.period_ns,
    };
    // SAFETY: `attr` says its own size and lives through the call; pid 0 is this process.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attr), 0) })?;
    Ok(())
}

/// Leaves the caller's session keyring for a new, empty one.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for a new keyring without one.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })?;
    Ok(())
}

/// Sets the execution domain (`PER_LINUX` is 0, `PER_LINUX32` is 8).
pub(crate) fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::personality(domain as libc::c_ulong) }))?;
    Ok(())
}

/// No execve gives more than this process has, from now on.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integers only.
    check(i64::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }))?;
    Ok(())
}

/// The soft and hard limit of a resource (a number of the kernel's).
pub(crate) fn limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a null new limit only reads; `now` lives through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            std::ptr::from_mut(&mut now),
        )
    })?;
    Ok((now.rlim_cur, now.rlim_max))
}

/// Sets the soft and hard limit of a resource.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    if soft > hard {
        return Err(errno(libc::EINVAL));
    }
    let new = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `new` lives through the call; the old limit is not asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::from_ref(&new),
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    })?;
    Ok(())
}
