//! Images made of containers.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    CommitContainerRequest, ContainerState, ExportImageRequest, GetImageRequest, Image,
    ImageHistoryRequest,
};
use wharf_tests::{
    api::{Api, blamed_fields, script, sleeper, spec},
    image::{self, BUSYBOX, Layer},
    world::World,
};

use crate::refused;

async fn commit(api: &mut Api, request: CommitContainerRequest) -> Result<Image> {
    let answer = api.containers.commit(request).await?.into_inner();
    answer.image.context("no image")
}

fn of(container: &str, name: &str) -> CommitContainerRequest {
    CommitContainerRequest { container: container.into(), name: name.into(), ..Default::default() }
}

/// What a shell in a new container of the image prints.
async fn look(api: &mut Api, image: &str, text: &str) -> Result<String> {
    let mut look = script(text);
    look.image = image.into();
    let (container, outcome) = api.run_to_end(look).await?;
    api.remove(&container.id).await?;
    Ok(outcome.out() + &outcome.err())
}

#[tokio::test]
async fn a_running_containers_changes_become_a_layer() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let mut recipe = image::busybox()?;
    recipe.layers.push(
        Layer::default()
            .folder("data", 0o755)
            .file("data/gone", 0o644, "1")
            .file("data/kept", 0o644, "2")
            .folder("again", 0o755)
            .file("again/old", 0o644, "3")
            .file("to-link", 0o644, "4"),
    );
    api.import(&recipe.build("base:1")?.oci_tar()?, "").await?;
    let mut wanted = sleeper();
    wanted.image = "base:1".into();
    let container = api.run(wanted).await?;
    let change = crate::exec::shell(
        &container.id,
        "rm /data/gone && echo more >> /data/kept && chown 1000:50 /data/kept && chmod 4711 \
         /data/kept && rm -r /again && mkdir /again && echo new > /again/new && rm /to-link && ln \
         -s data/kept /to-link && ln /data/kept /data/second && mkfifo /fifo && mkdir -p \
         /deep/er && touch /deep/er/file",
    );
    ensure!(api.exec(change, &[]).await?.code() == 0);
    let request = CommitContainerRequest {
        message: "a word".into(),
        author: "someone".into(),
        changes: vec!["ENV ADDED=\"yes, it is\"".into(), "LABEL made=here".into()],
        ..of(&container.id, "made:1")
    };
    let made = commit(&mut api, request).await?;
    ensure!(made.names == ["docker.io/library/made:1"], "{made:?}");
    ensure!(api.state(&container.id).await? == ContainerState::Running);
    // It goes on as if nothing had been.
    let exec = crate::exec::shell(&container.id, "echo alive");
    ensure!(api.exec(exec, &[]).await?.out() == "alive\n");

    let seen = look(
        &mut api,
        "made:1",
        "ls /data /again; cat /data/kept; readlink /to-link; stat -c '%a %u %g %h' /data/second; \
         test -p /fifo && ls /deep/er; echo $ADDED $FROM_IMAGE",
    )
    .await?;
    let expected = "/again:\nnew\n\n/data:\nkept\nsecond\n2more\ndata/kept\n4711 1000 50 2\nfile\n\
                    yes, it is yes\n";
    // `ls` sorts its arguments or not; busybox does.
    ensure!(seen == expected, "{seen}");

    let steps = api.images.history(ImageHistoryRequest { image: "made:1".into() }).await?;
    let steps = steps.into_inner();
    ensure!(steps.id == made.id && steps.steps.len() == 4, "{steps:?}");
    let newest = &steps.steps[0];
    ensure!(newest.comment == "a word" && newest.author == "someone", "{newest:?}");
    ensure!(newest.created_by.starts_with("sh -c trap") && newest.size_bytes > 0, "{newest:?}");
    let got = api.images.get(GetImageRequest { image: "made:1".into() }).await?.into_inner();
    let config: serde_json::Value = serde_json::from_str(&got.config_json)?;
    ensure!(config["config"]["Labels"]["made"] == "here", "{config}");
    ensure!(config["config"]["Labels"]["org.wharf.test"] == "busybox", "{config}");
    ensure!(config["config"]["Cmd"][0] == "sh", "{config}");
    world.finish().await
}

#[tokio::test]
async fn only_what_changed_is_in_the_layer() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let (container, outcome) =
        api.run_to_end(script("echo x > /home/bob/new; rm /etc/group; mkdir /empty")).await?;
    ensure!(outcome.code() == 0, "{outcome:?}");
    commit(&mut api, of(&container.id, "stopped:1")).await?;
    let archive = export(&mut api, "stopped:1").await?;
    let names = newest_layer(&archive)?;
    let expected = ["./", "empty/", "etc/", "etc/.wh.group", "home/", "home/bob/", "home/bob/new"];
    ensure!(names == expected, "{names:?}");
    ensure!(look(&mut api, "stopped:1", "cat /home/bob/new").await? == "x\n");

    // And the whole image is one that others take: here, a second supervisor.
    let other = World::start().await?;
    let mut there = other.api()?;
    let images = there.import(&archive, "").await?;
    let id = api.images.get(GetImageRequest { image: "stopped:1".into() }).await?.into_inner();
    ensure!(images[0].id == id.image.context("no image")?.id);
    ensure!(look(&mut there, "stopped:1", "cat /home/bob/new").await? == "x\n");
    other.finish().await?;
    world.finish().await
}

async fn export(api: &mut Api, name: &str) -> Result<Vec<u8>> {
    let request = ExportImageRequest { images: vec![name.into()], ..Default::default() };
    let mut answers = api.images.export(request).await?.into_inner();
    let mut archive = Vec::new();
    while let Some(piece) = answers.message().await? {
        archive.extend(piece.data);
    }
    Ok(archive)
}

/// Names in the last layer of the one image in an archive, as `docker load` reads it.
fn newest_layer(archive: &[u8]) -> Result<Vec<String>> {
    let file = |wanted: &str| -> Result<Vec<u8>> {
        for entry in tar::Archive::new(archive).entries()? {
            let mut entry = entry?;
            if entry.path()?.to_string_lossy() == wanted {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes)?;
                return Ok(bytes);
            }
        }
        anyhow::bail!("{wanted} is not in the archive")
    };
    let manifest: serde_json::Value = serde_json::from_slice(&file("manifest.json")?)?;
    let layers = manifest[0]["Layers"].as_array().context("no layers")?;
    let newest = layers.last().and_then(|l| l.as_str()).context("no layer")?;
    let bytes = file(newest)?;
    let mut layer = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
    let mut names = Vec::new();
    for entry in layer.entries()? {
        names.push(entry?.path()?.to_string_lossy().into_owned());
    }
    Ok(names)
}

#[tokio::test]
async fn without_a_change_there_is_no_layer() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.create(spec(["true"])).await?;
    let made = commit(&mut api, of(&container.id, "")).await?;
    let base = api.images.get(GetImageRequest { image: BUSYBOX.into() }).await?.into_inner();
    let base = base.image.context("no image")?;
    ensure!(made.names.is_empty() && made.chain_id == base.chain_id, "{made:?}");
    ensure!(made.id != base.id, "{made:?}");
    // By its id, and with the command it was made with.
    let run = wharf_proto::v1::ContainerSpec { image: made.id.clone(), ..Default::default() };
    let (_, outcome) = api.run_to_end(run).await?;
    ensure!(outcome.code() == 0, "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn what_can_not_be_committed() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.create(spec(["true"])).await?;
    let bad = CommitContainerRequest { changes: vec!["RUN x".into()], ..of(&container.id, "a:1") };
    let status = refused(api.containers.commit(bad).await, Code::InvalidArgument)?;
    ensure!(blamed_fields(&status) == ["changes"], "{status:?}");
    refused(api.containers.commit(of(&container.id, "NO NAME")).await, Code::InvalidArgument)?;
    refused(api.containers.commit(of("nobody", "a:1")).await, Code::NotFound)?;
    refused(api.images.get(GetImageRequest { image: "a:1".into() }).await, Code::NotFound)?;
    crate::images::nothing_half_done(&world).await?;
    world.finish().await
}

#[tokio::test]
async fn by_the_command_line() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let run = |args: &[&str]| -> Result<String> {
        let output = world.cli(args)?.output()?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    run(&["run", "--name", "greeter", BUSYBOX, "sh", "-c", "echo hi > /greeting"])?;
    let id = run(&[
        "commit",
        "-m",
        "greets",
        "-c",
        "CMD [\"cat\", \"/greeting\"]",
        "greeter",
        "greet:1",
    ])?;
    ensure!(id.starts_with("sha256:"), "{id}");
    ensure!(run(&["run", "--rm", "greet:1"])? == "hi\n");
    let history = run(&["history", "greet:1"])?;
    ensure!(history.contains("greets") && history.contains("<missing>"), "{history}");
    let comment = run(&["image", "inspect", "-f", "{{.Comment}}", "greet:1"])?;
    ensure!(comment == "greets\n", "{comment}");
    api.delete_all().await?;
    world.finish().await
}
