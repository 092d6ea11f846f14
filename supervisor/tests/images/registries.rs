//! Debian's docker-registry on loopback: filled by skopeo, emptied by us.

use std::{fs, sync::Arc};

use wharf_proto::kind::Kind;
use wharf_supervisor::{
    drivers::{
        content::Digest,
        oci::Platform,
        registry::{Action, Credentials, Session, Settings},
    },
    fault::Fault as _,
    services::images::{Extent, PullRequest, PushRequest, Reporter, Stage},
};

use crate::world::{
    Layer, Registry, World, docker_save, docker_save_for, flaky_proxy, namespace, noise, run, skip,
    skopeo_copy, wait_for,
};

struct Pushed {
    registry: Registry,
    dir: tempfile::TempDir,
}

fn layers() -> Vec<Vec<u8>> {
    (0..5)
        .map(|i| {
            Layer::new().file(&format!("layer{i}"), &noise(i)).file("top", &i.to_string()).finish()
        })
        .collect()
}

/// A registry with `app:oci` (gzip), `app:docker` (schema 2) and `app:zstd`.
fn pushed(auth: Option<(&str, &str)>, creds: &[&str]) -> Pushed {
    let registry = Registry::start(auth).expect("registry");
    let dir = tempfile::tempdir().expect("tempdir");
    let save = dir.path().join("save.tar");
    fs::write(&save, docker_save(&layers(), &["app:1"])).expect("write");
    let from = format!("docker-archive:{}", save.display());
    for (tag, more) in [
        ("oci", &["--format", "oci"][..]),
        ("docker", &["--format", "v2s2"]),
        ("zstd", &["--format", "oci", "--dest-compress-format", "zstd"]),
    ] {
        let to = format!("docker://{}/app:{tag}", registry.address);
        let more = [more, &["--dest-tls-verify=false"], creds].concat();
        skopeo_copy(&from, &to, &more);
    }
    Pushed { registry, dir }
}

#[tokio::test]
async fn pulls_what_skopeo_pushed() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    let pushed = pushed(None, &[]);
    for tag in ["oci", "docker", "zstd"] {
        let world = World::new();
        let reference = format!("{}/app:{tag}", pushed.registry.address);
        let (listener, mut progress) = tokio::sync::mpsc::channel(10_000);
        let request = PullRequest::new(&reference);
        let reporter = Reporter::new(listener);
        let pulled = world.images.pull(&namespace(), &request, &reporter).await.expect("pull");
        drop(reporter);
        assert!(!pulled.up_to_date);
        assert_eq!(pulled.image.names[0].reference, reference);
        assert_eq!(world.read(&pulled.image, "/top").as_deref(), Some("4"), "{tag}");
        assert_eq!(world.read(&pulled.image, "/layer0").map(|t| t.len()), Some(200_000));
        let mut done = 0;
        while let Some(word) = progress.recv().await {
            done += usize::from(word.stage == Stage::Done);
        }
        assert_eq!(done, 5, "each layer is told of");
        assert!(world.pull(&reference).await.expect("pull again").up_to_date);
        let world = world.restart();
        assert!(world.pull(&reference).await.expect("after a restart").up_to_date);
        // By digest, in another namespace of names but from the same content.
        let by_digest = format!("{}/app@{}", pushed.registry.address, pulled.image.digest());
        let again = world.pull(&by_digest).await.expect("by digest");
        assert_eq!(again.image.id, pulled.image.id);
        world.images.get(&namespace(), &by_digest).expect("known by it");
    }
}

#[tokio::test]
async fn pulls_at_once_download_once() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    let pushed = pushed(None, &[]);
    let world = Arc::new(World::new());
    let mut pulls = tokio::task::JoinSet::new();
    for i in 0..6 {
        let world = Arc::clone(&world);
        let tag = ["oci", "docker", "zstd"][i % 3];
        let reference = format!("{}/app:{tag}", pushed.registry.address);
        pulls.spawn(async move { world.pull(&reference).await });
    }
    while let Some(pulled) = pulls.join_next().await {
        let pulled = pulled.expect("no panic").expect("pull");
        assert_eq!(world.read(&pulled.image, "/top").as_deref(), Some("4"));
    }
    assert_eq!(world.list("snapshots/overlay/l").len(), 5, "layers are unpacked once");
    // skopeo writes the config anew for OCI, so there may be two.
    let images = world.images.list(&namespace(), "", 0, "").expect("list").images;
    assert_eq!(images.iter().map(|image| image.names.len()).sum::<usize>(), 3);
}

#[tokio::test]
async fn the_index_is_followed_to_this_platform() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    let pushed = pushed(None, &[]);
    let world = World::new();
    let address = &pushed.registry.address;
    let plain = world.pull(&format!("{address}/app:oci")).await.expect("pull").image;
    let manifest = fs::metadata(pushed.registry.blob(&plain.manifest_digest)).expect("manifest");
    let entry = |architecture: &str, digest: &str, size: u64| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
            "size": size, "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let host = wharf_supervisor::drivers::oci::Platform::host();
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            entry(&host.architecture, &plain.manifest_digest.to_string(), manifest.len()),
        ],
    });
    let file = pushed.dir.path().join("index.json");
    fs::write(&file, index.to_string()).expect("write");
    run(std::process::Command::new("curl").args([
        "-sSf",
        "-X",
        "PUT",
        "-H",
        "Content-Type: application/vnd.oci.image.index.v1+json",
        "--data-binary",
        &format!("@{}", file.display()),
        &format!("http://{address}/v2/app/manifests/many"),
    ]));
    let pulled = world.pull(&format!("{address}/app:many")).await.expect("pull").image;
    assert_eq!(pulled.id, plain.id);
    let name = pulled.names.iter().find(|n| n.reference.ends_with(":many")).expect("named");
    assert_ne!(name.digest, plain.manifest_digest, "the name points to the index");
    let request = PullRequest {
        reference: format!("{address}/app:many"),
        platform: Some("linux/s390x".into()),
        ..PullRequest::new("")
    };
    let error =
        world.images.pull(&namespace(), &request, &Reporter::default()).await.expect_err("none");
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupted_blobs_are_named() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    let pushed = pushed(None, &[]);
    let world = World::new();
    let reference = format!("{}/app:oci", pushed.registry.address);
    let image = world.pull(&reference).await.expect("pull").image;
    let largest = image.blobs.iter().max_by_key(|b| b.size_bytes).expect("blobs");
    let path = pushed.registry.blob(&largest.digest);
    let good = fs::read(&path).expect("read");
    for at in [good.len() / 2, good.len() - 3] {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).expect("rot");
        let world = World::new();
        let error = world.pull(&reference).await.expect_err("corrupted");
        assert_eq!(error.kind(), Kind::Corrupt, "{error:?}");
        assert!(error.to_string().contains(&largest.digest.to_string()), "{error}");
        assert_eq!(world.images.count(), 0);
        // Layers that were half-way end a moment later.
        wait_for(|| world.list("snapshots/overlay/l").is_empty().then_some(()));
        wait_for(|| world.list("content/ingest").is_empty().then_some(()));
    }
    fs::remove_file(&path).expect("remove");
    let error = World::new().pull(&reference).await.expect_err("missing");
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
}

#[tokio::test]
async fn credentials_are_checked() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    // bcrypt of "harbour"
    const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuZ9hITkhSjgdPh1azpD9e5XbVlHeIfui";
    let pushed = pushed(Some(("captain", HASH)), &["--dest-creds", "captain:harbour"]);
    let reference = format!("{}/app:oci", pushed.registry.address);
    let pull = async |credentials: Option<(&str, &str)>| {
        let world = World::new();
        let request = PullRequest {
            reference: reference.clone(),
            platform: None,
            extent: Extent::One,
            credentials: credentials.map(|(u, p)| Credentials::password(u, p)),
        };
        world.images.pull(&namespace(), &request, &Reporter::default()).await
    };
    assert!(pull(Some(("captain", "harbour"))).await.is_ok());
    for wrong in [None, Some(("captain", "storm")), Some(("pirate", "harbour"))] {
        let error = pull(wrong).await.expect_err("not let in");
        assert_eq!(error.kind(), Kind::Unauthenticated, "{error:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said() {
    if skip(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start(None).expect("registry");
    let world = World::new();
    let kind = async |reference: &str| {
        let error = world.pull(reference).await.expect_err("nothing to pull");
        println!("{}", wharf_supervisor::fault::chain(&error));
        error.kind()
    };
    assert_eq!(kind(&format!("{}/nothing:here", registry.address)).await, Kind::NotFound);
    assert_eq!(kind("Not A Reference").await, Kind::Invalid);
    let address = registry.address.clone();
    drop(registry);
    assert_eq!(kind(&format!("{address}/app:1")).await, Kind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_it_broke_off() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    let pushed = pushed(None, &[]);
    let world = World::new();
    let proxy = flaky_proxy(&pushed.registry.address, 60_000);
    let pulled = world.pull(&format!("{proxy}/app:oci")).await.expect("pull").image;
    assert_eq!(world.read(&pulled, "/layer3"), Some(noise(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_the_registry_last() {
    if skip(&["skopeo", "docker-registry"]) {
        return;
    }
    let pushed = pushed(None, &[]);
    let address = &pushed.registry.address;
    let world = World::new();
    // Nobody is there; then an empty one; then the one that has it; the registry does not exist.
    let empty = Registry::start(None).expect("registry");
    let text = format!(
        "[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\n[host.\"http://{address}\"]\n",
        empty.address
    );
    world.hosts("registry.invalid", &text);
    let pulled = world.pull("registry.invalid/app:oci").await.expect("pull").image;
    assert_eq!(pulled.names[0].reference, "registry.invalid/app:oci");
    assert_eq!(world.read(&pulled, "/top").as_deref(), Some("4"));
    world.hosts("registry.invalid", "server = \"gopher://x\"");
    let error = world.pull("registry.invalid/app:docker").await.expect_err("bad settings");
    assert_eq!(error.kind(), Kind::Precondition, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_an_authority_of_its_own() {
    if skip(&["skopeo", "docker-registry", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let file = |name: &str| dir.path().join(name);
    let openssl = |args: &[&str]| {
        run(std::process::Command::new("openssl").args(args).current_dir(dir.path()));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let ca = ["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test ca"];
    openssl(&[&["req"], &key[..], &ca[..]].concat());
    let request = ["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1"];
    openssl(&[&["req"], &key[..], &request[..]].concat());
    fs::write(file("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE")
        .expect("write");
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "san",
        "-out",
        "server.pem",
    ]);
    let tls = (&*file("server.pem"), &*file("server.key"));
    let registry = Registry::start_with(None, Some(tls)).expect("registry");
    let save = file("save.tar");
    fs::write(&save, docker_save(&layers(), &["app:1"])).expect("write");
    let to = format!("docker://{}/app:1", registry.address);
    skopeo_copy(&format!("docker-archive:{}", save.display()), &to, &["--dest-tls-verify=false"]);

    let world = World::new();
    let reference = format!("{}/app:1", registry.address);
    let server = format!("server = \"https://{}\"\n", registry.address);
    world.hosts(&registry.address, &server);
    let error = world.pull(&reference).await.expect_err("an unknown authority");
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    let folder = world.hosts(&registry.address, &format!("{server}ca = \"ca.pem\"\n"));
    fs::copy(file("ca.pem"), folder.join("ca.pem")).expect("copy");
    let pulled = world.pull(&reference).await.expect("pull").image;
    assert_eq!(world.read(&pulled, "/top").as_deref(), Some("4"));
    world.hosts(&registry.address, &format!("{server}skip_verify = true\n"));
    assert!(world.pull(&reference).await.expect("pull").up_to_date);
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_one_or_all() {
    if skip(&["docker-registry"]) {
        return;
    }
    let registry = Registry::start(None).expect("registry");
    let (host, far) = (Platform::host(), "linux/s390x");
    let source = World::new();
    // Two images of two platforms, then an index of both.
    let mut entries = Vec::new();
    for (architecture, text) in [(host.architecture.as_str(), "here"), ("s390x", "far")] {
        let name = format!("{}/app:{architecture}", registry.address);
        let layer = Layer::new().file("name", text).finish();
        let archive = docker_save_for(&[layer], &[&name], architecture);
        let image = source.import(&archive, None).await.expect("import").remove(0);
        let request = PushRequest { reference: name, credentials: None };
        source.images.push(&namespace(), &request, &Reporter::default()).await.expect("push");
        let size = fs::metadata(source.content.path(&image.manifest_digest)).expect("there").len();
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest_digest, "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let many = format!("{}/app:many", registry.address);
    let reference = many.parse().expect("a reference");
    let session = Session::new(&reference, None, &Settings::default(), Action::Push);
    let media_type = "application/vnd.oci.image.index.v1+json";
    let bytes = index.to_string().into_bytes().into();
    session.expect("session").push_document("many", media_type, &bytes).await.expect("push");

    let pull = async |world: &World, request: PullRequest| {
        world.images.pull(&namespace(), &request, &Reporter::default()).await
    };
    let of = |reference: &str, platform: Option<&str>| PullRequest {
        platform: platform.map(str::to_owned),
        ..PullRequest::new(reference)
    };
    let world = World::new();
    let image = pull(&world, of(&many, None)).await.expect("this host's").image;
    assert_eq!(world.read(&image, "/name").as_deref(), Some("here"));
    let image = pull(&world, of(&many, Some(far))).await.expect("another").image;
    assert_eq!(world.read(&image, "/name").as_deref(), Some("far"));
    assert_eq!(image.platform, far);
    // An image that is for one platform is not another's, though no index says so.
    let single = format!("{}/app:s390x", registry.address);
    let error = pull(&world, of(&single, Some("linux/arm64"))).await.expect_err("not for that");
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    assert!(error.to_string().contains("s390x"), "{error}");
    pull(&world, of(&single, None)).await.expect("whoever names none gets what there is");

    let world = World::new();
    let request = PullRequest { extent: Extent::All, ..PullRequest::new(&many) };
    let image = pull(&world, request).await.expect("all").image;
    assert_eq!(world.read(&image, "/name").as_deref(), Some("here"));
    let world = world.restart();
    // The whole index can be pushed on, and is the same there.
    let elsewhere = Registry::start(None).expect("registry");
    let moved = format!("{}/app:moved", elsewhere.address);
    world.images.tag(&namespace(), &many, &moved).await.expect("tag");
    let request = PushRequest { reference: moved.clone(), credentials: None };
    let pushed = world.images.push(&namespace(), &request, &Reporter::default()).await;
    assert_eq!(&pushed.expect("push").digest, image.digest());
    let other = World::new();
    let image = pull(&other, of(&moved, Some(far))).await.expect("the other").image;
    assert_eq!(other.read(&image, "/name").as_deref(), Some("far"));
    // Saved, it comes back whole.
    let archive = world.export(std::slice::from_ref(&many)).await.expect("export");
    let back = World::new();
    let loaded = back.import(&archive, None).await.expect("import").remove(0);
    assert_eq!(loaded.digest(), &Digest::of(&index.to_string().into_bytes()));
    assert_eq!(back.read(&loaded, "/name").as_deref(), Some("here"));
    let names = [many];
    assert_eq!(back.export(&names).await.expect("again"), archive, "the same bytes");
    // Of one platform, it is that alone.
    let archive = back.export_for(&names, Some(far)).await.expect("one of them");
    let one = World::new();
    let loaded = one.import(&archive, None).await.expect("import").remove(0);
    assert_eq!((loaded.platform.as_str(), loaded.digest()), (far, &loaded.manifest_digest));
    assert_eq!(one.read(&loaded, "/name").as_deref(), Some("far"));
    let error = one.export_for(&names, Some("linux/arm64")).await.expect_err("not here");
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
}

/// A registry that asks for a certificate gets the one that `hosts.toml` or Docker's files name.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate() {
    if skip(&["skopeo", "docker-registry", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let file = |name: &str| dir.path().join(name);
    let openssl = |args: &[&str]| {
        run(std::process::Command::new("openssl").args(args).current_dir(dir.path()));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    fs::write(file("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE")
        .expect("write");
    for ca in ["ca", "stranger"] {
        let (out, secret, subject) =
            (format!("{ca}.pem"), format!("{ca}.key"), format!("/CN={ca}"));
        let own = ["-x509", "-keyout", &secret, "-out", &out, "-days", "2", "-subj", &subject];
        openssl(&[&["req"], &key[..], &own[..]].concat());
    }
    for (name, ca) in [("server", "ca"), ("client", "ca"), ("wrong", "stranger")] {
        let of = |kind: &str| format!("{name}.{kind}");
        let (secret, request, out) = (of("key"), of("csr"), of("pem"));
        let subject = format!("/CN={name}");
        let wanted = ["-keyout", &secret, "-out", &request, "-subj", &subject];
        openssl(&[&["req"], &key[..], &wanted[..]].concat());
        let (authority, its_key) = (format!("{ca}.pem"), format!("{ca}.key"));
        let sign = ["x509", "-req", "-in", &request, "-CA", &authority, "-CAkey", &its_key];
        let rest = ["-CAcreateserial", "-days", "2", "-extfile", "san", "-out", &out];
        openssl(&[&sign[..], &rest[..]].concat());
    }
    let tls = (&*file("server.pem"), &*file("server.key"));
    let registry =
        Registry::start_asking(None, Some(tls), Some(&file("ca.pem"))).expect("registry");
    let world = World::new();
    let reference = format!("{}/app:1", registry.address);
    world.import(&docker_save(&layers(), &[&reference]), None).await.expect("import");
    let push = async || {
        let request = PushRequest { reference: reference.clone(), credentials: None };
        world.images.push(&namespace(), &request, &Reporter::default()).await
    };
    let server = format!("server = \"https://{}\"\nca = \"ca.pem\"\n", registry.address);
    let folder = world.hosts(&registry.address, &server);
    for name in ["ca.pem", "client.pem", "client.key", "wrong.pem", "wrong.key"] {
        fs::copy(file(name), folder.join(name)).expect("copy");
    }
    // None, and one of somebody else's.
    let error = push().await.expect_err("no certificate");
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    let text = wharf_supervisor::fault::chain(&error).to_lowercase();
    assert!(text.contains("certificate"), "{text}");
    let wrong = "client = [\"wrong.pem\", \"wrong.key\"]\n";
    world.hosts(&registry.address, &format!("{server}{wrong}"));
    let error = push().await.expect_err("a stranger's certificate");
    assert_eq!(error.kind(), Kind::Unavailable, "{error:?}");
    // A pair of files, and one file with both.
    let pair = "client = [\"client.pem\", \"client.key\"]\n";
    world.hosts(&registry.address, &format!("{server}{pair}"));
    push().await.expect("push");
    let both = [fs::read(file("client.pem")), fs::read(file("client.key"))];
    let both = both.map(|part| part.expect("read")).concat();
    fs::write(folder.join("both.pem"), both).expect("write");
    world.hosts(&registry.address, &format!("{server}client = \"both.pem\"\n"));
    let other = World::new();
    let folder = other.hosts(&registry.address, &format!("{server}client = \"both.pem\"\n"));
    for name in ["ca.pem", "both.pem"] {
        let from = if name == "ca.pem" {
            file(name)
        } else {
            world.hosts(&registry.address, &format!("{server}{pair}")).join(name)
        };
        fs::copy(from, folder.join(name)).expect("copy");
    }
    let pulled = other.pull(&reference).await.expect("pull").image;
    assert_eq!(other.read(&pulled, "/top").as_deref(), Some("4"));
    // Docker's files, with no hosts.toml.
    let docker = World::new();
    let folder = docker.hosts(&registry.address, "");
    fs::remove_file(folder.join("hosts.toml")).expect("remove");
    for (from, to) in [("ca.pem", "ca.crt"), ("client.pem", "me.cert"), ("client.key", "me.key")] {
        fs::copy(file(from), folder.join(to)).expect("copy");
    }
    docker.pull(&reference).await.expect("pull by Docker's files");
}
