//! Removing a world by force, without its daemon: after a failed test, on drop.

use std::{fs, thread, time::Duration};

use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::World;
use crate::leak::Trace;

/// Rounds of killing and removing, 20 ms apart.
const ROUNDS: u32 = 100;

impl World {
    /// Removes the world's cgroup parent from every hierarchy; what is in use stays and is found by
    /// the check for leaks.
    pub(super) fn remove_cgroup_parent(&self) {
        for folder in self.mark.cgroups() {
            if folder.ends_with(&self.mark.cgroup) {
                drop(fs::remove_dir(folder));
            }
        }
    }

    fn remove_by_force(&mut self) {
        drop(self.daemon.take());
        for _ in 0..ROUNDS {
            let processes = self.mark.processes();
            for process in &processes {
                if let Trace::Process { pid, .. } = process {
                    // Gone already is as good.
                    let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                }
            }
            for folder in self.mark.cgroups() {
                drop(fs::remove_dir(folder));
            }
            if processes.is_empty() && self.mark.cgroups().is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        for point in self.mark.mount_points() {
            // What stays is seen below.
            let _stays = umount2(&point, MntFlags::MNT_DETACH);
        }
        if self.mark.mount_points().is_empty() {
            drop(fs::remove_dir_all(&self.mark.folder));
        }
    }
}

impl Drop for World {
    #[expect(clippy::print_stderr, reason = "the daemon's log belongs to a failed test's output")]
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let log = self.daemon_log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
        eprintln!("last lines of wharfd's log in {}:", self.mark.folder.display());
        eprintln!("{}", tail.join("\n"));
        self.remove_by_force();
    }
}
