//! A tree of every kind of file goes out as a layer and comes back the same.

use std::{
    collections::HashSet,
    fs::{self, File, Permissions},
    io::{Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use rustix::fs::{XattrFlags, lsetxattr};

use super::Packer;
use crate::drivers::{
    snapshots::{Overlay, Snapshotter as _},
    unpack::{Limits, Target, unpack},
};
use crate::{ids::ContainerId, store::Store};

struct World {
    dir: tempfile::TempDir,
    snapshots: Overlay,
    id: ContainerId,
}

impl World {
    /// A container over nothing, whose files are all changes.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::open(&dir.path().join("meta")).expect("store");
        let snapshots = Overlay::open(dir.path(), store).expect("snapshots");
        let id: ContainerId = format!("{:064x}", 7).parse().expect("id");
        snapshots.prepare(&id, None).expect("prepare");
        Self { dir, snapshots, id }
    }

    fn files(&self) -> std::path::PathBuf {
        self.dir.path().join(format!("snapshots/overlay/c/{}/fs", self.id))
    }

    fn pack(&self) -> Vec<u8> {
        let mut packer = Packer::new(Vec::new());
        let own = HashSet::from([b"proc".to_vec()]);
        self.snapshots
            .changes(&self.id, None, &own, &mut |change| packer.change(change))
            .expect("changes");
        packer.finish().expect("finish").0
    }
}

fn fill(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir(at("proc")).expect("mkdir");
    fs::create_dir_all(at("b/c")).expect("mkdir");
    fs::write(at("b/file"), "hello").expect("write");
    fs::set_permissions(at("b/file"), Permissions::from_mode(0o4755)).expect("chmod");
    std::os::unix::fs::chown(at("b/c"), Some(3_000_000), Some(7)).expect("chown");
    fs::hard_link(at("b/file"), at("b/second")).expect("link");
    symlink("/etc/passwd", at("a-link")).expect("symlink");
    symlink("x".repeat(300), at("b/long-link")).expect("symlink");
    let long = format!("b/{}", "n".repeat(200));
    fs::write(at(&long), "long").expect("write");
    lsetxattr(at("b/file"), "user.note", b"a\0b\n", XattrFlags::empty()).expect("xattr");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    lsetxattr(at("b/c"), "trusted.overlay.origin", b"x", XattrFlags::empty()).expect("xattr");
    fs::write(at("capable"), "x").expect("write");
    lsetxattr(at("capable"), "security.capability", &capability, XattrFlags::empty())
        .expect("xattr");
    let mut sparse = File::create(at("sparse")).expect("create");
    sparse.write_all(b"begin").expect("write");
    sparse.seek(SeekFrom::Start(40 << 20)).expect("seek");
    sparse.write_all(b"end").expect("write");
    sparse.set_len(50 << 20).expect("grow");
    for (name, kind, number) in
        [("fifo", libc::S_IFIFO, 0), ("null", libc::S_IFCHR, 0x103), ("socket", libc::S_IFSOCK, 0)]
    {
        let path = std::ffi::CString::new(at(name).to_string_lossy().as_bytes()).expect("path");
        let kind = rustix::fs::FileType::from_raw_mode(kind);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, 0o640.into(), number).expect("mknod");
    }
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    File::options().write(true).open(at("capable")).expect("open").set_modified(old).expect("time");
}

#[test]
fn what_goes_out_comes_back() {
    let world = World::new();
    fill(&world.files());
    let tar = world.pack();
    assert!(tar.len() < 1 << 20, "holes are kept as holes: {}", tar.len());
    assert_eq!(tar, world.pack(), "the same changes make the same bytes");

    let target = tempfile::tempdir().expect("tempdir");
    let (out, trash) = (target.path().join("out"), target.path().join("trash"));
    fs::create_dir(&out).expect("mkdir");
    fs::create_dir(&trash).expect("mkdir");
    unpack(&tar[..], Target { folder: &out, trash: &trash }, None, &Limits::default())
        .expect("unpack");
    let meta = |name: &str| fs::symlink_metadata(out.join(name)).expect(name);
    let same = |name: &str| {
        let (a, b) = (fs::symlink_metadata(world.files().join(name)).expect(name), meta(name));
        let of = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
        assert_eq!(of(&a), of(&b), "{name}");
        assert_eq!((a.size(), a.rdev()), (b.size(), b.rdev()), "{name}");
    };
    let long = format!("b/{}", "n".repeat(200));
    for name in ["b/file", "capable", "sparse", "fifo", "null", "a-link", "b/long-link", &long] {
        same(name);
    }
    let of = |m: fs::Metadata| (m.mode(), m.uid(), m.gid());
    assert_eq!(of(meta("b/c")).1, 3_000_000);
    assert_eq!(fs::read_link(out.join("b/long-link")).expect("link").as_os_str().len(), 300);
    assert_eq!(meta("b/file").ino(), meta("b/second").ino());
    assert!(meta("sparse").blocks() * 512 < 1 << 20);
    let mut tail = [0; 3];
    let sparse = File::open(out.join("sparse")).expect("open");
    sparse.read_exact_at(&mut tail, 40 << 20).expect("read");
    assert_eq!(&tail, b"end");
    let mut value = [0; 64];
    let n = rustix::fs::lgetxattr(out.join("b/file"), "user.note", &mut value).expect("xattr");
    assert_eq!(&value[..n], b"a\0b\n");
    let n = rustix::fs::lgetxattr(out.join("capable"), "security.capability", &mut value);
    assert_eq!(n, Ok(20));
    assert!(rustix::fs::lgetxattr(out.join("b/c"), "trusted.overlay.origin", &mut value).is_err());
    assert!(!out.join("proc").exists(), "what is mounted on is no change");
    assert!(!out.join("socket").exists());

    // Others read it too.
    let file = target.path().join("layer.tar");
    fs::write(&file, &tar).expect("write");
    let listed = Command::new("tar").arg("-tf").arg(&file).output().expect("GNU tar");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["sparse\n", "b/second\n", "b/c/\n", "null\n"] {
        assert!(listed.contains(name), "{name:?} in {listed}");
    }
}
