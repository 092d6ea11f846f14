//! The store on a real folder.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::{Durability, Error, Ops, Record, Store};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Thing {
    n: u32,
}

impl Record for Thing {
    const TREE: &'static str = "things";
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
}

impl Record for Note {
    const TREE: &'static str = "notes";
}

#[test]
fn commits_are_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("open");
    let mut ops = Ops::new();
    ops.put(b"a", &Thing { n: 1 }).expect("small");
    ops.put(b"b", &Thing { n: 2 }).expect("small");
    ops.delete::<Thing>(b"a");
    ops.append(&Note { text: "first".into() }).expect("small");
    store.commit_blocking(ops, Durability::Power).expect("commit");
    drop(store);

    let store = reopen(dir.path());
    assert_eq!(store.get::<Thing>(b"a").expect("read"), None);
    assert_eq!(store.get::<Thing>(b"b").expect("read"), Some(Thing { n: 2 }));
    assert_eq!(store.last_sequence::<Note>().expect("read"), 1);
}

#[test]
fn appended_records_are_numbered_and_told_in_order() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(dir.path()).expect("open");
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    store.observe_appends(move |a| sink.lock().expect("lock").push(a.sequence));
    for _ in 0..300 {
        let mut ops = Ops::new();
        ops.append(&Note { text: "x".into() }).expect("small");
        store.commit_blocking(ops, Durability::Process).expect("commit");
    }
    assert_eq!(*told.lock().expect("lock"), (1..=300).collect::<Vec<u64>>());
    let keys: Vec<_> = store
        .from::<Note>(&299u64.to_be_bytes())
        .expect("tree")
        .map(|r| r.expect("ok").0)
        .collect();
    assert_eq!(keys, [299u64.to_be_bytes().to_vec(), 300u64.to_be_bytes().to_vec()]);
}

#[test]
fn too_large_a_record_is_refused_before_anything_changes() {
    let mut ops = Ops::new();
    let error = ops.put(b"k", &Note { text: "x".repeat(200 << 10) }).expect_err("too large");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(ops.is_empty());
}

/// sled frees its lock on a thread of its own, a moment after the last handle is dropped.
fn reopen(folder: &std::path::Path) -> Store {
    for _ in 0..200 {
        match Store::open(folder) {
            Ok(store) => return store,
            Err(Error::Open { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the store stays locked")
}
