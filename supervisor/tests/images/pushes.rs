//! To Debian's docker-registry on loopback, and back from there with other people's tools.

use std::{
    fs,
    io::Read as _,
    process::Command,
    sync::{Arc, Mutex},
};

use wharf_proto::kind::Kind;
use wharf_supervisor::{
    drivers::{content::Digest, registry::Credentials},
    fault::Fault as _,
    services::images::{Error, PushRequest, Pushed, Reporter, Stage},
};

use crate::{
    liar::{Answer, Liar},
    world::{Layer, Registry, World, docker_save, namespace, noise, run, skip, skopeo_copy},
};

/// bcrypt of "harbour"
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuZ9hITkhSjgdPh1azpD9e5XbVlHeIfui";

fn layers() -> Vec<Vec<u8>> {
    (0..4).map(|i| Layer::new().file(&format!("layer{i}"), &noise(i)).finish()).collect()
}

async fn push(world: &World, reference: &str) -> Result<Pushed, Error> {
    let request = PushRequest { reference: reference.into(), credentials: None };
    world.images.push(&namespace(), &request, &Reporter::default()).await
}

async fn with_image(reference: &str) -> World {
    let world = World::new();
    world.import(&docker_save(&layers(), &[reference]), None).await.expect("import");
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_comes_back_the_same() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    let registry = Registry::start(None).expect("registry");
    let reference = format!("{}/team/app:1", registry.address);
    let world = with_image(&reference).await;
    let image = world.images.get(&namespace(), &reference).expect("image");
    let pushed = push(&world, &reference).await.expect("push");
    assert_eq!(pushed.digest, image.manifest_digest);
    assert!(pushed.sent_bytes > 800_000, "{pushed:?}");
    // Whoever pulls it has it whole.
    let other = World::new();
    let pulled = other.pull(&reference).await.expect("pull").image;
    assert_eq!((&pulled.id, &pulled.manifest_digest), (&image.id, &image.manifest_digest));
    assert_eq!(other.read(&pulled, "/layer3"), Some(noise(3)));
    let dir = tempfile::tempdir().expect("tempdir");
    let layout = format!("oci:{}:x", dir.path().join("layout").display());
    let from = format!("docker://{reference}");
    skopeo_copy(&from, &layout, &["--src-tls-verify=false", "--preserve-digests"]);
    let index = fs::read_to_string(dir.path().join("layout/index.json")).expect("read");
    assert!(index.contains(&image.manifest_digest.to_string()), "{index}");
    // A second time there is nothing to send, and to another repository nothing either.
    assert_eq!(push(&world, &reference).await.expect("again").sent_bytes, 0);
    let mounted = format!("{}/other/app:2", registry.address);
    world.images.tag(&namespace(), &reference, &mounted).await.expect("tag");
    let (listener, mut progress) = tokio::sync::mpsc::channel(10_000);
    let request = PushRequest { reference: mounted.clone(), credentials: None };
    let reporter = Reporter::new(listener);
    let pushed = world.images.push(&namespace(), &request, &reporter).await.expect("push");
    drop(reporter);
    assert_eq!(pushed.sent_bytes, 0, "all is mounted");
    let mut seen = 0;
    while let Some(word) = progress.recv().await {
        seen += usize::from(word.stage == Stage::Mounted);
    }
    assert_eq!(seen, 5, "four layers and a config");
    assert_eq!(World::new().pull(&mounted).await.expect("pull").image.id, image.id);
    let tags = world.images.tags(&mounted, None, 0, None).await.expect("tags");
    assert_eq!((tags.names, tags.next), (vec!["2".to_owned()], None));
    let found = world.images.search(&registry.address, "app", 0, None).await.expect("search");
    let names: Vec<_> = found.into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["other/app", "team/app"]);
}

/// What an upload by the specification has become.
#[derive(Default)]
struct Uploads {
    bytes: Vec<u8>,
    breaks: usize,
    complete: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_broke_off() {
    if skip(&[]) {
        return;
    }
    let uploads = Arc::new(Mutex::new(Uploads::default()));
    let state = Arc::clone(&uploads);
    // Debian's registry can't take up what broke off, so this is one that does as it should.
    let registry = Liar::start(move |asked, body| {
        let mut state = state.lock().expect("no panic");
        let target = &asked.target;
        Some(match asked.method.as_str() {
            "HEAD" => Answer::new(404),
            "POST" => Answer::new(202).header("location", "/v2/app/blobs/uploads/one?state=x"),
            "GET" => {
                let last = state.bytes.len().saturating_sub(1);
                Answer::new(204).header("range", format!("0-{last}"))
            }
            "PATCH" => {
                let from: usize = asked.header("content-range")?.split('-').next()?.parse().ok()?;
                assert_eq!(from, state.bytes.len(), "it goes on where it was");
                let mut piece = Vec::new();
                body.take(1_500_000).read_to_end(&mut piece).ok()?;
                let announced: usize = asked.header("content-length")?.parse().ok()?;
                let is_part = piece.len() < announced;
                state.bytes.extend(piece);
                if is_part {
                    state.breaks += 1;
                    return None;
                }
                Answer::new(202).header("location", "/v2/app/blobs/uploads/one?state=y")
            }
            "PUT" if target.contains("/manifests/") => Answer::new(201),
            "PUT" => {
                let mut rest = Vec::new();
                body.read_to_end(&mut rest).ok()?;
                let digest = target.rsplit("digest=").next()?.replace("%3A", ":");
                let whole = if rest.is_empty() { std::mem::take(&mut state.bytes) } else { rest };
                assert_eq!(Digest::of(&whole).to_string(), digest, "the bytes are the blob's");
                state.complete += 1;
                Answer::new(201)
            }
            _ => Answer::new(405),
        })
    });
    let layer = Layer::new().file("big", &(0..30).map(noise).collect::<String>()).finish();
    let reference = format!("{}/app:1", registry.address);
    let world = World::new();
    world.import(&docker_save(&[layer], &[&reference]), None).await.expect("import");
    push(&world, &reference).await.expect("push");
    let uploads = uploads.lock().expect("no panic");
    assert_eq!((uploads.breaks, uploads.complete), (4, 2), "a layer in five parts, a config");
}

#[tokio::test]
async fn a_push_needs_the_right_credentials() {
    if skip(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start(Some(("captain", HASH))).expect("registry");
    let reference = format!("{}/app:1", registry.address);
    let world = with_image(&reference).await;
    let good = Credentials::password("captain", "harbour");
    for wrong in [None, Some(Credentials::password("captain", "storm"))] {
        let request = PushRequest { reference: reference.clone(), credentials: wrong };
        let pushed = world.images.push(&namespace(), &request, &Reporter::default()).await;
        let error = pushed.expect_err("not let in");
        assert_eq!(error.kind(), Kind::Unauthenticated, "{error:?}");
    }
    let request = PushRequest { reference: reference.clone(), credentials: Some(good.clone()) };
    world.images.push(&namespace(), &request, &Reporter::default()).await.expect("push");
    let tags = world.images.tags(&reference, Some(good.clone()), 0, None).await.expect("tags");
    assert_eq!(tags.names, ["1"]);
    let found = world.images.search(&registry.address, "", 0, Some(good.clone())).await;
    assert_eq!(found.expect("search").len(), 1);
    world.images.login(&registry.address, &good).await.expect("log in");
    let bad = Credentials::password("captain", "storm");
    let error = world.images.login(&registry.address, &bad).await.expect_err("a wrong password");
    assert_eq!(error.kind(), Kind::Unauthenticated, "{error:?}");
}

#[tokio::test]
async fn what_cannot_be_pushed_is_said() {
    if skip(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start(None).expect("registry");
    let reference = format!("{}/app:1", registry.address);
    let world = with_image(&reference).await;
    let error = push(&world, &format!("{}/none:1", registry.address)).await.expect_err("none");
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    let error = push(&world, "Not A Reference").await.expect_err("no reference");
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
    let image = world.images.get(&namespace(), &reference).expect("image");
    let blob = image.blobs.iter().max_by_key(|b| b.size_bytes).expect("blobs").digest.clone();
    let mut bytes = fs::read(world.content.path(&blob)).expect("read");
    bytes[1000] ^= 1;
    fs::write(world.content.path(&blob), bytes).expect("rot");
    let error = push(&world, &reference).await.expect_err("rotten");
    assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
    assert!(error.to_string().contains(&blob.to_string()), "{error}");
    let error = World::new().pull(&reference).await.expect_err("nothing was named");
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    drop(registry);
    let error = push(&world, &reference).await.expect_err("nobody is there");
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Corrupt), "{error:?}");
}

#[tokio::test]
async fn an_index_is_pushed_whole() {
    if skip(&["skopeo", "docker-registry", "curl"]) {
        return;
    }
    let registry = Registry::start(None).expect("registry");
    let reference = format!("{}/app:1", registry.address);
    let world = with_image(&reference).await;
    let one = push(&world, &reference).await.expect("push").digest;
    let manifest = fs::read(world.content.path(&one)).expect("manifest");
    let entry = |architecture: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": one,
            "size": manifest.len(), "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry("amd64"), entry("arm64")],
    });
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("index.json");
    fs::write(&file, index.to_string()).expect("write");
    let address = &registry.address;
    run(Command::new("curl")
        .args(["-sSf", "-X", "PUT", "-H"])
        .arg("Content-Type: application/vnd.oci.image.index.v1+json")
        .args(["--data-binary", &format!("@{}", file.display())])
        .arg(format!("http://{address}/v2/app/manifests/many")));
    let many = format!("{address}/app:many");
    let pulled = world.pull(&many).await.expect("pull").image;
    let target = pulled.names.iter().find(|n| n.reference == many).expect("named").digest.clone();
    assert_ne!(target, one);
    let elsewhere = Registry::start(None).expect("registry");
    let moved = format!("{}/app:many", elsewhere.address);
    world.images.tag(&namespace(), &many, &moved).await.expect("tag");
    let pushed = push(&world, &moved).await.expect("push");
    assert_eq!(pushed.digest, target, "all of the index is here");
    assert_eq!(World::new().pull(&moved).await.expect("pull").image.id, pulled.id);
}
