//! Containers whose users are others on the host: which, and ranges that no two containers share.
//!
//! On the disk nothing is: layers, volumes and what a container writes have the owners that the image
//! names, and the runtime shows them through the container's mapping.

use std::{
    collections::HashMap,
    fs,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{Error, record::Record, user::Identity};
use crate::ids::ContainerId;

/// What a range has unless a size is asked for: all users of 16 bits.
const DEFAULT_SIZE: u32 = 1 << 16;
/// Lines of a mapping that the kernel takes (user_namespaces(7)).
const MAX_LINES: usize = 340;
/// Users of /etc/subuid and /etc/subgid whose ranges are taken, the first that has one.
const OWNERS: [&str; 2] = ["wharf", "containers"];

/// Whose users a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The host's.
    #[default]
    Host,
    /// Its own, on a range that is looked for when it is created.
    Auto,
    /// Its own, mapped as it says.
    Private,
}

/// A run of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first in the container.
    pub container_id: u32,
    /// The first on the host.
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// The users of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespace {
    /// Whose.
    pub mode: Mode,
    /// Auto: filled in.
    pub uids: Vec<IdRange>,
    /// Auto: filled in.
    pub gids: Vec<IdRange>,
    /// Auto: how many; 0: the usual.
    pub size: u32,
}

impl UserNamespace {
    /// Whether its users are others on the host.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.mode != Mode::Host
    }

    /// Checks what was asked for.
    ///
    /// # Errors
    /// [`Error::Field`] below `field`.
    pub(super) fn check(&self, field: &str) -> Result<(), Error> {
        let given = !self.uids.is_empty() || !self.gids.is_empty();
        match self.mode {
            Mode::Host | Mode::Auto if given => {
                Err(Error::field(format!("{field}.uids"), "mappings are for the mode \"private\""))
            }
            Mode::Host | Mode::Auto => Ok(()),
            Mode::Private => {
                check_ranges(&format!("{field}.uids"), &self.uids)?;
                check_ranges(&format!("{field}.gids"), &self.gids)
            }
        }
    }

    /// Refuses a process with users that the mapping lacks.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub(super) fn check_identity(&self, field: &str, who: &Identity) -> Result<(), Error> {
        if !self.is_mapped() {
            return Ok(());
        }
        let has = |ranges: &[IdRange], id: u32| ranges.iter().any(|r| r.container().contains(id));
        if !has(&self.uids, who.uid) {
            let problem = format!("user {} is not in the container's user namespace", who.uid);
            return Err(Error::field(field, problem));
        }
        let groups = std::iter::once(&who.gid).chain(&who.groups);
        match groups.copied().find(|gid| !has(&self.gids, *gid)) {
            Some(gid) => {
                let problem = format!("group {gid} is not in the container's user namespace");
                Err(Error::field(field, problem))
            }
            None => Ok(()),
        }
    }
}

impl FromStr for UserNamespace {
    type Err = String;

    /// `host`, `auto`, `auto:size=N` or `UID:GID:SIZE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not host, auto, auto:size=NUMBER or UID:GID:SIZE (on the host)")
        };
        let auto = |size| Self { mode: Mode::Auto, size, ..Self::default() };
        match text {
            "host" => return Ok(Self::default()),
            "auto" => return Ok(auto(0)),
            _ => {}
        }
        if let Some(size) = text.strip_prefix("auto:size=") {
            let size = size.parse().ok().filter(|size| *size > 0);
            return size.map(auto).ok_or_else(wrong);
        }
        let numbers: Option<Vec<u32>> = text.split(':').map(|n| n.parse().ok()).collect();
        match numbers.as_deref() {
            Some([uid, gid, size]) if *size > 0 => {
                let range = |host_id| vec![IdRange { container_id: 0, host_id, size: *size }];
                Ok(Self {
                    mode: Mode::Private,
                    uids: range(*uid),
                    gids: range(*gid),
                    ..Self::default()
                })
            }
            _ => Err(wrong()),
        }
    }
}

/// Ids from one to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    from: u64,
    to: u64,
}

impl Span {
    fn new(from: u32, size: u32) -> Self {
        Self { from: from.into(), to: u64::from(from) + u64::from(size) }
    }

    fn contains(self, id: u32) -> bool {
        (self.from..self.to).contains(&id.into())
    }

    fn meets(self, other: Self) -> bool {
        self.from < other.to && other.from < self.to
    }
}

impl IdRange {
    fn container(self) -> Span {
        Span::new(self.container_id, self.size)
    }

    fn host(self) -> Span {
        Span::new(self.host_id, self.size)
    }
}

fn check_ranges(field: &str, ranges: &[IdRange]) -> Result<(), Error> {
    if ranges.is_empty() || ranges.len() > MAX_LINES {
        let problem = format!("from 1 to {MAX_LINES} mappings are needed");
        return Err(Error::field(field, problem));
    }
    for (index, range) in ranges.iter().enumerate() {
        let wrong = |problem: &str| Err(Error::field(format!("{field}[{index}]"), problem));
        // The last number is nobody (-1).
        let ends = |span: Span| span.to <= u64::from(u32::MAX);
        if range.size == 0 || !ends(range.container()) || !ends(range.host()) {
            return wrong("it has no ids, or more than there are");
        }
        let earlier = &ranges[..index];
        if earlier.iter().any(|r| r.container().meets(range.container())) {
            return wrong("another mapping has some of its ids in the container");
        }
        if earlier.iter().any(|r| r.host().meets(range.host())) {
            return wrong("another mapping has some of its ids on the host");
        }
    }
    // The root file system is made by the container's root.
    if ranges.iter().any(|r| r.container_id == 0) {
        Ok(())
    } else {
        Err(Error::field(field, "id 0 of the container has to be mapped"))
    }
}

/// Where ranges come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The files of subordinate ids, for the first of our users that is there.
    #[default]
    Usual,
    /// The same for this user.
    Of(String),
    /// Here.
    Given {
        /// The first.
        first: u32,
        /// How many.
        size: u32,
    },
}

impl FromStr for Source {
    type Err = String;

    /// `USER` or `FIRST:SIZE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((first, size)) = text.split_once(':') else {
            return if text.is_empty() {
                Err("a user of /etc/subuid and /etc/subgid, or FIRST:SIZE, is needed".into())
            } else {
                Ok(Self::Of(text.into()))
            };
        };
        match (first.parse(), size.parse()) {
            (Ok(first), Ok(size)) if size > 0 && first > 0 => Ok(Self::Given { first, size }),
            _ => Err("two numbers above 0 are needed: FIRST:SIZE".into()),
        }
    }
}

impl Source {
    fn spans(&self, file: &str) -> Result<Vec<Span>, String> {
        let read = || fs::read_to_string(file).map_err(|e| format!("{file}: {e}"));
        let spans = match self {
            Self::Given { first, size } => return Ok(vec![Span::new(*first, *size)]),
            Self::Of(user) => subordinate(&read()?, user),
            Self::Usual => {
                let text = read()?;
                let found = OWNERS.iter().map(|user| subordinate(&text, user));
                found.into_iter().find(|spans| !spans.is_empty()).unwrap_or_default()
            }
        };
        if spans.is_empty() {
            let who = match self {
                Self::Of(user) => user.clone(),
                _ => OWNERS.join(" or "),
            };
            return Err(format!(
                "{file} has no range of {who}: a line like wharf:2147483648:1048576 is needed, or \
                 userns_range in the configuration"
            ));
        }
        Ok(spans)
    }
}

/// The ranges of a user: subuid(5).
fn subordinate(text: &str, user: &str) -> Vec<Span> {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let (name, first, size) = (fields.next()?, fields.next()?, fields.next()?);
        let span = Span::new(first.parse().ok()?, size.parse().ok()?);
        (name == user && span.from > 0 && span.to > span.from).then_some(span)
    };
    text.lines().filter_map(line).collect()
}

/// The first place for so many ids in `pool` that nothing `taken` meets.
fn first_free(pool: &[Span], taken: &[Span], size: u32) -> Option<u32> {
    pool.iter().find_map(|span| {
        let mut from = span.from;
        loop {
            let wanted = Span { from, to: from + u64::from(size) };
            if wanted.to > span.to.min(u64::from(u32::MAX)) {
                return None;
            }
            match taken.iter().filter(|t| t.meets(wanted)).map(|t| t.to).max() {
                Some(next) => from = next,
                None => return u32::try_from(from).ok(),
            }
        }
    })
}

/// Ranges given to containers that are being created, and where they come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    source: Source,
    given: Arc<Mutex<HashMap<ContainerId, UserNamespace>>>,
}

/// A range is a container's own until its record is known; then the record says so.
#[derive(Debug)]
pub(super) struct Given {
    id: ContainerId,
    given: Arc<Mutex<HashMap<ContainerId, UserNamespace>>>,
}

impl Drop for Given {
    fn drop(&mut self) {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Ranges {
    pub(super) fn new(source: Source) -> Self {
        Self { source, given: Arc::default() }
    }

    /// Fills in a range that no other container has. The guard is held until `records` tells of it.
    ///
    /// # Errors
    /// [`Error::Field`] when there is none.
    pub(super) fn give(
        &self,
        id: &ContainerId,
        wanted: &mut UserNamespace,
        records: impl FnOnce() -> Vec<Arc<Record>>,
    ) -> Result<Option<Given>, Error> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.mode == Mode::Auto {
            let wrong = |problem: String| Error::field("spec.user_namespace", problem);
            let size = if wanted.size == 0 { DEFAULT_SIZE } else { wanted.size };
            // Under the lock: whoever was given one is in the records, or still in here.
            let records = records();
            let of_records = records.iter().filter_map(|r| r.spec.user_namespace.as_ref());
            let all: Vec<&UserNamespace> = of_records.chain(given.values()).collect();
            let place = |file: &str, ranges: fn(&UserNamespace) -> &[IdRange]| {
                let taken: Vec<Span> =
                    all.iter().flat_map(|n| ranges(n)).map(|r| r.host()).collect();
                let pool = self.source.spans(file).map_err(wrong)?;
                let host_id = first_free(&pool, &taken, size)
                    .ok_or_else(|| wrong(format!("{size} ids are not free in {file}'s range")))?;
                Ok::<_, Error>(vec![IdRange { container_id: 0, host_id, size }])
            };
            let uids = place("/etc/subuid", |n| &n.uids)?;
            let gids = place("/etc/subgid", |n| &n.gids)?;
            *wanted = UserNamespace { mode: Mode::Auto, uids, gids, size };
        }
        if !wanted.is_mapped() {
            return Ok(None);
        }
        given.insert(id.clone(), wanted.clone());
        Ok(Some(Given { id: id.clone(), given: Arc::clone(&self.given) }))
    }
}

#[cfg(test)]
mod tests {
    use super::{IdRange, Mode, Ranges, Source, Span, UserNamespace, first_free, subordinate};

    fn range(container_id: u32, host_id: u32, size: u32) -> IdRange {
        IdRange { container_id, host_id, size }
    }

    #[test]
    fn words() {
        let parse = |text: &str| text.parse::<UserNamespace>();
        assert_eq!(parse("host").map(|n| n.mode), Ok(Mode::Host));
        assert_eq!(parse("auto").map(|n| (n.mode, n.size)), Ok((Mode::Auto, 0)));
        assert_eq!(parse("auto:size=99").map(|n| n.size), Ok(99));
        let private = parse("100000:200000:65536").expect("a mapping");
        assert_eq!(private.uids, [range(0, 100_000, 65536)]);
        assert_eq!(private.gids, [range(0, 200_000, 65536)]);
        for bad in ["", "me", "1:2", "1:2:0", "1:2:3:4", "auto:size=0", "-1:2:3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mappings_that_make_no_sense() {
        let private = |uids: Vec<IdRange>| UserNamespace {
            mode: Mode::Private,
            uids,
            gids: vec![range(0, 1, 1)],
            size: 0,
        };
        assert!(private(vec![range(0, 5, 10), range(10, 100, 1)]).check("u").is_ok());
        for bad in [
            vec![],
            vec![range(1, 5, 1)],
            vec![range(0, 5, 0)],
            vec![range(0, u32::MAX - 1, 5)],
            vec![range(0, 5, 10), range(9, 100, 1)],
            vec![range(0, 5, 10), range(10, 14, 1)],
        ] {
            assert!(private(bad.clone()).check("u").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn subordinate_ids() {
        let text = "me:1:2\n wharf:100:50\nwharf:x:1\n# no\nwharf:0:9\nwharf:300:5:more\n";
        let spans = subordinate(text, "wharf");
        assert_eq!(spans, [Span::new(100, 50), Span::new(300, 5)]);
        let source = "100:50".parse::<Source>();
        assert_eq!(source, Ok(Source::Given { first: 100, size: 50 }));
        for bad in ["", "0:5", "1:0", "a:b"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_place_that_is_free() {
        let pool = [Span::new(100, 10), Span::new(200, 20)];
        assert_eq!(first_free(&pool, &[], 10), Some(100));
        assert_eq!(first_free(&pool, &[Span::new(100, 1)], 9), Some(101));
        assert_eq!(first_free(&pool, &[Span::new(105, 1)], 10), Some(200));
        assert_eq!(first_free(&pool, &[Span::new(195, 15)], 10), Some(100));
        assert_eq!(first_free(&pool, &[Span::new(90, 200)], 1), None);
        assert_eq!(first_free(&pool, &[], 21), None);
    }

    #[test]
    fn no_two_have_the_same() {
        let ranges = Ranges::new(Source::Given { first: 1000, size: 20 });
        let auto = || UserNamespace { mode: Mode::Auto, size: 10, ..Default::default() };
        let id = |n: u32| format!("{n:064x}").parse().expect("id");
        let (mut one, mut two, mut three) = (auto(), auto(), auto());
        let first = ranges.give(&id(1), &mut one, Vec::new).expect("one");
        let _second = ranges.give(&id(2), &mut two, Vec::new).expect("two");
        assert_eq!((one.uids[0].host_id, two.gids[0].host_id), (1000, 1010));
        assert!(ranges.give(&id(3), &mut three, Vec::new).is_err());
        drop(first);
        let _third = ranges.give(&id(3), &mut three, Vec::new).expect("three");
        assert_eq!(three.uids[0].host_id, 1000);
    }
}
