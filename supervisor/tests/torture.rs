//! The store under kill -9: a child commits as fast as it can and says what was acknowledged; it is
//! killed at a random moment, and the store is opened again. Everything that was acknowledged is
//! there, no transaction is half there, and the numbers of appended records have no gap.
//!
//! A few rounds here; `make torture` runs 300 (WHARF_TORTURE_ROUNDS).

#![forbid(unsafe_code)]

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use wharf_supervisor::store::{Durability, Error, Ops, Record, Store};

const CHILD: &str = "WHARF_TORTURE_CHILD";
/// Keys that are written over and over.
const KEYS: u64 = 50;

macro_rules! record {
    ($name:ident, $tree:literal) => {
        #[derive(Debug, Serialize, Deserialize)]
        struct $name {
            n: u64,
            padding: String,
        }

        impl Record for $name {
            const TREE: &'static str = $tree;
        }
    };
}

record!(Left, "left");
record!(Right, "right");
record!(Note, "notes");

fn open(folder: &Path) -> Store {
    // The lock of a process that was killed is free when the kernel has closed its files.
    for _ in 0..1000 {
        match Store::open(folder) {
            Ok(store) => return store,
            Err(Error::Open { .. }) => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the store stays locked")
}

fn key(n: u64) -> [u8; 8] {
    (n % KEYS).to_be_bytes()
}

/// Not a test of its own: what the other one starts and kills.
#[test]
#[expect(clippy::print_stdout, reason = "this is how the child tells what was acknowledged")]
fn child() {
    let Some(folder) = env::var_os(CHILD) else { return };
    let store = open(Path::new(&folder));
    let mut n = store.last_sequence::<Note>().expect("read");
    loop {
        n += 1;
        // Now and then one that sled writes into a file of its own.
        let len = if n.is_multiple_of(40) { 100 << 10 } else { n * 37 % 3000 };
        let padding = "x".repeat(usize::try_from(len).expect("small"));
        let mut ops = Ops::new();
        ops.put(&key(n), &Left { n, padding: padding.clone() }).expect("small");
        ops.put(&key(n), &Right { n, padding }).expect("small");
        ops.append(&Note { n, padding: String::new() }).expect("small");
        store.commit_blocking(ops, Durability::Power).expect("commit");
        println!("acknowledged {n}.");
        std::io::stdout().flush().expect("the parent reads");
    }
}

fn start(folder: &Path) -> Child {
    Command::new(env::current_exe().expect("own path"))
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the child")
}

/// What `make test-power` does once the power is back: `WHARF_TORTURE_CHECK` is the folder,
/// `WHARF_TORTURE_ACKNOWLEDGED` the last number that was told.
#[test]
#[expect(clippy::print_stdout, reason = "told to whoever runs the script")]
fn after_a_power_cut() {
    let Some(folder) = env::var_os("WHARF_TORTURE_CHECK") else { return };
    let acknowledged = env::var("WHARF_TORTURE_ACKNOWLEDGED").ok().and_then(|n| n.parse().ok());
    let last = check(Path::new(&folder), acknowledged.expect("a number"));
    println!("the last is {last}");
}

fn check(folder: &Path, acknowledged: u64) -> u64 {
    let store = open(folder);
    let last = store.last_sequence::<Note>().expect("read");
    assert!(last >= acknowledged, "{acknowledged} was acknowledged, the last is {last}");
    for (at, note) in store.all::<Note>().expect("read").enumerate() {
        let (key, note) = note.expect("whole");
        let number = u64::from_be_bytes(key.as_slice().try_into().expect("a number"));
        assert_eq!((number, note.n), (at as u64 + 1, at as u64 + 1), "a gap");
    }
    for n in last.saturating_sub(KEYS - 1).max(1)..=last {
        let left = store.get::<Left>(&key(n)).expect("read").expect("is there");
        let right = store.get::<Right>(&key(n)).expect("read").expect("is there");
        assert_eq!((left.n, right.n), (n, n), "half a transaction, or an old one");
        assert_eq!(left.padding, right.padding);
    }
    last
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let rounds = env::var("WHARF_TORTURE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("meta");
    let mut total = 0;
    for round in 0..rounds {
        let mut child = start(&folder);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // With its end: a line that was cut off tells nothing.
        let number =
            |line: &str| line.strip_prefix("acknowledged ")?.strip_suffix('.')?.parse::<u64>().ok();
        let mut acknowledged = 0;
        // At least one, then a number of its own in each round; what is in the pipe still counts.
        let more = 1 + round * 7919 % 61;
        let mut seen = 0;
        for line in lines.by_ref() {
            if let Some(n) = number(&line.expect("text")) {
                acknowledged = n;
                seen += 1;
                if seen == more {
                    break;
                }
            }
        }
        child.kill().expect("kill");
        for line in lines {
            acknowledged = line.ok().as_deref().and_then(number).unwrap_or(acknowledged);
        }
        child.wait().expect("wait");
        assert!(acknowledged > 0, "round {round}: the child committed nothing");
        // Also while it opens the store, which writes as well.
        for pause_ms in [1, 3 + round % 11] {
            let mut child = start(&folder);
            std::thread::sleep(Duration::from_millis(pause_ms));
            child.kill().expect("kill");
            let told = BufReader::new(child.stdout.take().expect("piped")).lines();
            for line in told {
                acknowledged = line.ok().as_deref().and_then(number).unwrap_or(acknowledged);
            }
            child.wait().expect("wait");
        }
        total = check(&folder, acknowledged);
    }
    assert!(total >= rounds, "{total} commits in {rounds} rounds");
}
