//! `events`: figures from time to time, and each kill for want of memory.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::args::Parsed;
use super::commands::Context;
use super::container::Container;
use super::{CommandError, report, stats};
use crate::error::{Failure, Step};
use crate::flow::cgroup::OomWatch;
use crate::sys::process::poll_any;

/// On v1 the kernel tells that memory ran out before it kills: so often, and so long, the kill is
/// looked for.
const LOOK: Duration = Duration::from_millis(20);
const KILL: Duration = Duration::from_secs(2);

pub(crate) fn events(context: &Context<'_>, flags: &Parsed) -> Result<i32, CommandError> {
    let text = flags.text("interval").unwrap_or("5s");
    let interval = duration(text).ok_or_else(|| {
        CommandError::Usage(format!("duration interval must be greater than 0: {text:?}"))
    })?;
    let container = Container::load(&context.store, flags.id()?)?;
    let task = container.running().map_err(|_| CommandError::State {
        text: format!("container with id {} is not running", container.record.id),
    })?;
    let id = serde_json::Value::from(container.record.id.as_str());
    // In this order, which callers rely on.
    let print = || {
        let data = stats::figures(container.record.task.cgroup());
        report::print(&format!("{{\"type\":\"stats\",\"id\":{id},\"data\":{data}}}"));
    };
    if flags.has("stats") {
        print();
        return Ok(0);
    }
    // Asked for before the count is read, so that nothing falls between.
    let watch = OomWatch::new(container.record.task.cgroup())?;
    let mut kills = task.oom_kills()?;
    let mut next = Instant::now() + interval;
    // Until when a kill is looked for that word was of.
    let mut looking = Instant::now();
    loop {
        let now = Instant::now();
        let mut wait = next.saturating_duration_since(now);
        if now < looking {
            wait = wait.min(LOOK);
        }
        let [ended, word] = wait_for(task.pidfd.as_fd(), watch.as_ref(), wait)?;
        if word && watch.as_ref().is_some_and(OomWatch::take) {
            looking = Instant::now() + KILL;
        }
        let known = kills;
        kills = tell_kills(task, &id, kills);
        if kills > known {
            looking = now;
        }
        if ended {
            return Ok(0);
        }
        if Instant::now() >= next {
            print();
            next = Instant::now() + interval;
        }
    }
}

/// Whether the container has ended, and whether there is word of its memory.
fn wait_for(
    pidfd: BorrowedFd<'_>,
    watch: Option<&OomWatch>,
    within: Duration,
) -> Result<[bool; 2], Failure> {
    let done = match watch {
        Some(watch) => poll_any([pidfd, watch.as_fd()], within),
        None => poll_any([pidfd], within).map(|[ended]| [ended, false]),
    };
    done.step(|| "wait for the container")
}

fn tell_kills(task: &crate::Task, id: &serde_json::Value, known: u64) -> u64 {
    // A cgroup that is gone has nothing more to tell.
    let now = task.oom_kills().unwrap_or(known);
    if now > known {
        report::print(&format!("{{\"type\":\"oom\",\"id\":{id}}}"));
    }
    now.max(known)
}

/// Go's words for a time: `5s`, `100ms`, `1m30s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..unit_at].parse().ok()?;
        let after = &rest[unit_at..];
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let factor = match &after[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number * factor;
        rest = &after[end..];
    }
    Duration::try_from_secs_f64(sum).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_writes_them() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        for text in ["", "5", "s", "0s", "5x"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
