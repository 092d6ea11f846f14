//! Layers made by an enemy: whatever they try, nothing outside of their folder changes, and the
//! supervisor neither dies nor fills up.

use std::{fs, os::unix::fs::symlink, path::Path, time::Instant};

use wharf_proto::kind::Kind;
use wharf_supervisor::{
    drivers::unpack::{Error, Limits, Target, unpack},
    fault::Fault as _,
};

use crate::world::{Layer, World, docker_save, gzip, skip};

/// A folder with a secret beside the layer's, to be reached for.
struct Trap {
    dir: tempfile::TempDir,
}

impl Trap {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        for folder in ["outside", "layer", "trash"] {
            fs::create_dir(dir.path().join(folder)).expect("mkdir");
        }
        fs::write(dir.path().join("outside/secret"), "secret").expect("write");
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    fn apply(&self, layer: &[u8]) -> Result<(), Error> {
        self.apply_within(layer, &Limits::default())
    }

    fn apply_within(&self, layer: &[u8], limits: &Limits) -> Result<(), Error> {
        let (folder, trash) = (self.dir.path().join("layer"), self.dir.path().join("trash"));
        let target = Target { folder: &folder, trash: &trash };
        let result = unpack(layer, target, None, limits).map(drop);
        self.check();
        result
    }

    /// Nothing outside has changed.
    fn check(&self) {
        let outside = self.dir.path().join("outside");
        assert_eq!(fs::read_to_string(outside.join("secret")).expect("still there"), "secret");
        assert_eq!(fs::read_dir(&outside).expect("list").count(), 1, "nothing was added");
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .expect("list")
            .map(|e| e.expect("entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["layer", "outside", "trash"]);
        let meta = fs::metadata(outside.join("secret")).expect("still there");
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&meta), 1, "no hard link to it");
    }

    fn inside(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("layer").join(path)
    }
}

#[test]
fn paths_that_climb_are_refused() {
    if skip(&[]) {
        return;
    }
    for path in [
        "../outside/evil",
        "a/../../outside/evil",
        "./../outside/evil",
        "a/b/c/../../../../outside/evil",
        "..",
        "../",
        "/../outside/evil",
    ] {
        let trap = Trap::new();
        let error = trap.apply(&Layer::new().file(path, "evil").finish()).expect_err(path);
        assert_eq!(error.kind(), Kind::Invalid, "{path}: {error}");
        assert!(matches!(error, Error::Escape { .. }), "{path}: {error}");
        let error = trap.apply(&Layer::new().dir(path, 0o777).finish()).expect_err(path);
        assert!(matches!(error, Error::Escape { .. }), "{path}: {error}");
    }
}

#[test]
fn absolute_paths_are_the_layers_own() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    let path = trap.path("outside/evil");
    trap.apply(&Layer::new().file(&path, "evil").finish()).expect("inside");
    assert_eq!(fs::read_to_string(trap.inside(&path[1..])).expect("inside"), "evil");
}

#[test]
fn links_as_parents_stay_inside() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    let outside = trap.path("outside");
    for target in [&outside, "../outside", "../../../../../../outside", "/", ".."] {
        let trap = Trap::new();
        let layer = Layer::new()
            .symlink("door", target)
            .file("door/secret", "evil")
            .file("door/outside/secret", "evil")
            .file("door/.wh.secret", "")
            .hard_link("stolen", "door/secret")
            .finish();
        // Whether it is accepted does not matter: nothing outside may change.
        let _ = trap.apply(&layer);
        if let Ok(text) = fs::read_to_string(trap.inside("stolen")) {
            assert_ne!(text, "secret", "{target}");
        }
    }
    let trap = Trap::new();
    let chain = Layer::new().symlink("a", "b").symlink("b", "a").file("a/evil", "evil").finish();
    assert!(matches!(trap.apply(&chain), Err(Error::Parent { .. })), "a loop of links");
    let trap = Trap::new();
    let file = Layer::new().file("file", "x").file("file/evil", "evil").finish();
    assert!(matches!(trap.apply(&file), Err(Error::Parent { .. })), "a file is no parent");
}

#[test]
fn nothing_is_written_through_a_link() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    let secret = trap.path("outside/secret");
    let layer = Layer::new()
        .symlink("file", &secret)
        .file("file", "evil")
        .symlink("dir", &trap.path("outside"))
        .dir("dir", 0o777)
        .file("dir/evil", "evil")
        .symlink("device", &secret)
        .device(tar::EntryType::Fifo, "device", 0, 0)
        .symlink("hard", &secret)
        .file("other", "other")
        .hard_link("hard", "other")
        .finish();
    trap.apply(&layer).expect("each replaces the link");
    assert!(fs::symlink_metadata(trap.inside("file")).expect("there").is_file());
    assert!(fs::symlink_metadata(trap.inside("dir")).expect("there").is_dir());
    assert_eq!(fs::read_to_string(trap.inside("hard")).expect("there"), "other");
}

#[test]
fn hard_links_reach_only_inside() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    let secret = trap.path("outside/secret");
    for target in [&*secret, "../outside/secret", "a/../../outside/secret", "/etc/passwd", "."] {
        let error = trap.apply(&Layer::new().hard_link("stolen", target).finish());
        let error = error.expect_err(target);
        assert!(
            matches!(error, Error::Escape { .. } | Error::LinkTarget { .. }),
            "{target}: {error}"
        );
        assert_eq!(error.kind(), Kind::Invalid);
    }
    // A link to a link is another name for the link, not for what it points to.
    let layer = Layer::new().symlink("link", &secret).hard_link("stolen", "link").finish();
    trap.apply(&layer).expect("inside");
    assert!(fs::symlink_metadata(trap.inside("stolen")).expect("there").is_symlink());
    let layer = Layer::new().symlink("door", &trap.path("outside"));
    let layer = layer.hard_link("stolen2", "door/secret").finish();
    trap.apply(&layer).expect_err("the door leads nowhere inside");
}

#[test]
fn whiteouts_remove_nothing_outside() {
    if skip(&[]) {
        return;
    }
    for name in [".wh.", ".wh..", ".wh...", "a/.wh...", "../.wh.secret", "../outside/.wh.secret"] {
        let trap = Trap::new();
        let error = trap.apply(&Layer::new().file(name, "").finish()).expect_err(name);
        assert_eq!(error.kind(), Kind::Invalid, "{name}: {error}");
    }
    let trap = Trap::new();
    let layer = Layer::new()
        .symlink("door", &trap.path("outside"))
        .file("door/.wh..wh..opq", "")
        .file("door/.wh.secret", "")
        .finish();
    let _ = trap.apply(&layer);
}

#[test]
fn a_planted_link_in_the_folder_is_not_followed() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    symlink(trap.path("outside"), trap.inside("door")).expect("plant");
    let _ = trap.apply(&Layer::new().file("door/evil", "evil").finish());
    let _ = trap.apply(&Layer::new().dir("door", 0o777).file("door/evil", "evil").finish());
}

#[test]
fn bombs_are_defused() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    let begun = Instant::now();
    // 1 GiB of zeroes in 1 MiB.
    let mut header = Layer::header(tar::EntryType::Regular, 0o644);
    header.set_size(1 << 30);
    header.as_gnu_mut().expect("gnu").name[..4].copy_from_slice(b"bomb");
    header.set_cksum();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, header.as_bytes()).expect("gzip");
    let zeroes = vec![0; 1 << 20];
    for _ in 0..1024 {
        std::io::Write::write_all(&mut encoder, &zeroes).expect("gzip");
    }
    let bomb = encoder.finish().expect("gzip");
    let limits = Limits { total_bytes: 16 << 20, ..Limits::default() };
    let error = trap.apply_within(&bomb, &limits).expect_err("too many bytes");
    assert!(matches!(error, Error::Limit { what: "bytes", .. }), "{error}");
    assert_eq!(error.kind(), Kind::Exhausted);
    let written = fs::metadata(trap.inside("bomb")).map_or(0, |m| m.len());
    assert!(written <= 17 << 20, "{written} bytes written");

    let limits = Limits { entries: 100, ..Limits::default() };
    let many = (0..200).fold(Layer::new(), |layer, i| layer.file(&format!("f{i}"), "")).finish();
    let error = trap.apply_within(&gzip(&many), &limits).expect_err("too many entries");
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");

    // Each entry implies two thousand folders with paths of up to four thousand bytes.
    let deep = (0..100)
        .fold(Layer::new(), |layer, i| layer.file(&format!("{i}/{}", "d/".repeat(2000)), ""));
    let error = trap.apply(&deep.finish()).expect_err("too many implied folders");
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    assert!(begun.elapsed().as_secs() < 60, "took {:?}", begun.elapsed());
}

#[test]
fn folders_deeper_than_a_path_are_removed_again() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let layer = world.snapshots.begin_layer().expect("layer");
    let deep = "d/".repeat(1000);
    // Each link leads a thousand folders further down.
    let mut tar = Layer::new().file(&format!("{deep}file"), "");
    for i in 0..8 {
        let from = if i == 0 { deep.clone() } else { format!("l{}/{deep}", i - 1) };
        tar = tar.file(&format!("{from}x"), "");
        let mut header = Layer::header(tar::EntryType::Regular, 0o644);
        header.set_size(0);
        tar = tar
            .pax(&[("linkpath", from.trim_end_matches('/').as_bytes())])
            .symlink(&format!("l{i}"), "short");
    }
    let trash = layer.trash();
    let target = Target { folder: layer.files(), trash: &trash };
    let _ = unpack(&tar.finish()[..], target, None, &Limits::default());
    let folder = layer.files().to_path_buf();
    drop(layer);
    assert!(!folder.exists());
    crate::world::wait_for(|| {
        let left = world.list("snapshots/overlay/trash");
        left.is_empty().then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_image_leaves_nothing() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let good = Layer::new().file("good", "good").finish();
    let evil = Layer::new().file("../../../evil", "evil").finish();
    let archive = docker_save(&[good, evil], &["test/evil:1"]);
    let error = world.import(&archive, None).await.expect_err("hostile");
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(world.images.count(), 0);
    // The other layer's thread ends a moment later.
    tokio::task::block_in_place(|| {
        crate::world::wait_for(|| world.list("snapshots/overlay/l").is_empty().then_some(()));
    });
    assert!(world.list("content/blobs/sha256").is_empty());
    assert!(!Path::new("/evil").exists());
}

/// What overlay, the kernel or a later reader would believe if it came from a layer.
#[test]
fn attributes_devices_and_doubles_mean_nothing_more_than_files() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    let layer = Layer::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/../../outside"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.whiteout", b"y"),
            ("SCHILY.xattr.user.kept", b"yes"),
        ])
        .dir("marked", 0o755)
        .device(tar::EntryType::Char, "null", 1, 3)
        .device(tar::EntryType::Block, "disk", 8, 0)
        .entry(Layer::header(tar::EntryType::Regular, 0o6777), "setuid", b"x")
        .file("twice", "first")
        .hard_link("other", "twice")
        .file("twice", "second")
        .symlink("turns", "/outside")
        .dir("turns", 0o755)
        .file("turns/in", "in")
        .finish();
    trap.apply(&layer).expect("nothing of it is wrong");
    trap.check();
    let attribute = |path: &str, name: &str| {
        let mut value = [0; 64];
        rustix::fs::lgetxattr(trap.inside(path), name, &mut value).ok().map(|n| value[..n].to_vec())
    };
    for name in ["trusted.overlay.redirect", "trusted.overlay.opaque", "user.overlay.whiteout"] {
        assert_eq!(attribute("marked", name), None, "{name}");
    }
    assert_eq!(attribute("marked", "user.kept").as_deref(), Some(&b"yes"[..]));
    let read = |path: &str| fs::read_to_string(trap.inside(path)).expect(path);
    assert_eq!((read("twice"), read("other")), ("second".into(), "first".into()));
    assert_eq!(read("turns/in"), "in");
    assert!(trap.inside("turns").symlink_metadata().expect("turns").is_dir());
}

#[test]
fn headers_and_sparse_maps_are_bounded() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    let huge = vec![b'x'; 3 << 20];
    let long_name = "n".repeat(5000);
    let deep = format!("{}f", "d/".repeat(5000));
    let far = format!("1\n{}\n4\n", u64::MAX - 2);
    let overlapping = "2\n0\n4\n2\n4\n".to_owned();
    let map = |map: &str| {
        let mut data = map.as_bytes().to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"datadata");
        Layer::new()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"sparse"),
                ("GNU.sparse.realsize", b"8"),
            ])
            .entry(Layer::header(tar::EntryType::Regular, 0o644), "GNUSparseFile.0/sparse", &data)
            .finish()
    };
    for (what, layer) in [
        ("a huge record", Layer::new().pax(&[("comment", &huge)]).file("f", "").finish()),
        ("a huge attribute", {
            Layer::new().pax(&[("SCHILY.xattr.user.big", &huge)]).file("f", "").finish()
        }),
        ("a long name", Layer::new().file(&long_name, "").finish()),
        ("a deep path", Layer::new().file(&deep, "").finish()),
        ("an extent beyond all files", map(&far)),
        ("extents over each other", map(&overlapping)),
    ] {
        let error = trap.apply(&layer).err().unwrap_or_else(|| panic!("{what} is accepted"));
        let kind = error.kind();
        assert!(
            [Kind::Invalid, Kind::Corrupt, Kind::Exhausted].contains(&kind),
            "{what}: {kind:?} {error}"
        );
        trap.check();
    }
}

/// A frame of Zstandard may ask its reader for a window of gigabytes.
#[test]
fn a_window_of_gigabytes_is_refused() {
    if skip(&[]) {
        return;
    }
    let trap = Trap::new();
    // Magic number, a descriptor that names no size, a window of 2 GiB, then a raw block.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3];
    frame.extend_from_slice(&[0x09, 0x00, 0x00, b'x']);
    let error = trap.apply(&frame).expect_err("a window of 2 GiB");
    assert!([Kind::Invalid, Kind::Corrupt, Kind::Exhausted].contains(&error.kind()), "{error}");
    trap.check();
}

/// Entries in any order, of any kind, through links: the sample of the fuzz target `layer`.
#[test]
fn no_bytes_lead_outside() {
    if skip(&[]) {
        return;
    }
    let seed = Layer::new()
        .dir("a", 0o755)
        .symlink("a/up", "../..")
        .file("a/up/x", "x")
        .hard_link("a/h", "a/up/x")
        .file("a/.wh.x", "")
        .file("a/.wh..wh..opq", "")
        .pax(&[("path", b"a/p"), ("SCHILY.xattr.user.n", b"v")])
        .file("p", "p")
        .finish();
    let trap = Trap::new();
    // A small generator, always the same.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0)
    };
    for _ in 0..400 {
        let mut layer = seed.clone();
        for _ in 0..=next() % 6 {
            let at = next() % layer.len();
            layer[at] = u8::try_from(next() % 256).unwrap_or(0);
        }
        // With its checksum right, more of a changed header is looked at.
        for header in (0..layer.len()).step_by(512) {
            let sum: u32 = (0..512)
                .map(|i| if (148..156).contains(&i) { 32 } else { u32::from(layer[header + i]) })
                .sum();
            let is_header = layer[header + 257..header + 262] == *b"ustar";
            if is_header {
                layer[header + 148..header + 156]
                    .copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _ = trap.apply(&layer);
        trap.check();
    }
}
