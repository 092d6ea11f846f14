//! Created, started, stopped, started again, deleted.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    ContainerState, KillContainerRequest, Resources, StopContainerRequest, UpdateContainerRequest,
    WaitContainerRequest,
};
use wharf_tests::{
    api::{script, sleeper, spec},
    leak, wait,
    world::World,
};

use crate::refused;

fn stop(id: &str, seconds: i64) -> StopContainerRequest {
    StopContainerRequest {
        container: id.into(),
        timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        signal: String::new(),
    }
}

#[tokio::test]
async fn life_cycle() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;

    let created = api.create(sleeper()).await?;
    ensure!(created.id.len() == 64, "{created:?}");
    ensure!(created.state() == ContainerState::Created, "{created:?}");
    ensure!(created.incarnation.is_none(), "{created:?}");
    let spec = created.spec.clone().context("no spec")?;
    ensure!(!spec.name.is_empty() && spec.hostname == created.id[..12], "{spec:?}");
    ensure!(created.command.first().is_some_and(|c| c == "sh"), "{created:?}");

    let started = api.start(&created.id).await?;
    let first = started.incarnation.context("no incarnation")?;
    ensure!(first.number == 1 && first.pid > 0 && first.exit.is_none(), "{first:?}");
    ensure!(Path::new(&format!("/proc/{}", first.pid)).exists(), "no process {}", first.pid);
    // A goal that is reached already succeeds.
    let again = api.start(&created.id).await?;
    ensure!(again.incarnation.is_some_and(|i| i.pid == first.pid), "started twice");

    // A SIGTERM before the trap is lost on a first process.
    wait::until_now("its trap", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", first.pid))?;
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:")).context("no SigCgt")?;
        Ok((u64::from_str_radix(caught.trim(), 16)? & (1 << 14) != 0).then_some(()))
    })
    .await?;
    let stopped = api.containers.stop(stop(&created.id, 20)).await?.into_inner().container;
    let stopped = stopped.context("no container")?;
    ensure!(stopped.state() == ContainerState::Stopped, "{stopped:?}");
    let ended = stopped.incarnation.context("no incarnation")?;
    let exit = ended.exit.context("no exit")?;
    ensure!(ended.pid == 0 && exit.exit_code == 0 && exit.reason == "exited", "{exit:?}");
    ensure!(exit.finished_at.is_some() && exit.signal == 0, "{exit:?}");
    ensure!(!Path::new(&format!("/proc/{}", first.pid)).exists(), "still there");

    let second = api.start(&created.id).await?.incarnation.context("no incarnation")?;
    ensure!(second.number == 2 && second.pid > 0, "{second:?}");
    let kill = KillContainerRequest { container: created.id.clone(), signal: String::new() };
    api.containers.kill(kill).await?;
    let exit = api.wait(&created.id).await?;
    ensure!(exit.exit_code == 137 && exit.signal == 9 && exit.reason == "signalled", "{exit:?}");
    ensure!(!exit.oom_killed, "{exit:?}");

    api.remove(&created.id).await?;
    refused(api.get(&created.id).await, Code::NotFound)?;
    world.finish().await
}

#[tokio::test]
async fn exit_codes_and_reasons() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    for (text, code, signal) in
        [("exit 0", 0, 0), ("exit 1", 1, 0), ("exit 255", 255, 0), ("kill -TERM $$; exit 3", 3, 0)]
    {
        let (_, outcome) = api.run_to_end(script(text)).await?;
        let exit = outcome.exit.context("no exit")?;
        ensure!((exit.exit_code, exit.signal) == (code, signal), "{text}: {exit:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn stop_kills_what_does_not_stop() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let deaf = api.run(script("trap '' TERM; echo deaf; while :; do sleep 0.1; done")).await?;
    wait::until("the trap is set", || {
        let (mut api, id) = (api.clone(), deaf.id.clone());
        async move { Ok(api.logs(&id).await?.out().contains("deaf").then_some(())) }
    })
    .await?;
    let stopped = api.containers.stop(stop(&deaf.id, 1)).await?.into_inner().container;
    let exit = stopped.and_then(|c| c.incarnation?.exit).context("no exit")?;
    ensure!(exit.exit_code == 137 && exit.signal == 9, "{exit:?}");
    world.finish().await
}

#[tokio::test]
async fn the_stop_signal_is_the_containers_own() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec =
        script("trap 'echo usr1; exit 9' USR1; echo up; while :; do sleep 1000 & wait; done");
    spec.stop_signal = "USR1".into();
    let container = api.run(spec).await?;
    wait::until("the trap is set", || {
        let (mut api, id) = (api.clone(), container.id.clone());
        async move { Ok(api.logs(&id).await?.out().contains("up").then_some(())) }
    })
    .await?;
    api.containers.stop(stop(&container.id, 20)).await?;
    let exit = api.wait(&container.id).await?;
    ensure!(exit.exit_code == 9, "{exit:?}");
    ensure!(api.logs(&container.id).await?.out() == "up\nusr1\n");
    world.finish().await
}

#[tokio::test]
async fn delete_leaves_nothing() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    // The database and its copy are not looked into: they keep what they like of what is gone.
    let files = |folder: &Path| -> Vec<_> {
        let of_database = |path: &Path| path.to_string_lossy().starts_with("meta");
        leak::tree(folder).into_iter().filter(|path| !of_database(path)).collect()
    };
    // The first container may make folders that stay.
    let (first, _) = api.run_to_end(script("echo once")).await?;
    api.remove(&first.id).await?;
    let before = [files(&world.root()), files(&world.state())].concat();
    let running = api.run(script("dd if=/dev/zero of=/big bs=1k count=64; sleep 1000")).await?;
    let stopped = api.run_to_end(script("mkdir -p /a/b; echo x > /a/b/c; echo said")).await?.0;
    let created = api.create(spec(["true"])).await?;
    let failed = api.run(spec(["/no/such/program"])).await;
    ensure!(failed.is_err());
    api.delete_all().await?;
    for id in [running.id, stopped.id, created.id] {
        refused(api.get(&id).await, Code::NotFound)?;
    }
    world.expect_only_daemon().await?;
    // Large trees are removed behind the answer.
    let more = || -> Vec<_> {
        let after = [files(&world.root()), files(&world.state())].concat();
        after.into_iter().filter(|path| !before.contains(path)).collect()
    };
    wait::until_now("files are removed", || Ok(more().is_empty().then_some(())))
        .await
        .with_context(|| format!("{:#?}", more()))?;
    world.finish().await
}

#[tokio::test]
async fn auto_remove_removes_at_the_end() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script("exit 5");
    spec.auto_remove = true;
    let container = api.create(spec).await?;
    // Asked for before the end, so that the exit is seen although the container is gone after it.
    let mut waiter = api.clone();
    let request = WaitContainerRequest { container: container.id.clone(), until_removed: true };
    api.start(&container.id).await?;
    match wait::soon("removed", waiter.containers.wait(request)).await {
        Ok(answer) => {
            let exit = answer.into_inner().exit.context("no exit")?;
            ensure!(exit.exit_code == 5, "{exit:?}");
        }
        // It was gone before the call came in.
        Err(error) => {
            let status: tonic::Status = error.downcast()?;
            ensure!(status.code() == Code::NotFound, "{status:?}");
        }
    }
    refused(api.get(&container.id).await, Code::NotFound)?;
    world.finish().await
}

#[tokio::test]
async fn limits_change_while_it_runs() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.run(sleeper()).await?;
    let request = UpdateContainerRequest {
        container: container.id.clone(),
        resources: Some(Resources {
            memory_bytes: Some(64 << 20),
            pids_limit: Some(77),
            nano_cpus: Some(250_000_000),
            ..Default::default()
        }),
        ..Default::default()
    };
    let updated = api.containers.update(request).await?.into_inner().container;
    let resources = updated.and_then(|c| c.spec?.resources).context("no resources")?;
    ensure!(resources.memory_bytes == Some(64 << 20), "{resources:?}");
    let read = |names: &[&str]| crate::limits::cgroup_value(&world, names);
    ensure!(read(&["memory.limit_in_bytes", "memory.max"])? == (64 << 20).to_string());
    ensure!(read(&["pids.max"])? == "77");
    ensure!(["25000", "25000 100000"].contains(&read(&["cpu.cfs_quota_us", "cpu.max"])?.as_str()));
    world.finish().await
}

#[tokio::test]
async fn many_lives_leave_no_descriptor_open() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let daemon = world.daemon_pid()?;
    let count =
        || Ok::<_, std::io::Error>(std::fs::read_dir(format!("/proc/{daemon}/fd"))?.count());
    let mut life = async || -> Result<()> {
        let (container, _) = api.run_to_end(script("echo x")).await?;
        Ok(api.remove(&container.id).await?)
    };
    for _ in 0..3 {
        life().await?;
    }
    let before = count()?;
    for _ in 0..15 {
        life().await?;
    }
    wait::until_now("descriptors are closed", || Ok((count()? <= before + 2).then_some(())))
        .await
        .with_context(|| format!("{before} before, {:?} after", count()))?;
    world.finish().await
}

#[tokio::test]
async fn wait_answers_at_once_for_what_does_not_run() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let created = api.create(spec(["true"])).await?;
    let request = WaitContainerRequest { container: created.id.clone(), until_removed: false };
    let answer = wait::soon("an answer", api.containers.wait(request)).await?.into_inner();
    ensure!(answer.exit.is_none(), "{answer:?}");
    let slow = api.run(script("sleep 0.3; exit 4")).await?;
    let begin = std::time::Instant::now();
    ensure!(api.wait(&slow.id).await?.exit_code == 4);
    ensure!(begin.elapsed() < Duration::from_secs(20));
    world.finish().await
}
