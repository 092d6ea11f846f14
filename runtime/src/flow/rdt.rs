//! The container's group in resctrl.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Failure, Step};
use crate::logic::rdt::{RdtPlan, agrees};

/// Directories that were made for a container, to be removed with it, in this order.
pub(crate) type Made = Vec<PathBuf>;

/// Where resctrl is mounted.
pub(crate) fn find() -> Result<PathBuf, Error> {
    let text = fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
    mounted_in(&text).ok_or_else(|| Error::Unsupported {
        what: "linux.intelRdt: no resctrl file system is mounted on this host".to_owned(),
    })
}

fn mounted_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("resctrl ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// Puts process `pid` into its group, made if need be. On failure nothing is left.
pub(crate) fn enter(top: &Path, plan: &RdtPlan, id: &str, pid: i32) -> Result<Made, Failure> {
    let mut made = Made::new();
    let done = fill(top, plan, id, pid, &mut made);
    if let Err(failure) = done {
        let _ = remove(&made);
        return Err(failure);
    }
    if plan.group.is_some() {
        // A group that has a name belongs to whoever named it. The monitoring group is ours.
        made.retain(|dir| dir.parent().is_some_and(|above| above.ends_with("mon_groups")));
    }
    Ok(made)
}

/// Writes other lines to the group that a container has, by its spec's plan.
pub(crate) fn update(
    top: &Path,
    plan: Option<&RdtPlan>,
    id: &str,
    lines: &[&str],
) -> Result<(), Error> {
    let named = plan.map(|plan| plan.group.as_deref().unwrap_or(id));
    let group = named.map(|name| top.join(name)).filter(|group| group.is_dir());
    let Some(group) = group else {
        let what = "linux.intelRdt by update: the container was made without a group".to_owned();
        return Err(Error::Unsupported { what });
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    put(&group.join("schemata"), &text)
        .step(|| format!("linux.intelRdt: write schemata of {}", group.display()))?;
    Ok(())
}

fn fill(top: &Path, plan: &RdtPlan, id: &str, pid: i32, made: &mut Made) -> Result<(), Failure> {
    let group = top.join(plan.group.as_deref().unwrap_or(id));
    let step = |what: &str| format!("linux.intelRdt: {what} {}", group.display());
    let is_there = group.is_dir();
    let refuse = |text: &str| Err(Failure::new(ErrorKind::Invalid, step("use"), text));
    match (&plan.group, is_there) {
        (Some(_), false) if plan.lines.is_empty() => return refuse("there is no such group"),
        (Some(_), true) => {
            let file = group.join("schemata");
            let now = fs::read_to_string(&file).step(|| step("read schemata of"))?;
            if let Some(line) = plan.expected.iter().find(|line| !agrees(&now, line)) {
                return refuse(&format!("the group is there, and {line:?} is not what it has"));
            }
        }
        (_, false) => {
            fs::create_dir(&group).step(|| step("make"))?;
            made.insert(0, group.clone());
        }
        (None, true) => {}
    }
    if !plan.lines.is_empty() {
        let text: String = plan.lines.iter().map(|line| format!("{line}\n")).collect();
        put(&group.join("schemata"), &text).step(|| step("write schemata of"))?;
    }
    put(&group.join("tasks"), &pid.to_string()).step(|| step("enter"))?;
    if plan.is_monitored {
        let dir = group.join("mon_groups").join(id);
        let step =
            |what: &str| format!("linux.intelRdt.enableMonitoring: {what} {}", dir.display());
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => done.step(|| step("make"))?,
        }
        made.insert(0, dir.clone());
        put(&dir.join("tasks"), &pid.to_string()).step(|| step("enter"))?;
    }
    Ok(())
}

fn put(file: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Removes what was made for a container. What is gone already is fine.
pub(crate) fn remove(made: &[PathBuf]) -> io::Result<()> {
    made.iter().try_for_each(|dir| match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    })
}

/// The same, said as a step.
pub(crate) fn destroy(made: &[PathBuf]) -> Result<(), Failure> {
    remove(made).step(|| "remove the container's groups in resctrl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_is_mounted() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    40 31 0:37 / /sys/fs/resctrl rw,relatime - resctrl resctrl rw\n";
        assert_eq!(mounted_in(text), Some(PathBuf::from("/sys/fs/resctrl")));
        assert_eq!(mounted_in("31 23 0:28 / /resctrl rw - tmpfs resctrl rw\n"), None);
    }

    /// On a folder in resctrl's place: this host may have none. What only the kernel does there
    /// (files that come with a group) is done by hand.
    #[test]
    fn groups_that_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path();
        let group = |name: &str| {
            fs::create_dir_all(top.join(name).join("mon_groups")).expect("a group");
            fs::write(top.join(name).join("schemata"), "L3:0=7ff\n").expect("schemata");
            fs::write(top.join(name).join("tasks"), "").expect("tasks");
        };
        group("gold");
        let plan = |group: &str, lines: &[&str]| RdtPlan {
            group: Some(group.to_owned()),
            lines: lines.iter().map(ToString::to_string).collect(),
            expected: lines.iter().map(ToString::to_string).collect(),
            is_monitored: false,
        };
        assert!(enter(top, &plan("gold", &[]), "a", 42).expect("entered").is_empty());
        assert_eq!(fs::read_to_string(top.join("gold/tasks")).expect("tasks"), "42");
        let other = enter(top, &plan("gold", &["L3:0=1"]), "a", 42).expect_err("differs");
        assert!(other.text.contains("not what it has"), "{other}");
        let lines = ["L3:0=f", "MB:0=50"];
        update(top, Some(&plan("gold", &[])), "a", &lines).expect("updated");
        assert_eq!(fs::read_to_string(top.join("gold/schemata")).expect("it"), "L3:0=f\nMB:0=50\n");
        assert!(update(top, Some(&plan("silver", &[])), "a", &lines).is_err());
        assert!(update(top, None, "a", &lines).is_err());
        let none = enter(top, &plan("silver", &[]), "a", 42).expect_err("not there");
        assert!(none.text.contains("no such group"), "{none}");
        // Made, but without the kernel's files: the failure takes it away again.
        enter(top, &plan("silver", &["L3:0=1"]), "a", 42).expect_err("no files");
        assert!(!top.join("silver").exists());
    }
}
