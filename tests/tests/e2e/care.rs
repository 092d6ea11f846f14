//! Whatever happened to what it keeps, the supervisor starts, goes on with what runs, deletes nothing
//! and says what is wrong; and it can be put right.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tonic::Code;
use wharf_proto::v1::{
    ContainerState, CreateVolumeRequest, ListImagesRequest, ListVolumesRequest, SubscribeRequest,
};
use wharf_tests::{
    api::{Api, reason, sleeper},
    image::BUSYBOX,
    wait::{self, soon},
    world::World,
};

use crate::{exec::shell, refused};

/// The command line, on a thread of its own.
async fn cli(world: &World, args: &[&str]) -> Result<Output> {
    let mut command = world.cli(args)?;
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// What `system doctor` finds.
async fn doctor(world: &World, more: &[&str]) -> Result<Vec<Value>> {
    let args = [&["system", "doctor", "--format", "json"], more].concat();
    let output = cli(world, &args).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let bad = rows.iter().filter(|row| row["State"] != "repaired").count();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(i32::from(bad > 0)), "{output:?} {error}");
    Ok(rows)
}

fn kinds(rows: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<_> = rows.iter().filter_map(|row| row["Kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds
}

/// The program itself with more flags, and the daemon not running or another one.
async fn wharfd(world: &World, args: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = world.daemon_command()?;
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

async fn pid(api: &mut Api, id: &str) -> Result<u32> {
    let container = api.get(id).await?;
    ensure!(container.state() == ContainerState::Running, "{container:?}");
    Ok(container.incarnation.context("no incarnation")?.pid)
}

async fn images(api: &mut Api) -> Result<Vec<wharf_proto::v1::Image>> {
    Ok(api.images.list(ListImagesRequest::default()).await?.into_inner().images)
}

fn damage(meta: &Path, how: &str) -> Result<()> {
    let db = meta.join("db");
    match how {
        "noise" => {
            let noise: Vec<u8> =
                (0..fs::metadata(&db)?.len()).map(|n| (n * 31 % 251) as u8).collect();
            fs::write(&db, noise)?;
        }
        "cut" => fs::write(&db, &fs::read(&db)?[..700])?,
        "half a copy" => {
            for entry in fs::read_dir(meta)? {
                let path = entry?.path();
                if path.is_dir() {
                    fs::remove_dir_all(path)?;
                } else if path != db {
                    fs::remove_file(path)?;
                }
            }
            fs::write(&db, vec![0; 100_000])?;
        }
        "another file" => {
            fs::remove_dir_all(meta)?;
            fs::write(meta, "what is this?")?;
        }
        other => anyhow::bail!("{other}"),
    }
    Ok(())
}

/// With no copy at all: what runs is found by its bundle, images by their content, volumes by their
/// folders.
async fn begins_anew(how: &str) -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let name = "kept".to_owned();
    api.volumes.create(CreateVolumeRequest { name: name.clone(), ..Default::default() }).await?;
    let mut spec = sleeper();
    spec.name = "runs".into();
    let runs = api.run(spec).await?;
    let before = pid(&mut api, &runs.id).await?;
    // How much there was is written down: what is cut off at a good place is found out by that.
    wait::until_now("it is marked", || Ok((marked(&world) >= 4).then_some(()))).await?;
    world.kill9()?;
    let meta = world.root().join("meta");
    damage(&meta, how)?;
    world.restart().await?;
    ensure!(world.daemon_log().contains("set aside"), "{}", world.daemon_log());

    wait::until("the container is found again", || {
        let mut api = api.clone();
        async move {
            let found = api.get("runs").await?;
            Ok((found.state() == ContainerState::Running).then_some(()))
        }
    })
    .await?;
    ensure!(pid(&mut api, "runs").await? == before, "another process");
    let found = api.get("runs").await?;
    ensure!(found.id == runs.id && found.spec == runs.spec, "{found:?}");
    let echoed = api.exec(shell(&runs.id, "echo it goes on"), b"").await?;
    ensure!(echoed.out() == "it goes on\n", "{echoed:?}");
    wait::until("the image is found again", || {
        let mut api = api.clone();
        async move {
            let found = images(&mut api).await?;
            Ok(found
                .iter()
                .any(|image| image.names.iter().any(|n| n.ends_with(BUSYBOX)))
                .then_some(()))
        }
    })
    .await?;
    let (other, outcome) = api.run_to_end(wharf_tests::api::script("echo new")).await?;
    ensure!(outcome.out() == "new\n", "{outcome:?}");
    api.remove(&other.id).await?;
    let volumes = api.volumes.list(ListVolumesRequest::default()).await?.into_inner().volumes;
    ensure!(volumes.iter().any(|volume| volume.name == name), "{volumes:?}");

    // It is told by the journal, and as long as nobody has looked.
    // By time: asked for a number of before, the journal says that it begins later.
    let request = SubscribeRequest {
        since: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        topics: vec!["system".into()],
        ..Default::default()
    };
    let mut events = api.events.subscribe(request).await?.into_inner();
    let event = soon("the event", events.message()).await?.context("no event")?;
    ensure!(event.topic == "system.set-aside" && event.id.starts_with("meta-"), "{event:?}");
    ensure!(event.sequence > 10_000, "a number was given twice: {event:?}");
    let found = doctor(&world, &[]).await?;
    ensure!(kinds(&found) == ["set-aside"], "{found:?}");
    ensure!(found[0]["What"].as_str().is_some_and(|what| Path::new(what).exists()), "{found:?}");
    world.kill9()?;
    world.restart().await?;
    ensure!(kinds(&doctor(&world, &[]).await?) == ["set-aside"]);
    let repaired = doctor(&world, &["--repair"]).await?;
    ensure!(repaired.len() == 1 && repaired[0]["State"] == "repaired", "{repaired:?}");
    ensure!(doctor(&world, &[]).await?.is_empty());
    let settled = fs::read_dir(world.root().join("set-aside/settled"))?.count();
    ensure!(settled == 2, "{settled}: the thing and why");

    // What it was made of stays while it runs, whatever the next start sweeps.
    world.kill9()?;
    world.restart().await?;
    let echoed = api.exec(shell(&runs.id, "ls /bin/busybox"), b"").await?;
    ensure!(echoed.code() == 0, "{echoed:?}");
    world.finish().await
}

#[tokio::test]
async fn noise_in_the_metadata() -> Result<()> {
    Box::pin(begins_anew("noise")).await
}

#[tokio::test]
async fn metadata_that_was_cut_off() -> Result<()> {
    Box::pin(begins_anew("cut")).await
}

#[tokio::test]
async fn half_a_copy_of_the_metadata() -> Result<()> {
    Box::pin(begins_anew("half a copy")).await
}

#[tokio::test]
async fn a_file_in_the_place_of_the_metadata() -> Result<()> {
    Box::pin(begins_anew("another file")).await
}

/// With a copy: what does not run is there too, and what has changed since is as it is now.
#[tokio::test]
async fn damaged_metadata_with_a_copy() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let named = |name: &str| wharf_proto::v1::ContainerSpec { name: name.into(), ..sleeper() };
    let idle = api.create(named("idle")).await?;
    let started_since = api.create(named("started-since")).await?;
    let ended_since = api.run(named("ended-since")).await?;
    let copy = world.root().join("meta.last.backup");
    let output = cli(&world, &["system", "backup", &copy.display().to_string()]).await?;
    ensure!(output.status.success(), "{output:?}");
    api.start(&started_since.id).await?;
    let before = pid(&mut api, &started_since.id).await?;
    api.remove(&ended_since.id).await?;
    let made_since = api.run(named("made-since")).await?;
    world.kill9()?;
    damage(&world.root().join("meta"), "noise")?;
    world.restart().await?;
    wait::until("all are as they are", || {
        let mut api = api.clone();
        async move {
            let mut states = Vec::new();
            for name in ["idle", "started-since", "ended-since", "made-since"] {
                states.push(api.get(name).await?.state());
            }
            use ContainerState::{Created, Running, Stopped};
            Ok((states == [Created, Running, Stopped, Running]).then_some(()))
        }
    })
    .await?;
    ensure!(pid(&mut api, "started-since").await? == before, "another process");
    ensure!(api.get("idle").await?.id == idle.id);
    ensure!(api.get("made-since").await?.id == made_since.id);
    api.start("idle").await?;
    world.finish().await
}

/// A store that has lost its end is found out by its last copy.
#[tokio::test]
async fn metadata_of_an_older_day() -> Result<()> {
    let mut world = World::with(wharf_tests::world::Options {
        config: "metadata_copy_seconds = 1\n".into(),
        ..Default::default()
    })
    .await?;
    let mut api = world.with_busybox().await?;
    api.create(sleeper()).await?;
    world.kill9()?;
    let meta = world.root().join("meta");
    let older = world.folder().join("older");
    copy_folder(&meta, &older)?;
    world.restart().await?;
    let kept = api.create(sleeper()).await?;
    let copy = world.root().join("meta.last.backup");
    wait::until_now("it is copied and marked", || {
        let copied = fs::read_to_string(&copy).is_ok_and(|text| text.contains(&kept.id));
        Ok((copied && marked(&world) >= 3).then_some(()))
    })
    .await?;
    world.kill9()?;
    fs::remove_dir_all(&meta)?;
    fs::rename(&older, &meta)?;
    world.restart().await?;
    let mut api = world.api()?;
    ensure!(api.get(&kept.id).await?.id == kept.id, "it is lost");
    ensure!(kinds(&doctor(&world, &[]).await?) == ["set-aside"]);
    world.finish().await
}

/// Number of the last event that is known to be on the disk.
fn marked(world: &World) -> u64 {
    let text = fs::read_to_string(world.root().join("meta.last.event")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_dir() {
            copy_folder(&path, &to.join(path.file_name().context("a name")?))?;
        } else {
            fs::copy(&path, to.join(path.file_name().context("a name")?))?;
        }
    }
    Ok(())
}

/// Changes lines of a backup, and its checksum with them.
fn rewrite(path: &Path, mut change: impl FnMut(&mut Value)) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let mut lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut tail = lines.pop().context("no tail")?;
    let mut out = String::new();
    let mut count = 0;
    for (number, mut line) in lines.into_iter().enumerate() {
        if number > 0 {
            change(&mut line);
            if line.is_null() {
                continue;
            }
            count += 1;
        }
        out += &format!("{line}\n");
    }
    tail["records"] = count.into();
    let hash = Sha256::digest(out.as_bytes());
    tail["sha256"] = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    fs::write(path, format!("{out}{tail}\n"))?;
    Ok(())
}

/// Stops the daemon, changes the metadata as `change` says, and goes on with it.
async fn change_metadata(world: &mut World, change: impl FnMut(&mut Value)) -> Result<()> {
    let file = world.folder().join("backup");
    let path = file.display().to_string();
    let output = cli(world, &["system", "backup", &path]).await?;
    ensure!(output.status.success(), "{output:?}");
    rewrite(&file, change)?;
    let (code, text) = wharfd(world, &["--restore", &path]).await?;
    ensure!(code == Some(1) && text.contains("is in use by the wharfd"), "{code:?} {text}");
    world.kill9()?;
    let (code, text) = wharfd(world, &["--restore", &path]).await?;
    ensure!(code == Some(1) && text.contains("move it away first"), "{code:?} {text}");
    fs::remove_dir_all(world.root().join("meta"))?;
    let (code, text) = wharfd(world, &["--restore", &path]).await?;
    ensure!(code == Some(0) && text.contains("records restored"), "{code:?} {text}");
    world.restart().await
}

/// Each record that can't be read is set aside; the rest serves.
#[tokio::test]
async fn damaged_records() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    api.volumes.create(CreateVolumeRequest { name: "gone".into(), ..Default::default() }).await?;
    let good = api.create(sleeper()).await?;
    let bad = api.create(sleeper()).await?;
    let runs = api.run(sleeper()).await?;
    let before = pid(&mut api, &runs.id).await?;
    let hex = |id: &str| id.bytes().map(|b| format!("{b:02x}")).collect::<String>();
    let (bad_key, runs_key) = (hex(&bad.id), hex(&runs.id));
    change_metadata(&mut world, |line| {
        let key = line["key"].as_str().unwrap_or_default().to_owned();
        match line["tree"].as_str() {
            Some("containers") if key == bad_key => line["value"] = "{\"half\":".into(),
            Some("containers") if key == runs_key => line["value"] = "{}".into(),
            Some("volumes" | "image_names") => line["value"] = "\u{0}".into(),
            Some("requests" | "events") => line["value"] = "[]".into(),
            _ => {}
        }
    })
    .await?;
    let mut api = world.api()?;
    ensure!(api.get(&good.id).await?.state() == ContainerState::Created);
    refused(api.get(&bad.id).await, Code::NotFound)?;
    // This one's bundle tells all.
    wait::until("what runs is found", || {
        let (mut api, id) = (api.clone(), runs.id.clone());
        async move {
            let found = api.get(&id).await?;
            Ok((found.state() == ContainerState::Running).then_some(()))
        }
    })
    .await?;
    ensure!(pid(&mut api, &runs.id).await? == before, "another process");
    let found = doctor(&world, &[]).await?;
    let set_aside: Vec<_> = found.iter().filter(|row| row["Kind"] == "set-aside").collect();
    ensure!(set_aside.len() == 4, "{found:#?}");
    // The bytes are as they were.
    let half = set_aside.iter().filter_map(|row| fs::read(row["What"].as_str()?).ok());
    ensure!(half.into_iter().any(|bytes| bytes == b"{\"half\":"), "{set_aside:?}");
    // Nothing is collected meanwhile: what is left might need it.
    let blobs = || wharf_tests::leak::tree(&world.root().join("content/blobs")).len();
    let count = blobs();
    let image = images(&mut api).await?.first().context("no image")?.id.clone();
    api.delete_all().await?;
    let message = wharf_proto::v1::DeleteImageRequest { image, force: true };
    api.images.delete(message).await?;
    ensure!(blobs() == count, "blobs were collected");
    doctor(&world, &["--repair"]).await?;
    ensure!(doctor(&world, &[]).await?.is_empty(), "{:?}", doctor(&world, &[]).await?);
    ensure!(blobs() < count, "blobs were not collected after the repair");
    world.finish().await
}

/// Files that are not Wharf's stay where they are until somebody says otherwise.
#[tokio::test]
async fn foreign_files() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.run_sleeper().await?;
    let (root, state) = (world.root(), world.state());
    let places: Vec<PathBuf> = vec![
        root.join("snapshots/overlay/c/somebody"),
        root.join("snapshots/overlay/l/else"),
        root.join("logs/mail.log"),
        root.join("content/blobs/sha256/notes.txt"),
        root.join("volumes/default/data"),
        state.join("c/lost+found"),
    ];
    for place in &places {
        fs::create_dir_all(place.parent().context("a parent")?)?;
        fs::write(place, "mine")?;
    }
    for _ in 0..2 {
        world.kill9()?;
        world.restart().await?;
    }
    for place in &places {
        ensure!(fs::read(place)? == b"mine", "{}", place.display());
    }
    let found = doctor(&world, &[]).await?;
    ensure!(kinds(&found) == ["file"; 6], "{found:#?}");
    let repaired = doctor(&world, &["--repair"]).await?;
    ensure!(repaired.iter().all(|row| row["State"] == "repaired"), "{repaired:#?}");
    ensure!(places.iter().all(|place| !place.exists()));
    let settled = [root, state].map(|base| base.join("set-aside/settled"));
    let kept = settled
        .iter()
        .flat_map(|folder| wharf_tests::leak::tree(folder).into_iter().map(|p| folder.join(p)));
    ensure!(kept.filter(|path| fs::read(path).is_ok_and(|b| b == b"mine")).count() == 6);
    ensure!(doctor(&world, &[]).await?.is_empty());
    ensure!(api.get(&container.id).await?.state() == ContainerState::Running);
    world.finish().await
}

/// What is a container's no more is found, and taken away by a repair.
#[tokio::test]
async fn leftovers_of_a_container_that_nobody_knows() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let known = api.run_sleeper().await?;
    let unknown = api.run_sleeper().await?;
    // Its bundle does not tell who it is, and the metadata has never heard of it.
    fs::remove_file(world.state().join("c").join(&unknown.id[..12]).join("wharf.json"))?;
    let key: String = unknown.id.bytes().map(|b| format!("{b:02x}")).collect();
    change_metadata(&mut world, |line| {
        if line["tree"] == "containers" && line["key"] == key {
            *line = Value::Null;
        }
    })
    .await?;
    let mut api = world.api()?;
    refused(api.get(&unknown.id).await, Code::NotFound)?;
    let found = doctor(&world, &[]).await?;
    for kind in ["process", "cgroup", "file"] {
        ensure!(kinds(&found).contains(&kind), "{kind}: {found:#?}");
    }
    let ours = &known.id;
    ensure!(!found.iter().any(|row| row.to_string().contains(&ours[..12])), "{found:#?}");
    let repaired = doctor(&world, &["--repair"]).await?;
    ensure!(repaired.iter().all(|row| row["State"] == "repaired"), "{repaired:#?}");
    ensure!(doctor(&world, &[]).await?.is_empty());
    ensure!(api.get(&known.id).await?.state() == ContainerState::Running);
    world.finish().await
}

/// Offline: everything is read, every byte of every blob.
#[tokio::test]
async fn checked_with_the_daemon_stopped() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    api.create(sleeper()).await?;
    let (code, text) = wharfd(&world, &["--check"]).await?;
    ensure!(code == Some(1) && text.contains("is in use by the wharfd"), "{code:?} {text}");
    world.shutdown().await?;
    let (code, text) = wharfd(&world, &["--check"]).await?;
    ensure!(code == Some(0) && text.is_empty(), "{code:?} {text}");
    let blobs = world.root().join("content/blobs/sha256");
    let largest = |folder: &Path| -> Result<PathBuf> {
        let sizes = fs::read_dir(folder)?
            .flatten()
            .map(|e| (e.metadata().map_or(0, |m| m.len()), e.path()));
        Ok(sizes.max().context("no blob")?.1)
    };
    let blob = largest(&blobs)?;
    let whole = fs::read(&blob)?;
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&blob, flipped)?;
    let (code, text) = wharfd(&world, &["--check"]).await?;
    ensure!(
        code == Some(1) && text.contains(BUSYBOX) && text.contains("missing"),
        "{code:?} {text}"
    );
    fs::write(&blob, whole)?;
    damage(&world.root().join("meta"), "noise")?;
    let (code, text) = wharfd(&world, &["--check"]).await?;
    ensure!(code == Some(1) && text.contains("damaged"), "{code:?} {text}");
    ensure!(!world.root().join("set-aside").exists(), "a check changes nothing");
    let (code, text) = wharfd(&world, &["--check", "--repair"]).await?;
    ensure!(text.contains("repair\t"), "{code:?} {text}");
    world.restart().await?;
    world.finish().await
}

/// A small file system of its own for the root folder.
struct Small(PathBuf);

impl Small {
    fn mount(folder: &Path) -> Result<Self> {
        use nix::mount::{MsFlags, mount};
        fs::create_dir_all(folder)?;
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("size=96m"))?;
        Ok(Self(folder.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn fill(path: &Path) -> Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(path)?;
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    Ok(())
}

/// With not one byte free.
#[tokio::test]
async fn a_full_disk() -> Result<()> {
    let mut world = World::cold(Default::default())?;
    let small = Small::mount(&world.root())?;
    world.restart().await?;
    let mut api = world.with_busybox().await?;
    let stops = api.run_sleeper().await?;
    let dies = api.run_sleeper().await?;
    let idle = api.create(sleeper()).await?;
    let filler = world.root().join("filler");
    fill(&filler)?;
    // What was kept ahead is used up a little before new things are refused.
    let large = wharf_proto::v1::ContainerSpec {
        labels: [("large".to_owned(), "x".repeat(100 << 10))].into(),
        ..sleeper()
    };
    let mut refusal = None;
    for _ in 0..1000 {
        if let Err(status) = api.create(large.clone()).await {
            refusal = Some(status);
            break;
        }
    }
    let refusal = refusal.context("new things are never refused")?;
    ensure!(refusal.code() == Code::ResourceExhausted, "{refusal:?}");
    ensure!(reason(&refusal) == "DISK_FULL", "{refusal:?}");
    let stop = |id: &str| wharf_proto::v1::StopContainerRequest {
        container: id.into(),
        ..Default::default()
    };
    api.containers.stop(stop(&stops.id)).await?;
    api.remove(&stops.id).await?;
    ensure!(api.list().await?.iter().all(|container| container.id != stops.id));
    for _ in 0..3 {
        world.kill9()?;
        world.restart().await?;
    }
    api = world.api()?;
    ensure!(api.get(&dies.id).await?.state() == ContainerState::Running);
    let found = doctor(&world, &[]).await?;
    ensure!(kinds(&found).contains(&"space") && !kinds(&found).contains(&"set-aside"), "{found:?}");
    api.containers.stop(stop(&dies.id)).await?;
    for container in api.list().await? {
        if container.id != idle.id {
            api.remove(&container.id).await?;
        }
    }
    fs::remove_file(&filler)?;
    let (_, outcome) = api.run_to_end(wharf_tests::api::script("echo room")).await?;
    ensure!(outcome.out() == "room\n", "{outcome:?}");
    api.delete_all().await?;
    world.shutdown().await?;
    drop(small);
    world.finish().await
}
