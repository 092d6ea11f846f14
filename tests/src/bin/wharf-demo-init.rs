//! What runs in the demo's containers: `demo hello`, and `demo count N MILLISECONDS EXIT_CODE`.
//!
//! Linked statically (see the Makefile), so that an image of this one file runs.

#![expect(clippy::print_stdout, reason = "this is what it is for")]

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| args.get(at).and_then(|a| a.parse().ok()).unwrap_or(or);
    match args.first().map(String::as_str) {
        Some("count") => {
            count(number(1, 50), Duration::from_millis(number(2, 100)));
            ExitCode::from(u8::try_from(number(3, 0)).unwrap_or(1))
        }
        _ => {
            hello();
            ExitCode::SUCCESS
        }
    }
}

fn hello() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let host = read("/proc/sys/kernel/hostname");
    println!("hello from a container: pid {}, host name {host}", std::process::id());
}

/// One number a line at a steady pace, each written at once.
fn count(to: u64, pace: Duration) {
    let begin = Instant::now();
    let mut out = std::io::stdout();
    for n in 1..=to {
        // A counter that can't write has nobody left to count for.
        if writeln!(out, "{n}").and_then(|()| out.flush()).is_err() {
            return;
        }
        let next = pace.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX));
        std::thread::sleep(next.saturating_sub(begin.elapsed()));
    }
}
