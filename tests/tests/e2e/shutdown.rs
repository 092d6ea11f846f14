//! All containers ended in order, and started again by the next supervisor.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    Container, ContainerSpec, ContainerState, ShutdownRequest, SubscribeRequest,
};
use wharf_tests::{
    api::{Api, reason, script},
    wait::{self, soon},
    world::{Options, World},
};

use crate::refused;

/// A container that says "up" when it heeds its signals.
async fn up(api: &mut Api, name: &str, policy: &str, on_term: &str) -> Result<Container> {
    let text = format!("trap '{on_term}' TERM; echo up; while :; do sleep 1000 & wait; done");
    let spec = ContainerSpec { name: name.into(), restart: policy.into(), ..script(&text) };
    let spec = ContainerSpec { stop_timeout: Duration::from_secs(1).try_into().ok(), ..spec };
    let container = api.run(spec).await?;
    wait::until("it is up", || {
        let (mut api, id) = (api.clone(), container.id.clone());
        async move { Ok((!api.logs(&id).await?.out().is_empty()).then_some(())) }
    })
    .await?;
    Ok(container)
}

/// Names of the containers in the order of their ends.
async fn ends(api: &mut Api, count: usize) -> Result<Vec<(String, String)>> {
    let request = SubscribeRequest {
        from_sequence: 1,
        topics: vec!["container.exit".into()],
        ..SubscribeRequest::default()
    };
    let mut events = api.events.subscribe(request).await?.into_inner();
    let mut ends = Vec::new();
    while ends.len() < count {
        let event = soon("events", events.message()).await?.context("the stream ended")?;
        let value = |key: &str| event.attributes.get(key).cloned().unwrap_or_default();
        ends.push((value("name"), value("exitCode")));
    }
    Ok(ends)
}

async fn runs_again(api: &Api, id: &str) -> Result<Container> {
    wait::until("it runs again", || {
        let (mut api, id) = (api.clone(), id.to_owned());
        async move {
            let found = api.get(&id).await?;
            let again = found.incarnation.as_ref().is_some_and(|run| run.number == 2);
            Ok(Some(found).filter(|c| again && c.state() == ContainerState::Running))
        }
    })
    .await
}

#[tokio::test]
async fn the_newest_first_and_policies_bring_them_back() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let deaf = up(&mut api, "deaf", "no", "").await?;
    let db = up(&mut api, "db", "always", "exit 0").await?;
    let app = up(&mut api, "app", "unless-stopped", "exit 3").await?;
    let job = up(&mut api, "job", "no", "exit 0").await?;
    let request = ShutdownRequest { timeout: Duration::from_secs(60).try_into().ok() };
    let done = soon("all end", api.system.shutdown(request)).await?.into_inner();
    ensure!(done.stopped == ["job", "app", "db", "deaf"] && done.left.is_empty(), "{done:?}");
    let ends = ends(&mut api, 4).await?;
    let ends: Vec<_> = ends.iter().map(|(name, code)| (name.as_str(), code.as_str())).collect();
    ensure!(ends == [("job", "0"), ("app", "3"), ("db", "0"), ("deaf", "137")], "{ends:?}");
    // This one starts nothing any more, whoever asks.
    let status = refused(api.start(&job.id).await, Code::FailedPrecondition)?;
    ensure!(reason(&status) == "SHUTTING_DOWN", "{status:?}");
    let status = refused(api.run(script("true")).await, Code::FailedPrecondition)?;
    ensure!(reason(&status) == "SHUTTING_DOWN", "{status:?}");
    world.shutdown().await?;
    world.restart().await?;
    let mut api = world.api()?;
    for id in [&db.id, &app.id] {
        let again = runs_again(&api, id).await?;
        ensure!(again.restart_count == 0, "no crash of its own: {again:?}");
    }
    for id in [&deaf.id, &job.id] {
        let found = api.get(id).await?;
        ensure!(found.state() == ContainerState::Stopped && !found.restarting, "{found:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn a_daemon_that_is_told_to_takes_its_containers_along() -> Result<()> {
    let config = "on_stop = \"stop\"\nshutdown_timeout_seconds = 60".to_owned();
    let mut world = World::with(Options { config, ..Options::default() }).await?;
    let mut api = world.with_busybox().await?;
    let web = up(&mut api, "web", "always", "exit 0").await?;
    let job = up(&mut api, "job", "no", "exit 0").await?;
    world.shutdown().await?;
    for container in [&web, &job] {
        let pid = container.incarnation.as_ref().context("no incarnation")?.pid;
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is there");
    }
    world.restart().await?;
    let mut api = world.api()?;
    runs_again(&api, &web.id).await?;
    ensure!(api.state(&job.id).await? == ContainerState::Stopped);
    world.finish().await
}
