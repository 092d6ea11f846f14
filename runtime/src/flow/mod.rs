//! The verbs: where decisions meet effects. `create` and `start` make a container, `init` is what
//! its first process does on the way to execve, `exec` adds a process, `task` is what may be done
//! to a container that is there.

pub(crate) mod cgroup;
pub(crate) mod console;
pub(crate) mod copy_up;
pub(crate) mod create;
pub(crate) mod criu;
pub(crate) mod dev;
pub(crate) mod exec;
pub(crate) mod filters;
pub(crate) mod guard;
pub(crate) mod hooks;
pub(crate) mod idmap;
pub(crate) mod init;
mod mapped_root;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod notify;
pub(crate) mod process;
pub(crate) mod rdt;
pub(crate) mod rootfs;
pub(crate) mod systemd;
pub(crate) mod task;
