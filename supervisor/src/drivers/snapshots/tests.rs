//! Overlay snapshots on a real folder.

#![allow(clippy::print_stdout, reason = "a test says why it is skipped")]

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::{LayerRecord, Overlay, Snapshotter as _, chain_ids};
use crate::{
    drivers::content::Digest,
    ids::ContainerId,
    store::{Durability, Ops, Store},
};

struct World {
    dir: tempfile::TempDir,
    store: Store,
    overlay: Overlay,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("meta")).expect("store");
        let overlay = Overlay::open(dir.path(), store.clone()).expect("open");
        Self { dir, store, overlay }
    }

    /// Records a layer whose files `fill` makes.
    fn layer(&self, chain_id: &Digest, parent: Option<&Digest>, fill: impl Fn(&Path)) -> u64 {
        let layer = self.overlay.begin_layer().expect("layer");
        fill(layer.files());
        let record = LayerRecord {
            chain_id: chain_id.clone(),
            number: layer.number(),
            parent: parent.cloned(),
            diff_id: chain_id.clone(),
            size_bytes: 0,
        };
        let mut ops = Ops::new();
        ops.put(chain_id.to_string().as_bytes(), &record).expect("small");
        self.store.commit_blocking(ops, Durability::Process).expect("commit");
        layer.keep();
        record.number
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
    fs::write(path, text).expect("write");
}

#[test]
fn a_view_merges_and_stays_inside() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let world = World::new();
    let chain = chain_ids(&[Digest::of(b"1"), Digest::of(b"2")]);
    world.layer(&chain[0], None, |fs| {
        write(&fs.join("etc/passwd"), "lower");
        write(&fs.join("etc/group"), "group");
        std::os::unix::fs::symlink("/etc/passwd", fs.join("link")).expect("link");
        std::os::unix::fs::symlink("../../../../etc/group", fs.join("up")).expect("link");
    });
    world.layer(&chain[1], Some(&chain[0]), |fs| write(&fs.join("etc/passwd"), "upper"));
    for (top, passwd) in [(&chain[1], "upper"), (&chain[0], "lower")] {
        let view = world.overlay.view(Some(top)).expect("view");
        let read = |path: &str| view.read(Path::new(path), 64).expect("read");
        assert_eq!(read("/etc/passwd").as_deref(), Some(passwd.as_bytes()));
        assert_eq!(read("etc/group").as_deref(), Some(&b"group"[..]));
        assert_eq!(read("/link").as_deref(), Some(passwd.as_bytes()), "absolute links stay inside");
        assert_eq!(read("/up").as_deref(), Some(&b"group"[..]), "and so do those that climb");
        assert_eq!(read("/etc"), None, "a folder is no file");
        assert_eq!(read("/etc/passwd/x"), None);
        assert!(view.is_dir(Path::new("/etc")).expect("look"));
        assert!(view.read(Path::new("/etc/passwd"), 3).is_err(), "over the limit");
    }
    let empty = world.overlay.view(None).expect("view");
    assert_eq!(empty.read(Path::new("/etc/passwd"), 64).expect("read"), None);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&*world.dir.path().to_string_lossy()), "mounted nowhere");
}

#[test]
fn a_container_has_a_layer_of_its_own() {
    let world = World::new();
    let chain = chain_ids(&[Digest::of(b"1"), Digest::of(b"2")]);
    world.layer(&chain[0], None, |_| {});
    world.layer(&chain[1], Some(&chain[0]), |fs| {
        fs::set_permissions(fs, fs::Permissions::from_mode(0o711)).expect("chmod");
    });
    let id = ContainerId::random().expect("id");
    let mounts = world.overlay.prepare(&id, Some(&chain[1])).expect("prepare");
    assert_eq!(mounts, world.overlay.prepare(&id, Some(&chain[1])).expect("again"));
    assert_eq!(mounts, world.overlay.mounts(&id, Some(&chain[1])).expect("mounts"));
    let root = world.dir.path().join("snapshots/overlay");
    let root = root.display();
    assert_eq!((mounts.len(), &*mounts[0].kind), (1, "overlay"));
    assert_eq!(mounts[0].options[0], format!("lowerdir={root}/l/2/fs:{root}/l/1/fs"));
    let upper = format!("{root}/c/{id}/fs");
    assert_eq!(mounts[0].options[1], format!("upperdir={upper}"));
    assert_eq!(fs::metadata(&upper).expect("upper").permissions().mode() & 0o7777, 0o711);

    let before = world.overlay.usage(&id).expect("usage");
    write(&Path::new(&upper).join("data"), &"x".repeat(100_000));
    let after = world.overlay.usage(&id).expect("usage");
    assert_eq!(after.inodes, before.inodes + 1);
    assert!(after.bytes >= before.bytes + 100_000);

    world.overlay.remove(&id).expect("remove");
    world.overlay.remove(&id).expect("a second time is no error");
    assert!(world.overlay.mounts(&id, Some(&chain[1])).is_err());
    let bare = world.overlay.prepare(&id, None).expect("an image with no layers");
    assert_eq!((&*bare[0].kind, &*bare[0].source), ("bind", &*upper));
}

#[test]
fn what_no_record_names_is_swept() {
    let world = World::new();
    let chain = Digest::of(b"1");
    world.layer(&chain, None, |fs| write(&fs.join("file"), "kept"));
    drop(world.overlay.begin_layer().expect("a layer given up"));
    let root = world.dir.path().join("snapshots/overlay");
    write(&root.join("l/77/fs/deep/er/file"), "garbage of a crash");
    let (kept, gone) = (ContainerId::random().expect("id"), ContainerId::random().expect("id"));
    for id in [&kept, &gone] {
        world.overlay.prepare(id, Some(&chain)).expect("prepare");
    }
    world.overlay.sweep(&HashSet::from([kept.clone()]), &[]).expect("sweep");
    let names = |dir: &str| {
        let entries = fs::read_dir(root.join(dir)).expect("list");
        entries.map(|e| e.expect("entry").file_name()).collect::<Vec<_>>()
    };
    assert_eq!(names("l"), ["1"]);
    assert_eq!(names("c"), [kept.as_str()]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !names("trash").is_empty() {
        assert!(std::time::Instant::now() < deadline, "left: {:?}", names("trash"));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_tree_deeper_than_any_path_is_removed() {
    let world = World::new();
    let folder = world.dir.path().join("snapshots/overlay/l/9");
    fs::create_dir_all(&folder).expect("mkdir");
    let mut dir = fs::File::open(&folder).expect("open");
    for _ in 0..5000 {
        use rustix::fs::{Mode, OFlags, mkdirat, openat};
        mkdirat(&dir, "d", Mode::from_raw_mode(0o755)).expect("mkdir");
        dir = openat(&dir, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .expect("open")
            .into();
    }
    world.overlay.remove_layer(9);
    assert!(!folder.exists(), "gone at once");
    let trash = world.dir.path().join("snapshots/overlay/trash");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fs::read_dir(&trash).expect("list").count() > 0 {
        assert!(std::time::Instant::now() < deadline, "trash not emptied");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn folders_without_an_entry_look_as_below() {
    let world = World::new();
    let chain = chain_ids(&[Digest::of(b"1"), Digest::of(b"2")]);
    let lower = world.layer(&chain[0], None, |fs| {
        fs::create_dir_all(fs.join("tmp/sub")).expect("mkdir");
        let mode = |m| fs::Permissions::from_mode(m);
        fs::set_permissions(fs.join("tmp"), mode(0o1777)).expect("chmod");
        fs::set_permissions(fs.join("tmp/sub"), mode(0o700)).expect("chmod");
    });
    let layer = world.overlay.begin_layer().expect("layer");
    fs::create_dir_all(layer.files().join("tmp/sub/new")).expect("mkdir");
    let implicit = [b"".to_vec(), b"tmp".to_vec(), b"tmp/sub".to_vec(), b"tmp/sub/new".to_vec()];
    let below = [world.overlay.layer_files(lower)];
    world.overlay.adopt_implicit(layer.files(), &implicit, &below).expect("adopt");
    let mode = |path: &str| {
        fs::metadata(layer.files().join(path)).expect("there").permissions().mode() & 0o7777
    };
    assert_eq!((mode("tmp"), mode("tmp/sub")), (0o1777, 0o700));
    assert_eq!(mode("tmp/sub/new") & 0o700, 0o700, "nothing below: as it was");
}
