//! Honest layers: all that a file can have, and whiteouts.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use rustix::fs::{lgetxattr, makedev};
use wharf_supervisor::drivers::unpack::{Limits, Target, Unpacked, unpack};

use crate::world::{Layer, World, docker_save, skip};

fn apply(layer: &[u8]) -> (tempfile::TempDir, Unpacked) {
    let dir = tempfile::tempdir().expect("tempdir");
    let (folder, trash) = (dir.path().join("fs"), dir.path().join("trash"));
    fs::create_dir(&folder).expect("mkdir");
    fs::create_dir(&trash).expect("mkdir");
    let target = Target { folder: &folder, trash: &trash };
    let unpacked = unpack(layer, target, None, &Limits::default()).expect("unpack");
    (dir, unpacked)
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let len = lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

#[test]
fn files_come_out_as_they_went_in() {
    if skip(&[]) {
        return;
    }
    let mut suid = Layer::header(tar::EntryType::Regular, 0o4755);
    suid.set_uid(1000);
    suid.set_gid(50);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let long = format!("{}/file", ["d".repeat(100), "e".repeat(100), "f".repeat(50)].join("/"));
    let layer = Layer::new()
        .dir("./", 0o711)
        .dir("bin", 0o2775)
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"with=equals"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/elsewhere"),
            ("mtime", b"1600000000.123456789"),
        ])
        .entry(suid, "bin/tool", b"#!tool")
        .hard_link("bin/also", "bin/tool")
        .hard_link("./bin/tool", "/bin/tool")
        .symlink("link", "/bin/tool")
        .symlink("bin/dangling", "../../../nowhere")
        .device(tar::EntryType::Char, "dev/null", 1, 3)
        .device(tar::EntryType::Block, "dev/loop7", 7, 7)
        .device(tar::EntryType::Fifo, "dev/pipe", 0, 0)
        .file(&long, "long")
        .file("twice", "first and longer")
        .file("twice", "second")
        .dir("was-dir/sub", 0o755)
        .file("was-dir", "now a file")
        .finish();
    let (dir, unpacked) = apply(&layer);
    let root = dir.path().join("fs");
    let meta = |path: &str| fs::symlink_metadata(root.join(path)).expect("there");
    assert_eq!(meta("").mode() & 0o7777, 0o711);
    assert_eq!(meta("bin").mode() & 0o7777, 0o2775);
    assert_eq!((meta("bin").mtime(), meta("").mtime()), (1_600_000_000, 1_600_000_000));
    let tool = meta("bin/tool");
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid()), (0o4755, 1000, 50));
    assert_eq!((tool.mtime(), tool.mtime_nsec(), tool.nlink()), (1_600_000_000, 123_456_789, 2));
    assert_eq!(tool.ino(), meta("bin/also").ino());
    let path = root.join("bin/tool");
    assert_eq!(xattr(&path, "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(xattr(&path, "user.note").as_deref(), Some(&b"with=equals"[..]));
    assert_eq!(xattr(&path, "trusted.overlay.redirect"), None, "overlay's own are not for layers");
    assert_eq!(fs::read_link(root.join("link")).expect("link"), Path::new("/bin/tool"));
    assert_eq!(meta("link").mtime(), 1_600_000_000);
    assert!(meta("dev/null").file_type().is_char_device());
    assert_eq!(meta("dev/null").rdev(), makedev(1, 3));
    assert!(meta("dev/loop7").file_type().is_block_device());
    assert!(meta("dev/pipe").file_type().is_fifo());
    assert_eq!(fs::read_to_string(root.join(&long)).expect("read"), "long");
    assert_eq!(fs::read_to_string(root.join("twice")).expect("read"), "second");
    assert!(meta("was-dir").is_file());
    assert!(unpacked.implicit.contains(&b"dev".to_vec()));
    assert!(!unpacked.implicit.contains(&b"bin".to_vec()));
    assert!(!unpacked.implicit.contains(&b"".to_vec()), "the root has an entry");
}

#[test]
fn sparse_files_stay_sparse() {
    if skip(&["tar"]) {
        return;
    }
    let source = tempfile::tempdir().expect("tempdir");
    let file = fs::File::create(source.path().join("sparse")).expect("create");
    file.set_len(64 << 20).expect("grow");
    std::os::unix::fs::FileExt::write_all_at(&file, b"needle", 40 << 20).expect("write");
    for format in ["gnu", "posix"] {
        let tar = crate::world::run(
            std::process::Command::new("tar")
                .args(["-cSf", "-", &format!("--format={format}"), "-C"])
                .arg(source.path())
                .arg("sparse"),
        );
        assert!(tar.stdout.len() < 1 << 20, "the tar is sparse");
        let (dir, unpacked) = apply(&tar.stdout);
        let meta = fs::metadata(dir.path().join("fs/sparse")).expect("there");
        assert_eq!(meta.len(), 64 << 20, "{format}");
        assert!(meta.blocks() * 512 < 1 << 20, "{format}: holes are holes");
        assert!(unpacked.size_bytes < 1 << 20);
        let bytes = fs::read(dir.path().join("fs/sparse")).expect("read");
        assert_eq!(&bytes[40 << 20..(40 << 20) + 6], b"needle");
    }
}

#[test]
fn whiteouts_become_overlays() {
    if skip(&[]) {
        return;
    }
    let layer = Layer::new()
        .dir("etc", 0o755)
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file(".wh..wh.plnk/1.2", "aufs")
        .file(".wh.replaced", "")
        .dir("replaced", 0o755)
        .file("own/file", "kept")
        .file(".wh.own", "")
        .file("own-file", "kept")
        .file(".wh.own-file", "")
        .finish();
    let (dir, _) = apply(&layer);
    let root = dir.path().join("fs");
    let gone = fs::symlink_metadata(root.join("etc/gone")).expect("a device");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(!root.join("etc/.wh.gone").exists());
    let opaque = |path: &str| xattr(&root.join(path), "trusted.overlay.opaque").is_some();
    assert!(opaque("opaque") && !root.join("opaque/.wh..wh..opq").exists());
    assert_eq!(fs::read_to_string(root.join("opaque/new")).expect("read"), "new");
    assert!(opaque("replaced"), "whited out and made again: nothing from below shines through");
    assert!(opaque("own"), "what the layer has itself stays, what is below goes");
    assert_eq!(fs::read_to_string(root.join("own/file")).expect("read"), "kept");
    assert_eq!(fs::read_to_string(root.join("own-file")).expect("read"), "kept");
}

#[tokio::test]
async fn layers_merge_as_the_spec_says() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let lower = Layer::new()
        .dir("tmp", 0o1777)
        .file("etc/gone", "x")
        .file("etc/stays", "lower")
        .file("opaque/old", "x")
        .file("changed", "lower")
        .finish();
    let upper = Layer::new()
        .file("tmp/new", "in a folder without an entry")
        .file("etc/.wh.gone", "")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/new", "new")
        .file("changed", "upper")
        .finish();
    let archive = docker_save(&[lower, upper], &["test/merge:1"]);
    let images = world.import(&archive, None).await.expect("import");
    let image = &images[0];
    assert_eq!(world.read(image, "/etc/gone"), None);
    assert_eq!(world.read(image, "/etc/stays").as_deref(), Some("lower"));
    assert_eq!(world.read(image, "/opaque/old"), None);
    assert_eq!(world.read(image, "/opaque/new").as_deref(), Some("new"));
    assert_eq!(world.read(image, "/changed").as_deref(), Some("upper"));
    let tmp = world.dir.path().join("snapshots/overlay/l/2/fs/tmp");
    let mode = fs::metadata(tmp).expect("there").mode() & 0o7777;
    assert_eq!(mode, 0o1777, "the folder without an entry looks as it does below");
}
