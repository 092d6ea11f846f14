//! Volumes: made, filled, shared, kept, taken away.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tonic::Code;
use wharf_proto::v1::{
    Container, ContainerSpec, CreateVolumeRequest, DeleteContainerRequest, DeleteVolumeRequest,
    GetVolumeRequest, ListVolumesRequest, Mount, PruneFilter, PruneVolumesRequest, Volume,
};
use wharf_tests::{
    api::{Api, script, sleeper, state_in_the_way},
    image::{self, BUSYBOX, Layer, Packing},
    world::World,
};

use crate::refused;

fn volume(source: &str, target: &str) -> Mount {
    Mount {
        r#type: "volume".into(),
        source: source.into(),
        target: target.into(),
        ..Default::default()
    }
}

fn with(mut spec: ContainerSpec, mounts: impl IntoIterator<Item = Mount>) -> ContainerSpec {
    spec.mounts.extend(mounts);
    spec
}

async fn says(api: &mut Api, spec: ContainerSpec) -> Result<String> {
    let (container, outcome) = api.run_to_end(spec).await?;
    api.remove(&container.id).await?;
    Ok(outcome.out() + &outcome.err())
}

async fn list(api: &mut Api) -> Result<Vec<Volume>> {
    Ok(api.volumes.list(ListVolumesRequest {}).await?.into_inner().volumes)
}

async fn delete(api: &mut Api, name: &str) -> Result<(), tonic::Status> {
    let request = DeleteVolumeRequest { volume: name.into() };
    api.volumes.delete(request).await.map(drop)
}

fn name_of(container: &Container, target: &str) -> Result<String> {
    let spec = container.spec.as_ref().context("no spec")?;
    let mount = spec.mounts.iter().find(|m| m.target == target).context("no such mount")?;
    Ok(mount.source.clone())
}

/// An image with `/data` (a volume of its config) and what else a test wants.
async fn with_data(world: &World, config: serde_json::Value, layer: Layer) -> Result<Api> {
    let mut api = world.api()?;
    let mut recipe = image::busybox()?;
    recipe.packing = Packing::Plain;
    recipe.layers.push(layer);
    recipe.config = config;
    api.import(&recipe.build(BUSYBOX)?.oci_tar()?, "").await?;
    Ok(api)
}

#[tokio::test]
async fn a_named_volume_outlives_its_containers() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let write = with(script("echo kept > /v/file"), [volume("data", "/v")]);
    ensure!(says(&mut api, write).await?.is_empty());
    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    let read = with(
        script("cat /v/file; echo x > /v/no"),
        [Mount { read_only: true, ..volume("data", "/v") }],
    );
    let said = says(&mut api, read).await?;
    ensure!(said.starts_with("kept\n") && said.contains("Read-only"), "{said}");
    let found = list(&mut api).await?;
    ensure!(found.len() == 1 && found[0].name == "data" && !found[0].anonymous, "{found:?}");
    ensure!(Path::new(&found[0].mountpoint).join("file").exists());

    let container = api.create(with(sleeper(), [volume("data", "/v")])).await?;
    let status = delete(&mut api, "data").await.err().context("it was removed")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    ensure!(state_in_the_way(&status).is_some_and(|s| s.contains("container")), "{status:?}");
    api.remove(&container.id).await?;
    delete(&mut api, "data").await?;
    refused(delete(&mut api, "data").await, Code::NotFound)?;
    ensure!(!Path::new(&found[0].mountpoint).exists());
    world.finish().await
}

#[tokio::test]
async fn an_images_volume_is_filled_from_the_image() -> Result<()> {
    let world = World::start().await?;
    let layer = Layer::default()
        .folder("data", 0o1750)
        .owned_by(1000, 50)
        .file("data/file", 0o4711, "of the image")
        .owned_by(1001, 100)
        .symlink("data/link", "file")
        .hardlink("data/hard", "data/file")
        .folder("data/sub", 0o700)
        .folder("empty", 0o711)
        .owned_by(7, 8);
    let config = json!({"Cmd": ["sh"], "Volumes": {"/data": {}}});
    let mut api = with_data(&world, config, layer).await?;
    let look = "stat -c '%n %a %u %g %h' /data /data/file /data/sub; readlink /data/link; \
                stat -c '%a %u %g' /other";
    let (container, outcome) =
        api.run_to_end(with(script(look), [volume("other", "/other")])).await?;
    let expected = "/data 1750 1000 50 3\n/data/file 4711 1001 100 2\n/data/sub 700 0 0 2\nfile\n\
                    755 0 0\n";
    ensure!(outcome.out() == expected, "{outcome:?}");
    let own = name_of(&container, "/data")?;
    let there = list(&mut api).await?;
    ensure!(there.iter().any(|v| v.name == own && v.anonymous), "{there:?}");

    // An empty folder gives its looks, a volume with something in it is left alone, nocopy too.
    let empty = with(
        script("stat -c '%a %u %g' /empty; ls /full /none"),
        [
            volume("empty", "/empty"),
            volume("full", "/full"),
            Mount { options: vec!["nocopy".into()], ..volume("none", "/none") },
        ],
    );
    ensure!(says(&mut api, empty).await? == "711 7 8\n/full:\n\n/none:\n");
    let write = with(script("echo mine > /v/file"), [volume("full", "/v")]);
    says(&mut api, write).await?;
    let again = with(
        script("ls /data; cat /data/file; ls /data2"),
        [
            volume("full", "/data"),
            Mount { options: vec!["nocopy".into()], ..volume("none", "/data2") },
        ],
    );
    ensure!(says(&mut api, again).await? == "file\nmine\n");

    // With the container goes what was only its own.
    let request =
        DeleteContainerRequest { container: container.id, volumes: true, ..Default::default() };
    api.containers.delete(request).await?;
    let left: Vec<String> = list(&mut api).await?.into_iter().map(|v| v.name).collect();
    ensure!(!left.contains(&own) && left.contains(&"other".to_owned()), "{left:?}");
    api.delete_all().await?;
    let all = PruneVolumesRequest { all: true, ..Default::default() };
    let gone = api.volumes.prune(all).await?.into_inner();
    ensure!(gone.deleted.len() == left.len() && gone.reclaimed_bytes > 0, "{gone:?} {left:?}");
    world.finish().await
}

#[tokio::test]
async fn a_hostile_images_volume_stays_inside() -> Result<()> {
    let world = World::start().await?;
    let outside = world.folder().join("target");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("secret"), "secret")?;
    let up = format!("../../../../../../..{}", outside.display());
    let layer = Layer::default()
        .symlink("absolute", &outside.display().to_string())
        .symlink("relative", &up)
        .folder("here", 0o755)
        .file("here/mine", 0o644, "mine")
        .symlink("inside", "/here");
    let config = json!({
        "Cmd": ["sh"],
        "Volumes": {"/absolute": {}, "/relative": {}, "/../../dots": {}, "/inside": {}},
    });
    let mut api = with_data(&world, config, layer).await?;
    // It may be refused, or be kept inside; what is outside is neither seen nor changed.
    let (container, outcome) =
        match api.run_to_end(script("ls -R /absolute /relative /dots /inside")).await {
            Ok(done) => done,
            Err(error) => {
                ensure!(!format!("{error:#}").contains("secret"), "{error:#}");
                api.delete_all().await?;
                prune(&mut api).await?;
                return world.finish().await;
            }
        };
    let said = outcome.out() + &outcome.err();
    ensure!(!said.contains("secret"), "{said}");
    let mine =
        Path::new(&mountpoint(&mut api, &name_of(&container, "/inside")?).await?).join("mine");
    ensure!(mine.exists(), "a link inside of the image is followed as it is there");
    ensure!(wharf_tests::leak::tree(&outside).len() == 1);
    api.delete_all().await?;
    prune(&mut api).await?;
    world.finish().await
}

async fn mountpoint(api: &mut Api, name: &str) -> Result<String> {
    let answer = api.volumes.get(GetVolumeRequest { volume: name.into() }).await?.into_inner();
    Ok(answer.volume.context("no volume")?.mountpoint)
}

async fn prune(api: &mut Api) -> Result<Vec<String>> {
    let request = PruneVolumesRequest { all: true, ..Default::default() };
    Ok(api.volumes.prune(request).await?.into_inner().deleted)
}

#[tokio::test]
async fn one_container_takes_anothers_volumes() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut first =
        with(script("echo 1 > /a/f; echo 2 > /b/f"), [volume("", "/a"), volume("bb", "/b")]);
    first.name = "first".into();
    api.run_to_end(first).await?;
    let mut second = script("cat /a/f /b/f; echo 3 > /a/f");
    second.volumes_from = vec!["first:ro".into()];
    let said = says(&mut api, second).await?;
    ensure!(said.starts_with("1\n2\n") && said.contains("Read-only"), "{said}");
    let mut own = with(script("ls /a; cat /b/f"), [volume("", "/a")]);
    own.volumes_from = vec!["first".into()];
    ensure!(says(&mut api, own).await? == "2\n");
    let mut nobody = script("true");
    nobody.volumes_from = vec!["nobody".into()];
    refused(
        api.containers.create(wharf_proto::v1::CreateContainerRequest { spec: Some(nobody) }).await,
        Code::InvalidArgument,
    )?;
    api.delete_all().await?;
    prune(&mut api).await?;
    world.finish().await
}

#[tokio::test]
async fn created_pruned_and_refused_by_the_api() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let create = |name: &str, label: Option<(&str, &str)>| CreateVolumeRequest {
        name: name.into(),
        labels: label.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    };
    for (name, label) in [("one", None), ("two", Some(("keep", "1"))), ("", None)] {
        api.volumes.create(create(name, label)).await?;
    }
    api.volumes.create(create("one", None)).await?;
    refused(api.volumes.create(create("one", Some(("a", "b")))).await, Code::AlreadyExists)?;
    refused(api.volumes.create(create("../x", None)).await, Code::InvalidArgument)?;
    let nfs = CreateVolumeRequest {
        options: [("type".to_owned(), "nfs".to_owned())].into(),
        ..create("nfs", None)
    };
    refused(api.volumes.create(nfs).await, Code::InvalidArgument)?;
    let anonymous = api.volumes.prune(PruneVolumesRequest::default()).await?.into_inner();
    ensure!(anonymous.deleted.len() == 1 && anonymous.deleted[0].len() == 64, "{anonymous:?}");
    let filter = PruneFilter { labels_not: vec!["keep".into()], ..Default::default() };
    let rest = PruneVolumesRequest { all: true, filter: Some(filter) };
    ensure!(api.volumes.prune(rest).await?.into_inner().deleted == ["one"]);
    ensure!(prune(&mut api).await? == ["two"]);
    ensure!(list(&mut api).await?.is_empty());
    world.finish().await
}

#[tokio::test]
async fn a_folder_that_is_no_volume_is_left_alone() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    says(&mut api, with(script("true"), [volume("real", "/v")])).await?;
    world.kill9()?;
    let volumes = world.root().join("volumes/default");
    // One that was on its way, and one that is somebody's own.
    std::fs::create_dir_all(volumes.join("unfinished/data"))?;
    std::fs::write(volumes.join("unfinished/pending"), "")?;
    std::fs::create_dir_all(volumes.join("foreign"))?;
    std::fs::write(volumes.join("foreign/precious"), "x")?;
    world.restart().await?;
    ensure!(!volumes.join("unfinished").exists());
    ensure!(volumes.join("foreign/precious").exists());
    ensure!(world.daemon_log().contains("no volume"), "{}", world.daemon_log());
    let mut api = world.api()?;
    let found = list(&mut api).await?;
    ensure!(found.len() == 1 && found[0].name == "real", "{found:?}");
    prune(&mut api).await?;
    std::fs::remove_dir_all(volumes.join("foreign"))?;
    world.finish().await
}

#[tokio::test]
async fn by_the_command_line() -> Result<()> {
    let world = World::start().await?;
    let _api = world.with_busybox().await?;
    let run = |args: &[&str]| -> Result<String> {
        let output = world.cli(args)?.output()?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(run(&["volume", "create", "data"])? == "data\n");
    run(&["run", "--rm", "-v", "data:/v", "-v", "/own", BUSYBOX, "sh", "-c", "echo a > /v/f"])?;
    let mount = "type=volume,src=data,dst=/w,readonly";
    ensure!(run(&["run", "--rm", "--mount", mount, BUSYBOX, "cat", "/w/f"])? == "a\n");
    // What was only the container's went with it.
    ensure!(run(&["volume", "ls", "-q"])? == "data\n");
    let point = run(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"])?;
    ensure!(Path::new(point.trim()).join("f").exists(), "{point}");
    let df = run(&["system", "df", "-v"])?;
    ensure!(df.contains("data") && df.contains("busybox"), "{df}");
    ensure!(run(&["volume", "rm", "data"])? == "data\n");
    let pruned = run(&["system", "prune", "-af", "--volumes"])?;
    ensure!(pruned.contains("untagged: busybox:test"), "{pruned}");
    ensure!(pruned.contains("Total reclaimed space: "), "{pruned}");
    world.finish().await
}
