//! Decisions without effects: what a spec means for the kernel. No system call, no file, no clock.

pub(crate) mod capabilities;
pub(crate) mod cgroup_layout;
pub(crate) mod cgroup_v1;
pub(crate) mod cgroup_v2;
pub(crate) mod criu_message;
pub(crate) mod dbus;
pub(crate) mod device_program;
pub(crate) mod devices;
pub(crate) mod memory_policy;
pub(crate) mod message;
pub(crate) mod mount_options;
pub(crate) mod namespaces;
pub(crate) mod net_devices;
pub(crate) mod netlink;
pub(crate) mod number_list;
pub(crate) mod plan;
pub(crate) mod process_plan;
pub(crate) mod procstat;
pub(crate) mod rdt;
pub(crate) mod seccomp;
pub(crate) mod sysctl;
pub(crate) mod systemd;
pub(crate) mod time_offsets;
