//! Paused, resumed, restarted.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    Container, ContainerState, ExecStart, KillContainerRequest, PauseContainerRequest,
    RestartContainerRequest, ResumeContainerRequest, StopContainerRequest, UpdateContainerRequest,
};
use wharf_tests::{
    api::{Api, script, sleeper, state_in_the_way},
    wait,
    world::World,
};

use crate::refused;

async fn pause(api: &mut Api, id: &str) -> Result<Container, tonic::Status> {
    let request = PauseContainerRequest { container: id.into() };
    let answer = api.containers.pause(request).await?.into_inner();
    answer.container.ok_or_else(|| tonic::Status::internal("no container"))
}

async fn resume(api: &mut Api, id: &str) -> Result<Container, tonic::Status> {
    let request = ResumeContainerRequest { container: id.into() };
    let answer = api.containers.resume(request).await?.into_inner();
    answer.container.ok_or_else(|| tonic::Status::internal("no container"))
}

/// Lines of its log.
async fn lines(api: &mut Api, id: &str) -> Result<usize> {
    Ok(api.logs(id).await?.out().lines().count())
}

#[tokio::test]
async fn a_frozen_container_does_nothing_until_it_is_resumed() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(script("while :; do echo x; usleep 1000; done")).await?.id;
    wait::until("output", || {
        let mut api = api.clone();
        let id = id.clone();
        async move { Ok((lines(&mut api, &id).await? > 3).then_some(())) }
    })
    .await?;
    let paused = pause(&mut api, &id).await?;
    ensure!(paused.state() == ContainerState::Paused, "{paused:?}");
    let pid = paused.incarnation.context("no incarnation")?.pid;
    // A goal that is reached already succeeds.
    pause(&mut api, &id).await?;
    // What was in the pipe arrives; then there is no more.
    let mut before = lines(&mut api, &id).await?;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let now = lines(&mut api, &id).await?;
        if now == before {
            break;
        }
        before = now;
    }

    let exec = ExecStart { container: id.clone(), args: vec!["true".into()], ..Default::default() };
    let status = api.exec(exec, b"").await.expect_err("no exec into a frozen container");
    let status = status.downcast::<tonic::Status>()?;
    ensure!(state_in_the_way(&status).as_deref() == Some("paused"), "{status:?}");

    // The next supervisor sees it as it is.
    world.kill9()?;
    world.restart().await?;
    api = world.api()?;
    ensure!(api.state(&id).await? == ContainerState::Paused);
    ensure!(lines(&mut api, &id).await? == before, "a frozen container wrote");
    let resumed = resume(&mut api, &id).await?;
    ensure!(resumed.state() == ContainerState::Running, "{resumed:?}");
    ensure!(resumed.incarnation.is_some_and(|i| i.pid == pid), "another process");
    wait::until("more output", || {
        let mut api = api.clone();
        let id = id.clone();
        async move { Ok((lines(&mut api, &id).await? > before).then_some(())) }
    })
    .await?;
    resume(&mut api, &id).await?;
    api.remove(&id).await?;
    world.finish().await
}

#[tokio::test]
async fn a_frozen_container_can_be_stopped_killed_and_removed() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    // By its stop signal, which it has to see.
    let id = api.run_sleeper().await?.id;
    pause(&mut api, &id).await?;
    let stop = StopContainerRequest {
        container: id.clone(),
        timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        signal: String::new(),
    };
    let stopped = api.containers.stop(stop).await?.into_inner().container.context("none")?;
    let exit = stopped.incarnation.and_then(|i| i.exit).context("no exit")?;
    ensure!(exit.exit_code == 0, "{exit:?}");
    // Nothing to freeze.
    let status = refused(pause(&mut api, &id).await, Code::FailedPrecondition)?;
    ensure!(state_in_the_way(&status).as_deref() == Some("stopped"), "{status:?}");

    api.start(&id).await?;
    pause(&mut api, &id).await?;
    let kill = KillContainerRequest { container: id.clone(), signal: "KILL".into() };
    api.containers.kill(kill).await?;
    ensure!(api.wait(&id).await?.signal == 9);

    api.start(&id).await?;
    pause(&mut api, &id).await?;
    api.remove(&id).await?;
    world.finish().await
}

#[tokio::test]
async fn restart_is_a_new_start_of_the_same_container() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    // It would remove itself if it stopped for good.
    let spec = wharf_proto::v1::ContainerSpec {
        auto_remove: true,
        stop_signal: "KILL".into(),
        ..sleeper()
    };
    let first = api.run(spec).await?;
    let id = first.id.clone();
    for round in 2..5 {
        let request = RestartContainerRequest {
            container: id.clone(),
            timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            signal: String::new(),
        };
        let restarted = api.containers.restart(request).await?.into_inner();
        let restarted = restarted.container.context("no container")?;
        let incarnation = restarted.incarnation.clone().context("no incarnation")?;
        ensure!(incarnation.number == round, "{restarted:?}");
        ensure!(restarted.state() == ContainerState::Running, "{restarted:?}");
    }
    api.remove(&id).await?;
    world.finish().await
}

#[tokio::test]
async fn limits_change_while_it_runs() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.run(sleeper()).await?;
    let pid = container.incarnation.clone().context("no incarnation")?.pid;
    let request = UpdateContainerRequest {
        container: container.id.clone(),
        resources: Some(wharf_proto::v1::Resources {
            memory_bytes: Some(64 << 20),
            memory_reservation_bytes: Some(32 << 20),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0".into()),
            pids_limit: Some(77),
            ..Default::default()
        }),
        ..Default::default()
    };
    let updated = api.containers.update(request).await?.into_inner().container.context("none")?;
    let limits = updated.spec.and_then(|spec| spec.resources).context("no limits")?;
    ensure!(limits.cpu_quota == Some(50_000) && limits.pids_limit == Some(77), "{limits:?}");
    // The kernel's own word.
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let of = |controller: &str, v1: &str, v2: &str| -> Result<String> {
        let line = groups
            .lines()
            .find(|l| l.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == controller)));
        let path = match line {
            Some(line) => {
                let mut fields = line.splitn(3, ':').skip(1);
                let hierarchy = fields.next().context("no hierarchy")?;
                let path = fields.next().context("no path")?;
                format!("/sys/fs/cgroup/{hierarchy}{path}/{v1}")
            }
            None => {
                let path =
                    groups.lines().find_map(|l| l.strip_prefix("0::")).context("no group")?;
                format!("/sys/fs/cgroup{path}/{v2}")
            }
        };
        Ok(fs::read_to_string(&path).with_context(|| path)?.trim().to_owned())
    };
    ensure!(of("memory", "memory.limit_in_bytes", "memory.max")? == (64 << 20).to_string());
    ensure!(of("memory", "memory.soft_limit_in_bytes", "memory.low")? == (32 << 20).to_string());
    ensure!(of("pids", "pids.max", "pids.max")? == "77");
    ensure!(of("cpuset", "cpuset.cpus", "cpuset.cpus")? == "0");
    ensure!(of("cpu", "cpu.cfs_quota_us", "cpu.max")?.starts_with("50000"));
    api.remove(&container.id).await?;
    world.finish().await
}
