//! What containers use, and which processes are in them.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    ContainerState, ContainerStats, ExecRequest, ExecStart, Process, ProcessesRequest, Resources,
    StatsRequest, exec_request,
};
use wharf_tests::{
    api::{Api, script, sleeper},
    wait::{self, soon},
    world::World,
};

use crate::refused;

async fn once(api: &mut Api, containers: &[&str]) -> Result<Vec<ContainerStats>> {
    let request = StatsRequest {
        containers: containers.iter().map(|name| (*name).to_owned()).collect(),
        interval: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }),
        ..Default::default()
    };
    let mut answers = api.containers.stats(request).await?.into_inner();
    let turn = soon("a turn", answers.message()).await?.context("no turn")?;
    ensure!(soon("the end", answers.message()).await?.is_none(), "asked once, answered twice");
    Ok(turn.stats)
}

#[tokio::test]
async fn figures_of_one_and_of_all() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let limits =
        Resources { memory_bytes: Some(64 << 20), pids_limit: Some(20), ..Default::default() };
    let mut busy = script("while :; do :; done");
    busy.name = "busy".into();
    busy.resources = Some(limits);
    api.run(busy).await?;
    let mut idle = sleeper();
    idle.name = "idle".into();
    api.run(idle).await?;
    let mut never = sleeper();
    never.name = "never".into();
    api.create(never).await?;

    let all = once(&mut api, &[]).await?;
    let names: Vec<_> = all.iter().map(|stats| stats.name.as_str()).collect();
    ensure!(names == ["busy", "idle"], "{names:?}");
    ensure!(all.iter().all(|stats| stats.error.is_empty()), "{all:?}");

    let stats = once(&mut api, &["never", "busy"]).await?;
    let [never, busy] = stats.as_slice() else { anyhow::bail!("{stats:?}") };
    ensure!(never.state() == ContainerState::Created && never.cpu_usage_ns == 0, "{never:?}");
    ensure!(busy.cpu_percent.is_some_and(|percent| percent > 0.0), "{busy:?}");
    ensure!(busy.cpu_usage_ns > 0 && busy.memory_usage_bytes > 0 && busy.pids >= 1, "{busy:?}");
    ensure!(busy.memory_limit_bytes == 64 << 20 && busy.pids_limit == 20, "{busy:?}");

    refused(
        api.containers
            .stats(StatsRequest { containers: vec!["no".into()], ..Default::default() })
            .await,
        Code::NotFound,
    )?;
    // Followed until the client leaves; the container that ends drops to nothing.
    let request = StatsRequest {
        containers: vec!["busy".into()],
        follow: true,
        interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
        no_rates: true,
    };
    let mut answers = api.containers.stats(request).await?.into_inner();
    let first = soon("a turn", answers.message()).await?.context("no turn")?;
    ensure!(first.stats[0].cpu_percent.is_none(), "a rate of nothing: {first:?}");
    let second = soon("a turn", answers.message()).await?.context("no turn")?;
    ensure!(second.stats[0].cpu_percent.is_some(), "{second:?}");
    api.remove("busy").await?;
    let mut empty = false;
    while !empty {
        let turn = soon("a turn", answers.message()).await?.context("no turn")?;
        empty = turn.stats.is_empty();
    }
    drop(answers);
    let table = world.cli(["stats", "--no-stream"])?.output()?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(table.starts_with("CONTAINER ID   NAME") && table.contains("idle"), "{table}");
    world.finish().await
}

async fn processes(api: &mut Api, id: &str) -> Result<Vec<Process>, tonic::Status> {
    let request = ProcessesRequest { container: id.into() };
    Ok(api.containers.processes(request).await?.into_inner().processes)
}

#[tokio::test]
async fn processes_as_the_host_sees_them() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script("sleep 1001 & sleep 1002 & wait");
    spec.user = "65534".into();
    let id = api.run(spec).await?.id;
    let exec = ExecStart {
        container: id.clone(),
        args: vec!["sleep".into(), "1003".into()],
        detach: true,
        ..Default::default()
    };
    let start = ExecRequest { kind: Some(exec_request::Kind::Start(exec)) };
    let mut answers = api.containers.exec(tokio_stream::iter([start])).await?.into_inner();
    while soon("the exec has started", answers.message()).await?.is_some() {}
    let found = wait::until("all of them", || {
        let mut api = api.clone();
        let id = id.clone();
        async move {
            let found = processes(&mut api, &id).await?;
            let has = |n: &str| found.iter().any(|p| p.command.len() == 2 && p.command[1] == n);
            Ok((has("1001") && has("1002") && has("1003")).then_some(found))
        }
    })
    .await?;
    ensure!(found.len() == 4, "{found:?}");
    let init = api.get(&id).await?.incarnation.context("no incarnation")?.pid;
    ensure!(found.iter().any(|p| p.pid == init && p.exec_id.is_empty()), "{found:?}");
    let children = found.iter().filter(|p| p.parent_pid == init).count();
    ensure!(children == 2, "{found:?}");
    ensure!(found.iter().all(|p| p.uid == 65534 && p.threads == 1), "{found:?}");
    let of_exec = found.iter().find(|p| p.command.get(1).is_some_and(|a| a == "1003"));
    ensure!(of_exec.is_some_and(|p| p.exec_id.len() == 32), "{found:?}");

    let table = world.cli(["top", &id, "-o", "pid,cmd"])?.output()?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(table.starts_with("PID") && table.contains("sleep 1003"), "{table}");
    api.remove(&id).await?;
    refused(processes(&mut api, &id).await, Code::NotFound)?;
    world.finish().await
}
