//! Archives in, images out: both forms, layers with all they can hold, broken and hostile ones.

use std::{fs, io::Write as _};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tonic::Code;
use wharf_proto::v1::{DeleteImageRequest, GetImageRequest, Image, ListImagesRequest};
use wharf_tests::{
    api::{resource, script, spec},
    image::{self, BUSYBOX, Layer, Packing, Recipe},
    leak, wait,
    world::World,
};

use crate::refused;

/// Blobs that were not finished are gone, if not at once.
pub(crate) async fn nothing_half_done(world: &World) -> Result<()> {
    let left = || leak::tree(&world.root().join("content/ingest"));
    wait::until_now("nothing is half done", || Ok(left().is_empty().then_some(())))
        .await
        .with_context(|| format!("{:?}", left()))
}

fn get(image: &str) -> GetImageRequest {
    GetImageRequest { image: image.into() }
}

#[tokio::test]
async fn both_forms_are_the_same_image() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let mut recipe = image::busybox()?;
    recipe.packing = Packing::Plain;
    let built = recipe.build(BUSYBOX)?;
    let by_layout = api.import(&built.oci_tar()?, "").await?;
    let [layout] = by_layout.as_slice() else { anyhow::bail!("{by_layout:?}") };
    ensure!(layout.id == built.config.digest, "{layout:?}");
    ensure!(layout.names == [built.full_name()], "{layout:?}");
    ensure!(layout.manifest_digest == built.manifest.digest, "{layout:?}");
    ensure!(layout.size_bytes > 1 << 20 && layout.content_bytes > 1 << 20, "{layout:?}");
    let config = layout.config.clone().context("no config")?;
    ensure!(config.cmd == ["/bin/sh"] && config.env.len() == 2, "{config:?}");
    ensure!(layout.labels.get("org.wharf.test").is_some_and(|l| l == "busybox"), "{layout:?}");

    let mut docker = built.clone();
    docker.name = "again:2".into();
    let by_docker = api.import(&docker.docker_tar()?, "").await?;
    let [docker] = by_docker.as_slice() else { anyhow::bail!("{by_docker:?}") };
    ensure!(docker.id == layout.id, "{docker:?}");
    let listed = api.images.list(ListImagesRequest::default()).await?.into_inner().images;
    ensure!(listed.len() == 1 || listed.len() == 2, "{listed:?}");
    for asked in
        [BUSYBOX, "docker.io/library/busybox:test", "again:2", &layout.id, &layout.id[7..19]]
    {
        let found =
            api.images.get(get(asked)).await.with_context(|| asked.to_owned())?.into_inner();
        ensure!(found.image.context("no image")?.id == layout.id, "{asked}");
        ensure!(found.config_json.contains("diff_ids"), "{asked}");
    }
    for name in [BUSYBOX, "again:2"] {
        let mut hello = spec(["echo", "hello"]);
        hello.image = name.into();
        let (_, outcome) = api.run_to_end(hello).await?;
        ensure!(outcome.out() == "hello\n", "{name}: {outcome:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn compressed_archives() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let built = image::busybox()?.build(BUSYBOX)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&built.docker_tar()?)?;
    let images = api.import(&gzip.finish()?, "").await?;
    ensure!(images.len() == 1 && images[0].id == built.config.digest, "{images:?}");
    let (_, outcome) = api.run_to_end(script("echo $FROM_IMAGE")).await?;
    ensure!(outcome.out() == "yes\n", "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn importing_again_changes_nothing() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let before = leak::tree(&world.root().join("content"));
    let archive = image::busybox()?.build(BUSYBOX)?.oci_tar()?;
    let (mut one, mut two) = (api.clone(), api.clone());
    let (one, two) = tokio::join!(one.import(&archive, ""), two.import(&archive, ""));
    let ids = |images: Vec<Image>| images.into_iter().map(|i| i.id).collect::<Vec<_>>();
    ensure!(ids(one?) == ids(two?));
    ensure!(leak::tree(&world.root().join("content")) == before, "blobs were added");
    let images = api.images.list(ListImagesRequest::default()).await?.into_inner().images;
    ensure!(images.len() == 1, "{images:?}");
    world.finish().await
}

#[tokio::test]
async fn layers_on_layers() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let mut recipe = image::busybox()?;
    recipe.layers.push(
        Layer::default()
            .folder("data", 0o755)
            .file("data/gone", 0o644, "1")
            .file("data/kept", 0o600, "2")
            .owned_by(1000, 50)
            .folder("opaque", 0o755)
            .file("opaque/below", 0o644, "3")
            .folder("to-file", 0o755)
            .file("to-file/x", 0o644, "")
            .file("setuid", 0o4755, "x")
            .symlink("link", "data/kept")
            .hardlink("hard", "data/kept"),
    );
    recipe.layers.push(
        Layer::default()
            .whiteout("data/gone")
            .opaque("opaque")
            .file("opaque/above", 0o644, "4")
            .file("to-file", 0o644, "now a file"),
    );
    let built = recipe.build("layers:1")?;
    api.import(&built.oci_tar()?, "").await?;
    let mut look = script(
        "ls /data /opaque; cat /link /hard /to-file; echo; stat -c '%a %u %g %h' /data/kept; \
         stat -c %a /setuid",
    );
    look.image = "layers:1".into();
    let (_, outcome) = api.run_to_end(look).await?;
    let expected = "/data:\nkept\n\n/opaque:\nabove\n22now a file\n600 1000 50 2\n4755\n";
    ensure!(outcome.out() == expected, "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn deleting() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let empty = leak::tree(&world.root().join("content")).len();
    let container = api.create(script("true")).await?;
    let delete = |image: &str, force| DeleteImageRequest { image: image.into(), force };
    let status =
        refused(api.images.delete(delete(BUSYBOX, false)).await, Code::FailedPrecondition)?;
    let user = container.spec.clone().context("no spec")?.name;
    ensure!(status.message().contains(&user), "who uses it? {status:?}");
    api.remove(&container.id).await?;
    let deleted = api.images.delete(delete(BUSYBOX, false)).await?.into_inner();
    ensure!(deleted.untagged == ["docker.io/library/busybox:test"], "{deleted:?}");
    ensure!(!deleted.deleted.is_empty(), "{deleted:?}");
    let status = refused(api.images.get(get(BUSYBOX)).await, Code::NotFound)?;
    ensure!(resource(&status).is_some_and(|(k, _)| k == "image"), "{status:?}");
    refused(api.images.delete(delete(BUSYBOX, false)).await, Code::NotFound)?;
    let left: Vec<_> = leak::tree(&world.root().join("content"))
        .into_iter()
        .filter(|p| p.components().count() > 1 && world.root().join("content").join(p).is_file())
        .collect();
    ensure!(left.is_empty(), "{empty} before, left: {left:?}");
    world.finish().await
}

#[tokio::test]
async fn a_forced_delete_keeps_what_runs() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.run(wharf_tests::api::sleeper()).await?;
    let delete = DeleteImageRequest { image: BUSYBOX.into(), force: true };
    api.images.delete(delete).await?;
    let exec = crate::exec::shell(&container.id, "ls /bin/busybox");
    ensure!(api.exec(exec, &[]).await?.out() == "/bin/busybox\n");
    refused(api.create(script("true")).await, Code::NotFound)?;
    api.remove(&container.id).await?;
    // And it comes back.
    let mut api = world.with_busybox().await?;
    ensure!(api.run_to_end(script("echo back")).await?.1.out() == "back\n");
    world.finish().await
}

#[tokio::test]
async fn a_corrupted_blob_is_named() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let built = image::busybox()?.build(BUSYBOX)?;
    let mut broken = built.clone();
    let layer = &mut broken.layers[1].blob;
    let middle = layer.bytes.len() / 2;
    layer.bytes[middle] ^= 0xff;
    let digest = layer.digest.clone();
    let status = refused(api.import(&broken.oci_tar()?, "").await, Code::DataLoss)?;
    let named = status.message().contains(&digest)
        || resource(&status).is_some_and(|(_, name)| name == digest);
    ensure!(named, "{digest}: {status:?}");
    refused(api.images.get(get(BUSYBOX)).await, Code::NotFound)?;
    nothing_half_done(&world).await?;
    // The sound one goes through afterwards.
    api.import(&built.oci_tar()?, "").await?;
    ensure!(api.run_to_end(script("echo ok")).await?.1.out() == "ok\n");
    world.finish().await
}

#[tokio::test]
async fn what_is_no_image_is_refused() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let archive = image::busybox()?.build(BUSYBOX)?.oci_tar()?;
    let mut empty = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    empty.append_data(&mut header, "hello", b"hello".as_slice())?;
    let other = empty.into_inner()?;
    for (what, bytes) in [
        ("nothing", &[][..]),
        ("noise", b"this is no archive at all, whatever one may think of it".as_slice()),
        ("another tar", &other),
        ("half an archive", &archive[..archive.len() / 2]),
    ] {
        let Err(status) = api.import(bytes, "").await else { anyhow::bail!("{what} went in") };
        let code = status.code();
        ensure!([Code::InvalidArgument, Code::DataLoss].contains(&code), "{what}: {status:?}");
    }
    ensure!(api.images.list(ListImagesRequest::default()).await?.into_inner().images.is_empty());
    nothing_half_done(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn a_hostile_layer_reaches_nothing_outside() -> Result<()> {
    let world = World::start().await?;
    let target = world.folder().join("target");
    fs::create_dir(&target)?;
    let outside = target.display().to_string();
    let climb = format!("../../../../../../../../../..{outside}/climbed");
    let hostile = [
        ("dots", Layer::default().file(&climb, 0o644, "x")),
        ("absolute", Layer::default().file(&format!("{outside}/absolute"), 0o644, "x")),
        ("link", Layer::default().symlink("out", &outside).file("out/through-a-link", 0o644, "x")),
        ("folder link", Layer::default().symlink("etc2", &outside).folder("etc2/made", 0o755)),
        (
            "hard link",
            Layer::default().hardlink("stolen", &format!("../../../../../../..{outside}/secret")),
        ),
        ("whiteout", Layer::default().symlink("out", &outside).whiteout("out/secret")),
    ];
    fs::write(target.join("secret"), "secret")?;
    let mut api = world.api()?;
    for (what, layer) in hostile {
        let recipe = Recipe {
            layers: vec![Layer::default().folder("bin", 0o755), layer],
            config: json!({"Cmd": ["/bin/true"]}),
            packing: Packing::Gzip,
        };
        let archive = recipe.build(&format!("{}:1", what.replace(' ', "-")))?.oci_tar()?;
        // It may be refused, or be kept inside; both are fine.
        let answer = api.import(&archive, "").await;
        if let Err(status) = answer {
            let code = status.code();
            ensure!([Code::InvalidArgument, Code::DataLoss].contains(&code), "{what}: {status:?}");
        }
        let now: Vec<_> = leak::tree(&target);
        ensure!(now.len() == 1 && now[0].ends_with("secret"), "{what}: {now:?}");
        ensure!(nix::sys::stat::stat(&target.join("secret"))?.st_nlink == 1, "{what}");
    }
    world.finish().await
}
