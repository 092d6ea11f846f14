//! Putting right.

use std::{io, path::Path};

use super::{Doctor, Finding, Repair, set_record_aside};
use crate::{
    drivers::{aside::Aside, leftovers},
    fault,
};

/// What came of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What was found.
    pub finding: Finding,
    /// Why it could not be put right.
    pub problem: Option<String>,
}

impl Doctor {
    /// Puts right what can be; the rest is not in the answer. What only a supervisor that runs can do
    /// is asked of `finish`, with namespace and id.
    pub fn repair(
        &self,
        findings: &[Finding],
        mut finish: impl FnMut(&str, &str) -> Result<(), String>,
    ) -> Vec<Repaired> {
        // What runs goes before what it has: processes, cgroups, mounts, files.
        let order = |finding: &&Finding| match &finding.repair {
            Repair::Kill(_) => 0,
            Repair::Cgroup(_) => 1,
            Repair::Unmount(_) => 2,
            Repair::Finish(..) => 3,
            Repair::Move(_) | Repair::Record(_) => 4,
            // What was set aside before, not what is set aside now.
            Repair::Settle(_) => 5,
            Repair::ByHand => 6,
        };
        let mut findings: Vec<&Finding> = findings.iter().filter(|f| f.is_repairable()).collect();
        findings.sort_by_key(order);
        let one = |finding: &Finding| {
            let done = match &finding.repair {
                Repair::ByHand => Ok(()),
                Repair::Settle(item) => {
                    let base = item.path.parent().and_then(Path::parent).unwrap_or(&self.root);
                    Aside::of(base).settle(item).map_err(|e| e.to_string())
                }
                Repair::Record(found) => {
                    set_record_aside(&self.store, &Aside::of(&self.root), found)
                        .map(drop)
                        .map_err(|e| fault::chain(&e))
                }
                Repair::Finish(namespace, id) => finish(namespace, id),
                Repair::Kill(process) => leftovers::kill(process).map_err(|e| e.to_string()),
                Repair::Cgroup(folder) => {
                    leftovers::remove_cgroup(folder).map_err(|e| e.to_string())
                }
                Repair::Unmount(point) => leftovers::detach(point).map_err(|e| e.to_string()),
                Repair::Move(path) => {
                    self.move_aside(path, &finding.problem).map_err(|e| e.to_string())
                }
            };
            Repaired { finding: finding.clone(), problem: done.err() }
        };
        findings.into_iter().map(one).collect()
    }

    fn move_aside(&self, path: &Path, why: &str) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // It stays on its file system.
        let base = if path.starts_with(&self.state) { &self.state } else { &self.root };
        let why = format!("{}: {why}", path.display());
        let aside = Aside::of(base);
        // Who repaired it knows of it.
        let item = aside.move_here(path, &name, &why)?;
        aside.settle(&item)
    }
}
