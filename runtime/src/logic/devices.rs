//! Devices: the nodes in `/dev`, and who may use which.

use std::path::{Path, PathBuf};

use crate::spec::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::Error;
use crate::sys::path::{BLOCK_DEVICE, CHAR_DEVICE, FIFO};

/// A node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    /// File type and permissions.
    pub(crate) mode: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// By the spec; else it is one that every container has.
    pub(crate) is_asked: bool,
}

/// Those that every container has: name, minor and major as the kernel's documentation assigns.
const DEFAULT_NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links that every container has.
pub(crate) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The default nodes but for those that the spec defines itself, then the spec's.
pub(crate) fn nodes(spec: &[LinuxDevice]) -> Result<Vec<Node>, Error> {
    let mut all: Vec<Node> = DEFAULT_NODES
        .iter()
        .map(|(name, major, minor)| Node {
            path: Path::new("/dev").join(name),
            mode: CHAR_DEVICE | 0o666,
            major: *major,
            minor: *minor,
            uid: 0,
            gid: 0,
            is_asked: false,
        })
        .collect();
    for (index, device) in spec.iter().enumerate() {
        let refuse = |reason: &str| Error::Spec {
            field: format!("linux.devices[{index}]"),
            reason: reason.to_owned(),
        };
        if !device.path().is_absolute() {
            return Err(refuse("the path must be absolute"));
        }
        let number = |n: i64| u32::try_from(n).map_err(|_| refuse("not a device number"));
        let (kind, major, minor) = match device.typ() {
            LinuxDeviceType::B => (BLOCK_DEVICE, number(device.major())?, number(device.minor())?),
            LinuxDeviceType::C | LinuxDeviceType::U => {
                (CHAR_DEVICE, number(device.major())?, number(device.minor())?)
            }
            LinuxDeviceType::P => (FIFO, 0, 0),
            LinuxDeviceType::A => return Err(refuse("type a is for rules, not for nodes")),
        };
        all.retain(|node| node.path != *device.path());
        all.push(Node {
            path: device.path().clone(),
            mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
            major,
            minor,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            is_asked: true,
        });
    }
    Ok(all)
}

/// Uses of a device, one bit each, in the order of BPF's.
pub(crate) mod uses {
    pub(crate) const MKNOD: u32 = 1;
    pub(crate) const READ: u32 = 2;
    pub(crate) const WRITE: u32 = 4;
    pub(crate) const ALL: u32 = 7;
}

/// What a rule is about; nothing means any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) allow: bool,
    /// `b` or `c`.
    pub(crate) kind: Option<u8>,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: u32,
}

/// The rules of a spec, and after them those for what every container may use. The last that fits
/// decides. None at all in the spec: nothing is forbidden.
pub(crate) fn rules(spec: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Error> {
    if spec.is_empty() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for (index, rule) in spec.iter().enumerate() {
        all.push(spec_rule(index, rule)?);
    }
    let any = |kind| Rule {
        allow: true,
        kind: Some(kind),
        major: None,
        minor: None,
        access: uses::MKNOD,
    };
    all.extend([any(b'c'), any(b'b')]);
    let char_device = |major, minor| Rule {
        allow: true,
        kind: Some(b'c'),
        major: Some(major),
        minor,
        access: uses::ALL,
    };
    all.extend(DEFAULT_NODES.iter().map(|(_, major, minor)| char_device(*major, Some(*minor))));
    // Terminals: /dev/pts/*, ptmx.
    all.extend([char_device(136, None), char_device(5, Some(2))]);
    Ok(all)
}

fn spec_rule(index: usize, rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let refuse =
        |reason: String| Error::Spec { field: format!("linux.resources.devices[{index}]"), reason };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => uses::READ,
            'w' => uses::WRITE,
            'm' => uses::MKNOD,
            // Some specs say so; runc takes it.
            'a' => uses::ALL,
            other => return Err(refuse(format!("access has {other:?}, not r, w or m"))),
        };
    }
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(b'b'),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(b'c'),
        Some(LinuxDeviceType::P) => return Err(refuse("pipes have no rules".to_owned())),
    };
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => {
            u32::try_from(n).map(Some).map_err(|_| refuse(format!("{n} is no device number")))
        }
    };
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major: number(rule.major())?,
        minor: number(rule.minor())?,
        access: if access == 0 { uses::ALL } else { access },
    })
}

impl Rule {
    /// As a line for `devices.allow` or `devices.deny` of cgroup v1.
    pub(crate) fn v1_line(&self) -> String {
        let Some(kind) = self.kind else {
            // v1 knows no wildcard of type with anything less than everything.
            return "a".to_owned();
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let mut line =
            format!("{} {}:{} ", char::from(kind), number(self.major), number(self.minor));
        for (bit, letter) in [(uses::READ, 'r'), (uses::WRITE, 'w'), (uses::MKNOD, 'm')] {
            if self.access & bit != 0 {
                line.push(letter);
            }
        }
        line
    }

    /// As rules that v1 can say: one about any type and less than everything becomes two.
    pub(crate) fn for_v1(&self) -> Vec<Rule> {
        let everything = self.major.is_none() && self.minor.is_none() && self.access == uses::ALL;
        if self.kind.is_some() || everything {
            return vec![*self];
        }
        vec![Rule { kind: Some(b'c'), ..*self }, Rule { kind: Some(b'b'), ..*self }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_in_the_words_of_v1() {
        let json = r#"[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
            {"allow":false,"access":"m"}]"#;
        let spec: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).expect("json");
        let all = rules(&spec).expect("valid");
        assert_eq!(all[0].for_v1()[0].v1_line(), "a");
        assert_eq!(all[1].v1_line(), "c 10:229 rw");
        let split: Vec<_> = all[2].for_v1().iter().map(Rule::v1_line).collect();
        assert_eq!(split, ["c *:* m", "b *:* m"]);
        assert!(all.len() > 10);
        assert!(rules(&[]).expect("valid").is_empty());
    }

    #[test]
    fn a_node_of_the_spec_takes_the_place_of_the_default() {
        let json = r#"[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":384}]"#;
        let spec: Vec<LinuxDevice> = serde_json::from_str(json).expect("json");
        let all = nodes(&spec).expect("valid");
        let null: Vec<_> = all.iter().filter(|n| n.path == Path::new("/dev/null")).collect();
        assert_eq!(null.len(), 1);
        assert_eq!(null[0].mode, CHAR_DEVICE | 0o600);
    }
}
