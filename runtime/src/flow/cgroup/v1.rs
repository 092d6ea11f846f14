//! What only cgroup v1 has.

use std::fs;
use std::io;
use std::path::Path;

use super::{Dir, put};
use crate::error::{Failure, Step};
use crate::logic::devices::Rule;

/// Writes the rules to the devices controller.
pub(super) fn restrict_devices(dir: &Dir, rules: &[Rule]) -> Result<(), Failure> {
    let open = |name: &str| {
        fs::OpenOptions::new()
            .write(true)
            .open(dir.path.join(name))
            .step(|| format!("open {}/{name}", dir.path.display()))
    };
    let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in rules.iter().flat_map(Rule::for_v1) {
        let file = if rule.allow { &mut allow } else { &mut deny };
        let line = rule.v1_line();
        io::Write::write_all(file, line.as_bytes()).step(|| {
            let verb = if rule.allow { "allow" } else { "deny" };
            format!("{verb} device {line:?} in {}", dir.path.display())
        })?;
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process until it has cpus and memory nodes.
pub(super) fn fill_cpuset(mount: &Path, dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fill_cpuset_file(mount, dir, file)?;
    }
    Ok(())
}

fn fill_cpuset_file(mount: &Path, dir: &Path, file: &str) -> io::Result<String> {
    let own = fs::read_to_string(dir.join(file))?;
    if !own.trim().is_empty() || dir == mount {
        return Ok(own);
    }
    let above = fill_cpuset_file(mount, dir.parent().unwrap_or(mount), file)?;
    put(&dir.join(file), above.trim())?;
    Ok(above)
}
