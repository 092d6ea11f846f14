//! The supervisor may die at any moment: nothing that runs notices, nothing that happened is lost.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use wharf_proto::v1::{
    AttachStart, ContainerState, ExecStart, KillContainerRequest, Mount, SubscribeRequest,
    attach_start,
};
use wharf_tests::{
    api::{Api, script, sleeper},
    image,
    wait::{self, soon},
    world::World,
};

use crate::{
    exec::{Call, shell},
    no_gap,
    stdio::Session,
};

const ROUNDS: usize = 20;
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; usleep 2000; done";

fn attach_at(id: &str, cursor: &str) -> AttachStart {
    let from = match cursor {
        "" => attach_start::From::HistoryLines(-1),
        cursor => attach_start::From::Cursor(cursor.into()),
    };
    AttachStart {
        container: id.into(),
        stdin: false,
        stdout: true,
        stderr: true,
        from: Some(from),
        wait_for_start: false,
        ..Default::default()
    }
}

async fn pid_of(api: &mut Api, id: &str) -> Result<u32> {
    let container = api.get(id).await?;
    ensure!(container.state() == ContainerState::Running, "{container:?}");
    Ok(container.incarnation.context("no incarnation")?.pid)
}

async fn grown(path: &Path) -> Result<()> {
    let size = || fs::metadata(path).map(|m| m.len());
    let before = size()?;
    wait::until_now("the log grows", || Ok((size()? > before + 20).then_some(()))).await
}

#[tokio::test]
async fn twenty_kills_and_a_counter_without_a_gap() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.run(script(COUNTER)).await?;
    let id = container.id.clone();
    let log = Path::new(&container.log_path).to_owned();
    let pid = pid_of(&mut api, &id).await?;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    for round in 0..ROUNDS {
        let mut session = Session::open(&mut api, attach_at(&id, &cursor)).await?;
        let enough = seen.len() + 40;
        while seen.len() + session.seen.stdout.len() < enough {
            ensure!(soon("output", session.step()).await?, "round {round}: the stream ended");
        }
        world.kill9()?;
        // What was on its way to the client still counts: the cursor says where it ends.
        session.finish().await?;
        ensure!(session.seen.exit.is_none(), "{:?}", session.seen);
        seen.extend(&session.seen.stdout);
        cursor = session.cursor.clone();
        grown(&log)
            .await
            .with_context(|| format!("round {round}, while the supervisor is away"))?;
        world.restart().await.with_context(|| format!("round {round}"))?;
        api = world.api()?;
        ensure!(pid_of(&mut api, &id).await? == pid, "round {round}: another pid");
    }
    let mut session = Session::open(&mut api, attach_at(&id, &cursor)).await?;
    let kill = KillContainerRequest { container: id.clone(), signal: "KILL".into() };
    api.containers.kill(kill).await?;
    session.finish().await?;
    ensure!(session.seen.code() == 137, "{:?}", session.seen.exit);
    seen.extend(&session.seen.stdout);
    let attached = String::from_utf8(seen)?;
    let logged = api.logs(&id).await?.out();
    ensure!(no_gap(&attached)? > 0);
    ensure!(attached == logged, "{} bytes attached, {} logged", attached.len(), logged.len());
    world.finish().await
}

/// A folder of the host in the container, for signals that need no supervisor.
fn with_folder(text: &str, folder: &Path) -> Result<wharf_proto::v1::ContainerSpec> {
    fs::create_dir_all(folder)?;
    let mut spec = script(text);
    spec.mounts = vec![Mount {
        r#type: "bind".into(),
        source: folder.display().to_string(),
        target: "/t".into(),
        ..Default::default()
    }];
    Ok(spec)
}

async fn gone(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/root");
    wait::until_now("the process ends", || Ok(fs::read_link(&path).is_err().then_some(()))).await
}

#[tokio::test]
async fn exits_while_it_was_away_are_told() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let folder = world.folder().join("t");
    let text = "while [ ! -e /t/go ]; do usleep 5000; done; echo late; exit 7";
    let exits = api.run(with_folder(text, &folder)?).await?;
    let killed = api.run(sleeper()).await?;
    let mut removed = with_folder(text, &folder)?;
    removed.auto_remove = true;
    let removed = api.run(removed).await?;
    let last_seen = last_sequence(&mut api).await?;
    let mut pids = Vec::new();
    for id in [&exits.id, &killed.id, &removed.id] {
        pids.push(pid_of(&mut api, id).await?);
    }
    world.kill9()?;
    fs::write(folder.join("go"), "")?;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(pids[1])?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    for pid in pids {
        gone(pid).await?;
    }
    // Exits must carry their own time, not that of the restart.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let restarted = std::time::SystemTime::now();
    world.restart().await?;
    let mut api = world.api()?;
    for (id, code, signal) in [(&exits.id, 7, 0), (&killed.id, 137, 9)] {
        let exit = api.wait(id).await?;
        ensure!((exit.exit_code, exit.signal) == (code, signal), "{exit:?}");
        let finished = std::time::SystemTime::try_from(exit.finished_at.context("no time")?)?;
        ensure!(finished + Duration::from_secs(1) < restarted, "{finished:?} {restarted:?}");
        ensure!(api.state(id).await? == ContainerState::Stopped);
    }
    ensure!(api.logs(&exits.id).await?.out() == "late\n");
    wait::until("the one to be removed is", || {
        let (mut api, id) = (api.clone(), removed.id.clone());
        async move { Ok(api.get(&id).await.is_err().then_some(())) }
    })
    .await?;
    // The events of the time away are in the journal.
    let request = SubscribeRequest {
        from_sequence: last_seen + 1,
        topics: vec!["container.exit".into()],
        ..Default::default()
    };
    let mut events = api.events.subscribe(request).await?.into_inner();
    let mut told = Vec::new();
    while told.len() < 3 {
        let event = soon("an event", events.message()).await?.context("the stream ended")?;
        told.push((event.id, event.attributes.get("exitCode").cloned().unwrap_or_default()));
    }
    told.sort();
    let mut expected =
        vec![(exits.id, "7".into()), (killed.id, "137".into()), (removed.id, "7".into())];
    expected.sort();
    ensure!(told == expected, "{told:?}");
    world.finish().await
}

async fn last_sequence(api: &mut Api) -> Result<u64> {
    let now = prost_types::Timestamp::from(std::time::SystemTime::now());
    let request = SubscribeRequest { from_sequence: 1, until: Some(now), ..Default::default() };
    let mut events = api.events.subscribe(request).await?.into_inner();
    let mut last = 0;
    while let Some(event) = soon("an event", events.message()).await? {
        last = event.sequence;
    }
    Ok(last)
}

#[tokio::test]
async fn stdin_stays_open() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script("while read x; do echo got $x; done; echo end");
    spec.open_stdin = true;
    let id = api.run(spec).await?.id;
    let mut cursor = String::new();
    for word in ["one", "two", "three"] {
        let start = AttachStart { stdin: true, ..attach_at(&id, &cursor) };
        let mut session = Session::open(&mut api, start).await?;
        session.type_in(&format!("{word}\n")).await?;
        session.until_out(&format!("got {word}\n")).await?;
        ensure!(session.seen.out() == format!("got {word}\n"), "{:?}", session.seen);
        cursor = session.cursor.clone();
        world.kill9()?;
        world.restart().await?;
        api = world.api()?;
    }
    let start = AttachStart { stdin: true, ..attach_at(&id, &cursor) };
    let mut session = Session::open(&mut api, start).await?;
    let close = wharf_proto::v1::attach_request::Kind::CloseStdin(Default::default());
    session.send(close).await?;
    session.finish().await?;
    ensure!(session.seen.out() == "end\n" && session.seen.code() == 0, "{:?}", session.seen);
    world.finish().await
}

#[tokio::test]
async fn an_exec_goes_on_at_its_cursor() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let text = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; usleep 2000; done; \
                read x; echo $x; exit 5";
    let start = ExecStart { open_stdin: true, ..shell(&id, text) };
    let mut call = Call::open(&mut api, start).await?;
    let exec_id = call.started.exec_id.clone();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let enough = call.out.len() + 30;
        while call.out.len() < enough {
            ensure!(soon("output", call.step()).await?, "the call ended");
        }
        world.kill9()?;
        while soon("the end of the call", call.step()).await? {}
        ensure!(call.code.is_none());
        seen.extend(std::mem::take(&mut call.out));
        world.restart().await?;
        api = world.api()?;
        let resumed = ExecStart {
            container: id.clone(),
            exec_id: exec_id.clone(),
            cursor: call.cursor.clone(),
            ..Default::default()
        };
        let cursor = call.cursor.clone();
        call = Call::open(&mut api, resumed).await?;
        call.cursor = cursor;
    }
    call.type_in("401\n").await?;
    while soon("the end of the exec", call.step()).await? {}
    seen.extend(call.out);
    ensure!(no_gap(std::str::from_utf8(&seen)?)? == 401);
    ensure!(call.code == Some(5), "{:?}", call.code);
    world.finish().await
}

#[tokio::test]
async fn killed_in_the_middle_of_work() -> Result<()> {
    let mut world = World::start().await?;
    drop(world.with_busybox().await?);
    for round in 0..8_u64 {
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..4 {
            let mut api = world.api()?;
            callers.spawn(async move {
                let mut spec = sleeper();
                spec.name = format!("storm-{round}-{n}");
                let mut acknowledged = None;
                if let Ok(container) = api.run(spec).await {
                    acknowledged = Some(container.id.clone());
                    // Half of them are on their way out again when it dies.
                    if n % 2 == 0 && api.remove(&container.id).await.is_ok() {
                        acknowledged = None;
                    }
                }
                (n, acknowledged)
            });
        }
        // From the first instructions of a creation to the end of a start.
        tokio::time::sleep(Duration::from_millis(3 + round * 9)).await;
        world.kill9()?;
        let mut kept = Vec::new();
        while let Some(done) = callers.join_next().await {
            if let (n, Some(id)) = done?
                && n % 2 == 1
            {
                kept.push(id);
            }
        }
        world.restart().await.with_context(|| format!("round {round}"))?;
        let mut api = world.api()?;
        for id in kept {
            let state = api.state(&id).await;
            let state = state.with_context(|| format!("round {round}: {id} was acknowledged"))?;
            ensure!(state == ContainerState::Running, "round {round}: {id} is {state:?}");
        }
        for container in api.list().await? {
            ensure!(container.state() != ContainerState::Unknown, "{container:?}");
        }
        api.delete_all().await?;
        world.expect_only_daemon().await.with_context(|| format!("round {round}"))?;
    }
    world.finish().await
}

#[tokio::test]
async fn a_polite_end_leaves_containers_running() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(script(COUNTER)).await?.id;
    let pid = pid_of(&mut api, &id).await?;
    world.shutdown().await?;
    ensure!(Path::new(&format!("/proc/{pid}")).exists(), "the container ended with the supervisor");
    world.restart().await?;
    let mut api = world.api()?;
    ensure!(pid_of(&mut api, &id).await? == pid);
    world.finish().await
}

#[tokio::test]
async fn killed_in_the_middle_of_an_import() -> Result<()> {
    let mut world = World::start().await?;
    let mut recipe = image::busybox()?;
    // Large enough to be caught in all stages.
    let noise: Vec<u8> =
        (0..6_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    recipe.layers.push(image::Layer::default().file("noise", 0o644, noise));
    let built = recipe.build(image::BUSYBOX)?;
    let archive = std::sync::Arc::new(built.oci_tar()?);
    for round in 0..8_u64 {
        let import = tokio::spawn({
            let (mut api, archive) = (world.api()?, archive.clone());
            async move { api.import(&archive, "").await }
        });
        tokio::time::sleep(Duration::from_millis(5 + round * 25)).await;
        world.kill9()?;
        let acknowledged = import.await?.is_ok();
        world.restart().await.with_context(|| format!("round {round}"))?;
        let mut api = world.api()?;
        crate::images::nothing_half_done(&world).await?;
        let listed = api
            .images
            .list(wharf_proto::v1::ListImagesRequest::default())
            .await?
            .into_inner()
            .images;
        ensure!(!acknowledged || listed.len() == 1, "round {round}: lost an image");
        if !listed.is_empty() {
            // What is listed works.
            let (_, outcome) = api.run_to_end(script("wc -c < /noise")).await?;
            ensure!(outcome.out() == "6000000\n", "round {round}: {outcome:?}");
            api.delete_all().await?;
            let request =
                wharf_proto::v1::DeleteImageRequest { image: image::BUSYBOX.into(), force: false };
            api.images.delete(request).await?;
        }
    }
    let mut api = world.api()?;
    api.import(&archive, "").await?;
    let (_, outcome) = api.run_to_end(script("wc -c < /noise")).await?;
    ensure!(outcome.out() == "6000000\n", "{outcome:?}");
    world.finish().await
}
