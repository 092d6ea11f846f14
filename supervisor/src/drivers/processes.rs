//! Processes as /proc shows them (proc(5)). Reads only; all of it blocks.

use std::{collections::HashMap, fs, time::Duration};

/// A process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// On the host.
    pub pid: u32,
    /// On the host.
    pub parent_pid: u32,
    /// Effective.
    pub uid: u32,
    /// On the host; empty: it has no name there.
    pub user: String,
    /// Nanoseconds since the epoch.
    pub started_unix_ns: i64,
    /// User's and system's.
    pub cpu_time: Duration,
    /// "pts/0"; empty: none.
    pub tty: String,
    /// As in ps(1).
    pub state: char,
    /// In memory.
    pub resident_bytes: u64,
    /// Of it.
    pub threads: u32,
    /// Its arguments; the name in brackets if it has none.
    pub command: Vec<String>,
}

/// Bytes through a container's interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// In.
    pub received: u64,
    /// Out.
    pub sent: u64,
}

/// Names of the host's users.
#[derive(Debug, Default)]
pub struct Users(HashMap<u32, String>);

impl Users {
    /// From /etc/passwd; none if it can't be read.
    #[must_use]
    pub fn of_host() -> Self {
        let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = |line: &str| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            Some((fields.nth(1)?.parse().ok()?, name))
        };
        Self(text.lines().filter_map(user).collect())
    }
}

/// The process, if it is there.
#[must_use]
pub fn look(pid: u32, users: &Users) -> Option<Seen> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    seen(&stat, &status, &arguments, &boot, Units::of_host(), users)
}

/// When a process was started, in ticks since the boot; with its pid, its name for all time.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    after_name(&stat)?.1.get(19)?.parse().ok()
}

/// What has gone through the interfaces of a process' network, but its loopback.
#[must_use]
pub fn traffic(pid: u32) -> Option<Traffic> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    Some(sum(&text))
}

fn sum(text: &str) -> Traffic {
    let mut traffic = Traffic::default();
    for line in text.lines().skip(2) {
        let Some((name, figures)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        traffic.received += figures.first().copied().unwrap_or(0);
        traffic.sent += figures.get(8).copied().unwrap_or(0);
    }
    traffic
}

/// What the kernel counts in.
#[derive(Clone, Copy, Debug)]
struct Units {
    ticks_a_second: u64,
    page_bytes: u64,
}

impl Units {
    fn of_host() -> Self {
        use nix::unistd::{SysconfVar, sysconf};
        let ask = |name, usual| {
            let told = sysconf(name).ok().flatten().and_then(|n| u64::try_from(n).ok());
            told.filter(|&n| n > 0).unwrap_or(usual)
        };
        Self {
            ticks_a_second: ask(SysconfVar::CLK_TCK, 100),
            page_bytes: ask(SysconfVar::PAGE_SIZE, 4096),
        }
    }
}

/// Name and fields after it, of a `stat`; the name may hold spaces and parentheses.
fn after_name(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (begin, end) = (stat.find('(')?, stat.rfind(')')?);
    Some((stat.get(begin + 1..end)?, stat.get(end + 1..)?.split_whitespace().collect()))
}

fn seen(
    stat: &str,
    status: &str,
    arguments: &[u8],
    boot: &str,
    units: Units,
    users: &Users,
) -> Option<Seen> {
    let pid = stat.split(' ').next()?.parse().ok()?;
    let (name, fields) = after_name(stat)?;
    let number = |at: usize| fields.get(at).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let per_second = units.ticks_a_second;
    let span = |ticks: u64| {
        Duration::from_secs(ticks / per_second)
            + Duration::from_nanos(ticks % per_second * 1_000_000_000 / per_second)
    };
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())?;
    let booted: u64 =
        boot.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0);
    let started = Duration::from_secs(booted) + span(number(19));
    let mut command: Vec<String> = arguments
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    // Each argument ends in a zero byte.
    command.pop();
    if command.is_empty() {
        command.push(format!("[{name}]"));
    }
    Some(Seen {
        pid,
        parent_pid: u32::try_from(number(1)).unwrap_or(0),
        uid,
        user: users.0.get(&uid).cloned().unwrap_or_default(),
        started_unix_ns: i64::try_from(started.as_nanos()).unwrap_or(i64::MAX),
        cpu_time: span(number(11).saturating_add(number(12))),
        tty: tty(number(4)),
        state: fields.first()?.chars().next()?,
        resident_bytes: number(21).saturating_mul(units.page_bytes),
        threads: u32::try_from(number(17)).unwrap_or(u32::MAX),
        command,
    })
}

/// Name of a terminal by its device number (the kernel's encoding in `stat`).
fn tty(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    match major {
        0 => String::new(),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Traffic, Units, Users, look, seen, start_ticks, sum, tty};

    #[test]
    fn a_name_may_look_like_anything() {
        let stat = "42 (a) R 1 (b) S 7 42 42 34817 42 4194560 1 2 3 4 150 50 0 0 20 0 3 0 1000 \
                    9 25 18446744073709551615";
        let status = "Name:\ta) R 1 (b\nUid:\t1\t1000\t1\t1\n";
        let users = Users([(1000, "me".to_owned())].into());
        let units = Units { ticks_a_second: 100, page_bytes: 4096 };
        let seen = seen(stat, status, b"sh\0-c\0\0", "btime 10\n", units, &users).expect("whole");
        assert_eq!((seen.pid, seen.parent_pid, seen.state), (42, 7, 'S'));
        assert_eq!((seen.uid, seen.user.as_str(), seen.threads), (1000, "me", 3));
        assert_eq!(seen.cpu_time.as_millis(), 2000);
        assert_eq!(seen.started_unix_ns, 20_000_000_000);
        assert_eq!(seen.tty, "pts/1");
        assert_eq!(seen.resident_bytes, 25 * 4096);
        assert_eq!(seen.command, ["sh", "-c", ""]);
    }

    #[test]
    fn this_very_process() {
        let pid = std::process::id();
        let me = look(pid, &Users::of_host()).expect("it is there");
        assert_eq!(me.pid, pid);
        assert!(me.threads >= 1 && me.resident_bytes > 0 && !me.command.is_empty());
        assert!(start_ticks(pid).is_some_and(|ticks| ticks > 0));
        assert_eq!(look(0, &Users::default()), None);
    }

    #[test]
    fn loopback_does_not_count() {
        let text = "Inter-|\n face |\n    lo: 10 1 0 0 0 0 0 0 10 1\n  eth0: 7 1 0 0 0 0 0 0 9 1\n";
        assert_eq!(sum(text), Traffic { received: 7, sent: 9 });
        assert_eq!(tty(0), "");
    }
}
