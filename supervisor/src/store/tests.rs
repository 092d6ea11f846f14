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

/// A store as Wharf 0.1 with schema 1 wrote it.
const SCHEMA_1: &[u8] = include_bytes!("../../tests/fixtures/schema-1.backup");

#[test]
fn schema_1_is_migrated_and_kept_beside() {
    use crate::services::containers::{machine::State, record::Record as Container};
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("meta");
    let summary = Store::restore(&folder, SCHEMA_1).expect("restore");
    assert_eq!((summary.schema, summary.records), (1, 3));
    let store = reopen(&folder);
    let mut interrupted = Vec::new();
    for record in store.all::<Container>().expect("read") {
        let (_, record) = record.expect("whole");
        if let State::Stopped { end, .. } = &record.state {
            interrupted.push((record.name.to_string(), end.was_interrupted()));
        }
    }
    assert_eq!(interrupted, [("undone".to_owned(), true), ("failed".to_owned(), false)]);
    assert_eq!(backup(&store).1.schema, super::SCHEMA);
    // As it was, for whoever has to go back.
    let kept = std::fs::read(dir.path().join("meta.schema-1.backup")).expect("kept");
    assert_eq!(String::from_utf8_lossy(&kept), String::from_utf8_lossy(SCHEMA_1));
    drop(store);
    drop(reopen(&folder));
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("meta");
    {
        let db = super::open_db(&folder).expect("open");
        super::schema::mark_as(&db, super::SCHEMA + 1).expect("mark");
    }
    for _ in 0..2 {
        let error = loop {
            match Store::open(&folder) {
                Err(Error::Open { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
                other => break other.expect_err("newer"),
            }
        };
        assert!(matches!(error, Error::NewerSchema { .. }), "{error}");
        assert!(error.to_string().contains("start the newer wharfd again"), "{error}");
    }
}

#[test]
fn a_backup_is_all_there_is_and_is_restored_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&dir.path().join("a")).expect("open");
    for n in 0..300 {
        let mut ops = Ops::new();
        ops.put(format!("k{n}").as_bytes(), &Thing { n }).expect("small");
        ops.append(&Note { text: format!("ü {n}\n") }).expect("small");
        store.commit_blocking(ops, Durability::Process).expect("commit");
    }
    // What is no text is kept as it is, too.
    store.db.open_tree("things").expect("tree").insert(b"\xff", b"\xfe\x00").expect("insert");
    let (backup, summary) = self::backup(&store);
    assert_eq!(summary.records, 601);
    let copy = dir.path().join("b");
    for cut in [0, 10, backup.len() / 2, backup.len() - 20] {
        let error = Store::restore(&copy, &backup[..cut]).expect_err("cut short");
        assert!(matches!(error, Error::BadBackup { .. }), "{cut}: {error}");
    }
    let mut flipped = backup.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    Store::restore(&copy, flipped.as_slice()).expect_err("a bit is wrong");
    assert!(!copy.exists());
    assert_eq!(Store::restore(&copy, backup.as_slice()).expect("restore"), summary);
    let error = Store::restore(&copy, backup.as_slice()).expect_err("there is one");
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
    let restored = reopen(&copy);
    assert_eq!(self::backup(&restored).0, backup);
    assert_eq!(restored.last_sequence::<Note>().expect("read"), 300);
}

fn backup(store: &Store) -> (Vec<u8>, super::Summary) {
    use std::io::{Read as _, Seek as _};
    let file = tempfile::tempfile().expect("a file");
    let (mut file, summary) = store.backup(file, super::Extent::All).expect("backup");
    file.rewind().expect("rewind");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    (bytes, summary)
}

/// A small file system of its own; unmounted on drop.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("tempdir");
        let mounted = nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("size=48m"),
        );
        mounted.ok().map(|()| Self(dir))
    }

    /// Takes all that is free.
    fn fill(&self) -> std::path::PathBuf {
        use std::io::Write as _;
        let path = self.0.path().join("filler");
        let mut file = std::fs::File::create(&path).expect("create");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![7; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a skip is told to whoever runs the tests")]
fn on_a_full_disk_removals_go_on_and_it_opens_again() {
    use super::Need;
    let Some(small) = Small::mount() else {
        eprintln!("SKIP on_a_full_disk_removals_go_on_and_it_opens_again: no root");
        return;
    };
    let folder = small.0.path().join("meta");
    let commit = |store: &Store, n: u32, need: Need| {
        let mut ops = Ops::new();
        ops.needs(need);
        match need {
            Need::Removal => ops.delete::<Thing>(&n.to_be_bytes()),
            Need::Growth | Need::Change => ops.put(&n.to_be_bytes(), &Thing { n }).expect("small"),
        }
        ops.append(&Note { text: "x".repeat(500) }).expect("small");
        store.commit_blocking(ops, Durability::Power)
    };
    let mut store = Store::open(&folder).expect("open");
    for n in 0..200 {
        commit(&store, n, Need::Growth).expect("room");
    }
    // sled keeps such in files of their own.
    let large = |store: &Store, text: &str, need: Need| {
        let mut ops = Ops::new();
        ops.needs(need);
        ops.put(b"large", &Note { text: text.repeat(100 << 10) }).expect("small enough");
        store.commit_blocking(ops, Durability::Power)
    };
    large(&store, "a", Need::Growth).expect("room");
    let filler = small.fill();
    // What was kept ahead is used up a little before growth is refused.
    let mut refused = false;
    for n in 200..20_000 {
        match commit(&store, n, Need::Growth) {
            Ok(()) => {}
            Err(Error::Full) => {
                refused = true;
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused, "growth is never refused");
    for n in 0..100 {
        commit(&store, n, Need::Removal).expect("removals go on");
    }
    commit(&store, 150, Need::Change).expect("changes go on");
    for n in 0..10 {
        large(&store, ["b", "c"][n % 2], Need::Change).expect("large changes go on");
    }
    // The next process opens it all the same, twice.
    for round in 0..2 {
        drop(store);
        store = reopen(&folder);
        assert_eq!(store.get::<Thing>(&5_u32.to_be_bytes()).expect("read"), None);
        assert!(store.get::<Thing>(&150_u32.to_be_bytes()).expect("read").is_some());
        commit(&store, 100 + round, Need::Removal).expect("removals go on");
        let error = commit(&store, 7, Need::Growth).expect_err("still full");
        assert!(matches!(error, Error::Full), "{error}");
    }
    std::fs::remove_file(filler).expect("remove");
    commit(&store, 7, Need::Growth).expect("space that is freed is used");
}

type Damage = fn(&std::path::Path);

/// What happens to a store's folder.
const DAMAGES: [(&str, Damage); 8] = [
    ("noise in the middle", |folder| {
        change(folder, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 4096].iter_mut().for_each(|byte| *byte ^= 0x55);
        });
    }),
    ("cut", |folder| change(folder, |bytes| bytes.truncate(bytes.len() / 3))),
    ("emptied", |folder| change(folder, Vec::clear)),
    ("zeroes at the head", |folder| change(folder, |bytes| bytes[..512].fill(0))),
    ("noise", |folder| {
        change(folder, |bytes| {
            bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 31 % 251) as u8);
        });
    }),
    ("no db", |folder| std::fs::remove_file(folder.join("db")).expect("remove")),
    ("another program's conf", |folder| {
        std::fs::write(folder.join("conf"), "[a]\nb=c\n").expect("write")
    }),
    ("a file in its place", |folder| {
        std::fs::remove_dir_all(folder).expect("remove");
        std::fs::write(folder, "not a folder").expect("write");
    }),
];

fn change(folder: &std::path::Path, change: impl FnOnce(&mut Vec<u8>)) {
    let file = folder.join("db");
    let mut bytes = std::fs::read(&file).expect("read");
    change(&mut bytes);
    std::fs::write(&file, bytes).expect("write");
}

/// Never a panic, a hang or a store that looks like a new one: an error that says that the files are
/// no good, or a store whose records are whole and some of whose last ones may be gone (that the
/// supervisor finds out by the number of its last copy).
#[test]
fn damaged_files_are_said_to_be_so_or_lose_only_their_end() {
    let mut damaged = 0;
    for (what, damage) in DAMAGES {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = dir.path().join("meta");
        let store = Store::open(&folder).expect("open");
        for n in 0..2000 {
            let mut ops = Ops::new();
            ops.put(format!("k{n}").as_bytes(), &Thing { n }).expect("small");
            store.commit_blocking(ops, Durability::Process).expect("commit");
        }
        drop(store);
        // Closed when its lock is free.
        drop(reopen(&folder));
        assert!(super::released(&folder, std::time::Duration::from_secs(60)));
        damage(&folder);
        match Store::open(&folder) {
            Ok(store) => {
                assert!(store.all::<Thing>().expect("tree").all(|thing| thing.is_ok()), "{what}");
                assert!(
                    store.all::<Thing>().expect("tree").count() > 0,
                    "{what}: it looks like new"
                );
            }
            Err(error) => {
                assert!(error.is_damage(), "{what}: {error:?}");
                damaged += 1;
            }
        }
    }
    assert!(damaged >= 4, "{damaged}");
}

/// Where sled begins its recovery is of no matter: one that it was killed over, or that is damaged, or
/// none at all.
#[test]
fn snapshots_hold_nothing_that_the_log_has_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("meta");
    let mut expected = std::collections::BTreeMap::new();
    let snapshots = || {
        let entries = std::fs::read_dir(&folder).expect("list").map(|e| e.expect("entry").path());
        entries.filter(|path| path.to_string_lossy().contains("/snap.")).collect::<Vec<_>>()
    };
    for round in 0..8_u32 {
        let store = reopen(&folder);
        for n in 0..300 {
            let (key, mut ops) = (format!("k{}", (n * 7 + round) % 400), Ops::new());
            if n % 3 == 0 {
                expected.remove(&key);
                ops.delete::<Thing>(key.as_bytes());
            } else {
                ops.put(key.as_bytes(), &Thing { n }).expect("small");
                expected.insert(key, n);
            }
            ops.append(&Note { text: "x".repeat(300) }).expect("small");
            store.commit_blocking(ops, Durability::Process).expect("commit");
        }
        drop(store);
        assert!(super::released(&folder, std::time::Duration::from_secs(60)));
        match round % 4 {
            0 => {
                std::fs::write(folder.join("snap.FFFFFFFFFFFFFFFF.generating"), "").expect("write")
            }
            1 => snapshots()
                .iter()
                .for_each(|path| std::fs::write(path, "damaged snapshot").expect("write")),
            2 => snapshots().iter().for_each(|path| std::fs::remove_file(path).expect("remove")),
            _ => {}
        }
        let store = reopen(&folder);
        let found: std::collections::BTreeMap<String, u32> = store
            .all::<Thing>()
            .expect("tree")
            .map(|thing| thing.expect("whole"))
            .map(|(key, thing)| (String::from_utf8(key).expect("text"), thing.n))
            .collect();
        assert_eq!(found, expected, "round {round}");
        assert_eq!(store.last_sequence::<Note>().expect("read"), u64::from(round + 1) * 300);
        drop(store);
        assert!(super::released(&folder, std::time::Duration::from_secs(60)));
    }
}
