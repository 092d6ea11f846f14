//! Limits: what the spec says, written to a cgroup that is new or in use.

use std::io;

use super::{Cgroup, put, v1, v2};
use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::cgroup_v1::{self, Write};
use crate::logic::cgroup_v2;
use crate::logic::devices::Rule;
use crate::spec::LinuxResources;
use crate::sys::no;

impl Cgroup {
    /// Changes the limits of a container that runs, and tells systemd.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        let v2 = self.unified().filter(|_| self.is_v2());
        let resources = &v2.map_or_else(|| resources.clone(), |dir| v2::completed(dir, resources));
        if let Some(dir) = v2 {
            v2::check_usage(dir, resources)?;
        }
        if let Some(unit) = &self.unit {
            unit.update(resources, self.is_v2())?;
        }
        self.apply(resources)
    }

    /// Writes limits, to a new cgroup or to one in use.
    pub(crate) fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let writes = if self.is_v2() {
            cgroup_v2::writes(resources)?
        } else {
            if resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
                let what =
                    "invalid configuration: linux.resources.unified: this host has cgroup v1";
                return Err(Error::Unsupported { what: what.to_owned() });
            }
            cgroup_v1::writes(resources)
        };
        // Some pairs of values (memory and its sum with swap, quota and period) are refused in one
        // order and taken in the other, depending on what they were before.
        let mut again = Vec::new();
        for write in &writes {
            match self.write(write) {
                Err(failure) if failure.errno == no::EINVAL && writes.len() > 1 => {
                    again.push(write)
                }
                done => done?,
            }
        }
        again.into_iter().try_for_each(|write| Ok(self.write(write)?))
    }

    fn write(&self, write: &Write) -> Result<(), Failure> {
        let no_limit = matches!(write.value.as_str(), "max" | "-1");
        let dir = if self.is_v2() { self.unified() } else { self.with(&write.controller) };
        let Some(dir) = dir else {
            return match no_limit || write.optional {
                true => Ok(()),
                false => Err(no_controller(write, "is not mounted")),
            };
        };
        let (mut file, mut value) = (&write.file, &write.value);
        let mut done = put(&dir.path.join(file), value);
        if let (Err(error), Some((other, text))) = (&done, &write.instead)
            && error.kind() == io::ErrorKind::NotFound
        {
            (file, value) = (other, text);
            done = put(&dir.path.join(file), value);
        }
        match done {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if no_limit || write.optional {
                    Ok(())
                } else {
                    Err(no_controller(write, "has no such file here"))
                }
            }
            done => done.step(|| {
                let at = dir.path.join(file);
                format!("linux.resources.{}: write {value} to {}", write.field, at.display())
            }),
        }
    }

    pub(super) fn restrict_devices(&self, rules: &[Rule], rootless: bool) -> Result<(), Failure> {
        if self.is_v2() {
            return self.unified().map_or(Ok(()), |dir| v2::restrict_devices(dir, rules, rootless));
        }
        if rules.is_empty() || rootless {
            return Ok(());
        }
        let Some(dir) = self.with("devices") else {
            let text = "the controller is not mounted";
            return Err(Failure::new(ErrorKind::Unsupported, "linux.resources.devices", text));
        };
        v1::restrict_devices(dir, rules)
    }
}

fn no_controller(write: &Write, how: &str) -> Failure {
    Failure::new(
        ErrorKind::Unsupported,
        format!("linux.resources.{}", write.field),
        format!("{}: the cgroup controller {} {how}", write.file, write.controller),
    )
}
