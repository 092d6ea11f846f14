//! Who a process is: names from the image's own /etc/passwd and /etc/group. Pure.
//!
//! As Docker does it: a name must be there; a number need not. Without a group, the passwd entry's
//! group is taken (0 when there is no entry), and the groups that list the user are added.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, sorted, without doubles.
    pub groups: Vec<u32>,
    /// For HOME; empty: unknown.
    pub home: String,
}

/// Why a user can't be found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// No such name in /etc/passwd.
    #[error("user {0:?} is not in the image's /etc/passwd: name one that is, or a number")]
    User(String),
    /// No such name in /etc/group.
    #[error("group {0:?} is not in the image's /etc/group: name one that is, or a number")]
    Group(String),
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// The user and groups of a process.
///
/// `asked` is `user[:group]`, each a name or a number, or empty for root; `extra` are names or
/// numbers of further groups.
///
/// # Errors
/// [`UserError`] when a name is in no file.
pub fn resolve(
    asked: &str,
    extra: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity, UserError> {
    let (user, asked_group) = match asked.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
        None => (asked, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    // A name that is all digits is found as a name first, as Docker and useradd have it.
    let entry = passwd_entries(passwd)
        .find(|e| e.name == user)
        .or_else(|| passwd_entries(passwd).find(|e| Some(e.uid) == number));
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::User(user.into())),
    };
    let gid = match asked_group {
        Some(name) => find_group(name, group)?,
        None => entry.as_ref().map_or(0, |e| e.gid),
    };
    let mut groups: Vec<u32> = Vec::new();
    if asked_group.is_none()
        && let Some(entry) = &entry
    {
        groups.extend(
            group_entries(group)
                .filter(|g| g.members.split(',').any(|m| m.trim() == entry.name))
                .map(|g| g.gid),
        );
    }
    for name in extra {
        groups.push(find_group(name, group)?);
    }
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map(|e| e.home.to_owned()).unwrap_or_default();
    Ok(Identity { uid, gid, groups, home })
}

fn find_group(name: &str, group: &str) -> Result<u32, UserError> {
    group_entries(group)
        .find(|g| g.name == name)
        .map(|g| g.gid)
        .or_else(|| name.parse().ok())
        .ok_or_else(|| UserError::Group(name.into()))
}

/// `name:password:uid:gid:gecos:home:shell`, see passwd(5); other lines are passed over.
fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry { name, uid, gid, home })
    })
}

/// `name:password:gid:member,member`, see group(5); other lines are passed over.
fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or_default();
        Some(GroupEntry { name, gid, members })
    })
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, UserError, resolve};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\n\
                          # comment\nbroken\n1000:x:7:8::/seven:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:40:web,root\nwheel:x:10:root\n";

    fn id(uid: u32, gid: u32, groups: &[u32], home: &str) -> Identity {
        Identity { uid, gid, groups: groups.into(), home: home.into() }
    }

    #[test]
    fn as_docker_does() {
        for (asked, expected) in [
            ("", id(0, 0, &[10, 40], "/root")),
            ("root", id(0, 0, &[10, 40], "/root")),
            ("web", id(33, 34, &[40], "/srv")),
            ("33", id(33, 34, &[40], "/srv")),
            ("web:log", id(33, 40, &[], "/srv")),
            ("web:99", id(33, 99, &[], "/srv")),
            ("4711", id(4711, 0, &[], "")),
            ("4711:www", id(4711, 34, &[], "")),
            ("1000", id(7, 8, &[], "/seven")),
            (":www", id(0, 34, &[], "/root")),
        ] {
            assert_eq!(resolve(asked, &[], PASSWD, GROUP), Ok(expected), "{asked}");
        }
    }

    #[test]
    fn names_must_be_there() {
        assert_eq!(resolve("nobody", &[], PASSWD, GROUP), Err(UserError::User("nobody".into())));
        assert_eq!(resolve("web:x", &[], PASSWD, GROUP), Err(UserError::Group("x".into())));
        assert_eq!(resolve("-1", &[], PASSWD, GROUP), Err(UserError::User("-1".into())));
        assert_eq!(resolve("root", &[], "", ""), Err(UserError::User("root".into())));
    }

    #[test]
    fn further_groups() {
        let extra = ["www".into(), "77".into(), "log".into()];
        assert_eq!(resolve("web", &extra, PASSWD, GROUP).map(|i| i.groups), Ok(vec![34, 40, 77]));
    }
}
