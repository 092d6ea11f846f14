//! Archives of every kind, and what becomes of them.

use std::{fs, process::Command};

use wharf_proto::kind::Kind;
use wharf_supervisor::{
    drivers::content::Digest,
    fault::{Detail, Fault as _},
    services::images::{Error, Force},
};

use crate::world::{Layer, World, config_of, docker_save, gzip, namespace, run, skip, skopeo_copy};

fn layers() -> Vec<Vec<u8>> {
    vec![
        Layer::new().dir("etc", 0o755).file("etc/name", "lower").finish(),
        Layer::new().file("etc/name", "upper").file("srv/data", &"x".repeat(300_000)).finish(),
    ]
}

#[tokio::test]
async fn docker_save_in_every_wrapping() {
    if skip(&[]) {
        return;
    }
    let plain = docker_save(&layers(), &["app:1", "example.com/app:2"]);
    let zstd = zstd::encode_all(&plain[..], 1).expect("zstd");
    for archive in [plain.clone(), gzip(&plain), zstd] {
        let world = World::new();
        let images = world.import(&archive, None).await.expect("import");
        assert_eq!(images.len(), 1);
        let image = &images[0];
        assert_eq!(image.id, Digest::of(config_of(&layers()).as_bytes()));
        let names: Vec<_> = image.names.iter().map(|n| n.reference.as_str()).collect();
        assert_eq!(names, ["docker.io/library/app:1", "example.com/app:2"]);
        assert_eq!(image.platform, "linux/amd64");
        assert_eq!(image.created_unix_ns, Some(1_706_933_106_789_000_000));
        assert_eq!(world.read(image, "/etc/name").as_deref(), Some("upper"));
        assert_eq!(image.size_bytes, 300_010);
        let resolved = world.images.resolve(&namespace(), "app:1").await.expect("resolve");
        assert_eq!(resolved.reference, "docker.io/library/app:1");
        let config = resolved.config.config().clone().expect("config");
        assert_eq!(config.cmd().as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert_eq!(config.exposed_ports().as_deref(), Some(&["80/tcp".to_owned()][..]));
        let again = world.import(&archive, None).await.expect("import again");
        assert_eq!(again, images, "importing twice changes nothing");
    }
}

#[tokio::test]
async fn a_restart_keeps_images_and_sweeps_the_rest() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let images = world.import(&docker_save(&layers(), &["app:1"]), None).await.expect("import");
    fs::write(world.dir.path().join("content/ingest/99"), "half a blob").expect("write");
    let stray = world.content.put(b"a blob that no record names").expect("put");
    drop(world.snapshots.begin_layer());
    fs::create_dir_all(world.dir.path().join("snapshots/overlay/l/50/fs/x")).expect("mkdir");
    let world = world.restart();
    let image = world.images.get(&namespace(), "app:1").expect("still here");
    assert_eq!(image, images[0]);
    assert_eq!(world.read(&image, "/etc/name").as_deref(), Some("upper"));
    assert_eq!(world.content.stat(&stray.digest).expect("stat"), None);
    assert_eq!(world.list("snapshots/overlay/l"), ["1", "2"]);
    assert!(world.list("content/ingest").is_empty());
}

#[tokio::test]
async fn several_images_share_layers_and_go_one_by_one() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let base = layers();
    let mut bigger = layers();
    bigger.push(Layer::new().file("more", "more").finish());
    let one = world.import(&docker_save(&base, &["one:1", "one:2"]), None).await.expect("import");
    let two = world.import(&docker_save(&bigger, &["two:1"]), None).await.expect("import");
    assert_eq!(world.list("snapshots/overlay/l").len(), 3, "shared layers are unpacked once");

    let removed = world.images.remove(&namespace(), "one:1", Force::No).await.expect("untag");
    assert_eq!(removed.untagged, ["docker.io/library/one:1"]);
    assert!(removed.deleted.is_empty());
    let removed = world.images.remove(&namespace(), "one:2", Force::No).await.expect("remove");
    assert_eq!(removed.deleted[0], one[0].id.to_string());
    assert_eq!(world.list("snapshots/overlay/l").len(), 3, "the other image needs them");
    assert_eq!(world.read(&two[0], "/etc/name").as_deref(), Some("upper"));

    let id = two[0].id.hex()[..12].to_owned();
    let removed = world.images.remove(&namespace(), &id, Force::No).await.expect("by prefix");
    assert_eq!(removed.untagged, ["docker.io/library/two:1"]);
    assert!(removed.deleted.len() > 4, "{removed:?}");
    assert!(world.list("snapshots/overlay/l").is_empty());
    assert!(world.list("content/blobs/sha256").is_empty());
    let error = world.images.get(&namespace(), "two:1").expect_err("gone");
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.detail(), Detail::Resource { kind: "image", name: "two:1".into() });
}

#[tokio::test]
async fn a_name_moves_to_the_newer_image() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let old = world.import(&docker_save(&layers()[..1], &["app:1"]), None).await.expect("import");
    let new = world.import(&docker_save(&layers(), &["app:1"]), None).await.expect("import");
    assert_eq!(world.images.get(&namespace(), "app:1").expect("get").id, new[0].id);
    let dangling = world.images.get(&namespace(), &old[0].id.to_string()).expect("get");
    assert!(dangling.names.is_empty());
    let other: wharf_supervisor::ids::Namespace = "other".parse().expect("a namespace");
    assert!(world.images.get(&other, "app:1").is_err(), "namespaces do not see each other");
    let page = world.images.list(&namespace(), "", 1, "").expect("list");
    let rest = world.images.list(&namespace(), "", 1, &page.next.expect("more")).expect("list");
    assert_eq!((page.images.len(), rest.images.len(), rest.next), (1, 1, None));
    assert_eq!(world.images.list(&namespace(), "app", 0, "").expect("list").images.len(), 1);
}

#[tokio::test]
async fn bad_archives_say_what_is_bad() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let good = docker_save(&layers(), &["app:1"]);
    let kind = async |archive: &[u8]| {
        let error = world.import(archive, None).await.expect_err("bad");
        println!("{error}");
        error.kind()
    };
    assert_eq!(kind(b"this is no archive at all, not even nearly").await, Kind::Invalid);
    assert_eq!(kind(&good[..good.len() / 2]).await, Kind::Invalid, "cut short");
    assert_eq!(kind(&Layer::new().file("x", "y").finish()).await, Kind::Invalid);
    let broken = Layer::new().file("manifest.json", "[{").finish();
    assert_eq!(kind(&broken).await, Kind::Invalid);
    let lacking =
        Layer::new().file("manifest.json", r#"[{"Config":"c.json","Layers":["l.tar"]}]"#).finish();
    assert_eq!(kind(&lacking).await, Kind::Invalid);
    let name = format!("blobs/sha256/{}", "0".repeat(64));
    let corrupt = Layer::new().file(&name, "not zeroes").finish();
    let error = world.import(&corrupt, None).await.expect_err("corrupt");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("corrupt") || format!("{error:?}").contains("Corrupt"));
    assert!(
        matches!(error.detail(), Detail::Resource { kind: "blob", name } if name.contains("0000"))
    );
    // A layer that is not the one the config names.
    let mut wrong = layers();
    let config = config_of(&wrong);
    wrong[1] = Layer::new().file("other", "other").finish();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let archive = Layer::new()
        .entry(Layer::header(tar::EntryType::Regular, 0o644), "a.tar", &wrong[0])
        .entry(Layer::header(tar::EntryType::Regular, 0o644), "b.tar", &wrong[1])
        .file(&config_name, &config)
        .file(
            "manifest.json",
            &format!(r#"[{{"Config":"{config_name}","Layers":["a.tar","b.tar"]}}]"#),
        )
        .finish();
    let error = world.import(&archive, None).await.expect_err("wrong diff id");
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(matches!(error, Error::Layer { .. }), "{error:?}");
    assert_eq!(world.images.count(), 0);
    assert!(world.list("content/ingest").is_empty());
}

#[tokio::test]
async fn skopeos_archives() {
    if skip(&["skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("save.tar"), docker_save(&layers(), &["app:1"])).expect("write");
    let from = format!("docker-archive:{}", path("save.tar"));
    skopeo_copy(&from, &format!("oci-archive:{}:app:2", path("oci.tar")), &[]);
    skopeo_copy(&from, &format!("docker-archive:{}:app:3", path("docker.tar")), &[]);
    let zstd = ["--dest-compress-format", "zstd"];
    skopeo_copy(&from, &format!("oci-archive:{}:app:4", path("zstd.tar")), &zstd);
    for (file, name) in [("oci.tar", "app:2"), ("docker.tar", "app:3"), ("zstd.tar", "app:4")] {
        let world = World::new();
        let images = world.import_file(path(file).as_ref(), None).await.expect("import");
        assert_eq!(images.len(), 1, "{file}");
        assert_eq!(images[0].names[0].reference, format!("docker.io/library/{name}"));
        assert_eq!(world.read(&images[0], "/etc/name").as_deref(), Some("upper"), "{file}");
    }
}

#[tokio::test]
async fn an_image_that_umoci_made() {
    if skip(&["umoci"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let layout = dir.path().join("layout");
    let bundle = dir.path().join("bundle");
    let image = format!("{}:v1", layout.display());
    run(Command::new("umoci").args(["init", "--layout"]).arg(&layout));
    run(Command::new("umoci").args(["new", "--image", &image]));
    run(Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    fs::create_dir(bundle.join("rootfs/etc")).expect("mkdir");
    fs::write(bundle.join("rootfs/etc/name"), "first").expect("write");
    fs::write(bundle.join("rootfs/etc/gone"), "gone").expect("write");
    run(Command::new("umoci").args(["repack", "--refresh-bundle", "--image", &image]).arg(&bundle));
    fs::write(bundle.join("rootfs/etc/name"), "second").expect("write");
    fs::remove_file(bundle.join("rootfs/etc/gone")).expect("remove");
    run(Command::new("umoci").args(["repack", "--image", &image]).arg(&bundle));
    let tar = run(Command::new("tar").args(["-cf", "-", "-C"]).arg(&layout).arg("."));
    let world = World::new();
    let images = world.import(&tar.stdout, Some("example.com/umoci:x")).await.expect("import");
    let image = &images[0];
    // umoci names the image by its tag only.
    assert_eq!(image.names[0].reference, "example.com/umoci:v1");
    assert_eq!(world.read(image, "/etc/name").as_deref(), Some("second"));
    assert_eq!(world.read(image, "/etc/gone"), None);
}

#[tokio::test]
async fn an_image_with_no_layers() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let images = world.import(&docker_save(&[], &["nothing:1"]), None).await.expect("import");
    assert_eq!(images[0].chain_id, None);
    assert_eq!(world.read(&images[0], "/etc/passwd"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_comes_back_with_the_same_digests() {
    if skip(&["skopeo"]) {
        return;
    }
    let world = World::new();
    let images = world.import(&docker_save(&layers(), &["app:1"]), None).await.expect("import");
    let tagged = world.images.tag(&namespace(), "app:1", "localhost:5000/app:2").await;
    assert_eq!(tagged.expect("tag").names.len(), 2);
    let asked = ["app:1".to_owned(), "localhost:5000/app:2".to_owned()];
    let archive = world.export(&asked).await.expect("export");
    assert_eq!(archive, world.export(&asked).await.expect("again"), "the same bytes");
    let other = World::new();
    let back = other.import(&archive, None).await.expect("import");
    assert_eq!(
        (&back[0].id, &back[0].manifest_digest),
        (&images[0].id, &images[0].manifest_digest)
    );
    let names: Vec<_> = back[0].names.iter().map(|n| n.reference.as_str()).collect();
    assert_eq!(names, ["docker.io/library/app:1", "localhost:5000/app:2"]);

    // skopeo reads it as either kind.
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("ours.tar"), &archive).expect("write");
    let layout = path("layout");
    let ours = format!("oci-archive:{}:1", path("ours.tar"));
    skopeo_copy(&ours, &format!("oci:{layout}:x"), &["--preserve-digests"]);
    let index = fs::read_to_string(dir.path().join("layout/index.json")).expect("read");
    assert!(index.contains(&images[0].manifest_digest.to_string()), "{index}");
    let docker = format!("docker-archive:{}", path("docker.tar"));
    skopeo_copy(&format!("docker-archive:{}:app:1", path("ours.tar")), &docker, &[]);

    let blob = images[0].blobs.last().expect("blobs").digest.clone();
    let mut bytes = fs::read(world.content.path(&blob)).expect("read");
    bytes[1000] ^= 1;
    fs::write(world.content.path(&blob), bytes).expect("rot");
    let error = world.export(&asked).await.expect_err("rotten");
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(
        matches!(error.detail(), Detail::Resource { kind: "blob", name } if name == blob.to_string())
    );
}

/// From our archive through other tools' hands and back: the same image, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn round_trips_through_skopeo_and_umoci() {
    if skip(&["skopeo", "umoci", "tar"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("save.tar"), docker_save(&layers(), &["app:1"])).expect("write");
    let from = format!("docker-archive:{}", path("save.tar"));
    let zstd: &[&str] = &["--dest-compress-format", "zstd"];
    for (kind, more) in [("gzip", &[][..]), ("zstd", zstd)] {
        skopeo_copy(&from, &format!("oci-archive:{}:app:{kind}", path(kind)), more);
        let world = World::new();
        let image = world.import_file(path(kind).as_ref(), None).await.expect("import").remove(0);
        let name = image.names[0].reference.clone();
        let ours = path(&format!("{kind}.ours"));
        fs::write(&ours, world.export(&[name]).await.expect("export")).expect("write");

        // skopeo: into a folder, then from there into an archive.
        let folder = path(&format!("{kind}.skopeo"));
        let keep = ["--preserve-digests"];
        skopeo_copy(&format!("oci-archive:{ours}"), &format!("oci:{folder}:app:1"), &keep);
        let back = path(&format!("{kind}.back"));
        skopeo_copy(&format!("oci:{folder}:app:1"), &format!("oci-archive:{back}:app:1"), &keep);
        let other = World::new();
        let same = other.import_file(back.as_ref(), None).await.expect("import").remove(0);
        assert_eq!(
            (&same.id, &same.manifest_digest),
            (&image.id, &image.manifest_digest),
            "{kind}"
        );
        assert_eq!(other.read(&same, "/etc/name").as_deref(), Some("upper"));

        // umoci: reads the folder, gives the image one more name, collects garbage.
        let folder = dir.path().join(format!("{kind}.umoci"));
        fs::create_dir(&folder).expect("mkdir");
        run(Command::new("tar").args(["-xf", &ours, "-C"]).arg(&folder));
        let layout = format!("{}:{kind}", folder.display());
        run(Command::new("umoci").args(["stat", "--json", "--image", &layout]));
        run(Command::new("umoci").args(["tag", "--image", &layout, "again"]));
        run(Command::new("umoci").args(["gc", "--layout"]).arg(&folder));
        let tar = run(Command::new("tar").args(["-cf", "-", "-C"]).arg(&folder).arg("."));
        let other = World::new();
        let images = other.import(&tar.stdout, Some("example.com/umoci:x")).await.expect("import");
        let same = &images[0];
        assert_eq!(
            (&same.id, &same.manifest_digest),
            (&image.id, &image.manifest_digest),
            "{kind}"
        );
        assert_eq!(other.read(same, "/srv/data").map(|d| d.len()), Some(300_000));
    }
}
