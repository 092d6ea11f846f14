//! Health checks: asked, counted, shown and told as Docker does.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tonic::Code;
use wharf_proto::v1::{
    Container, ContainerFilter, ContainerSpec, ContainerState, ExecStart, Health, HealthCheck,
    ListContainersRequest, PauseContainerRequest, ResumeContainerRequest, SubscribeRequest,
};
use wharf_tests::{
    api::{Api, blamed_fields, sleeper, spec},
    image::{self, Packing},
    wait::{self, soon},
    world::World,
};

use crate::refused;

fn time(time: Duration) -> Option<prost_types::Duration> {
    time.try_into().ok()
}

/// A check by the shell, every 50 ms.
fn shell(text: &str) -> HealthCheck {
    HealthCheck {
        test: vec!["CMD-SHELL".into(), text.into()],
        interval: time(Duration::from_millis(50)),
        ..HealthCheck::default()
    }
}

fn checked(check: HealthCheck) -> ContainerSpec {
    ContainerSpec { health_check: Some(check), ..sleeper() }
}

fn health(container: &Container) -> Health {
    container.health.clone().unwrap_or_default()
}

async fn becomes(
    api: &Api,
    id: &str,
    what: &str,
    wanted: impl Fn(&Container) -> bool,
) -> Result<Container> {
    wait::until(what, || {
        let (mut api, id, wanted) = (api.clone(), id.to_owned(), &wanted);
        async move { Ok(Some(api.get(&id).await?).filter(wanted)) }
    })
    .await
}

async fn is(api: &Api, id: &str, status: &str) -> Result<Container> {
    becomes(api, id, &format!("it is {status}"), |c| health(c).status == status).await
}

async fn sh(api: &mut Api, id: &str, text: &str) -> Result<()> {
    let args = ["sh", "-c", text].map(str::to_owned).to_vec();
    let start = ExecStart { container: id.into(), args, ..ExecStart::default() };
    let done = api.exec(start, b"").await?;
    ensure!(done.code() == 0, "{text}: {done:?}");
    Ok(())
}

/// What was told of a container's health, up to `count`.
async fn told(api: &mut Api, id: &str, count: usize) -> Result<Vec<String>> {
    let request = SubscribeRequest {
        from_sequence: 1,
        topics: vec!["container.health_status".into()],
        container: id.into(),
        ..SubscribeRequest::default()
    };
    let mut events = api.events.subscribe(request).await?.into_inner();
    let mut told = Vec::new();
    while told.len() < count {
        let event = soon("events", events.message()).await?.context("the stream ended")?;
        told.push(event.attributes.get("healthStatus").cloned().unwrap_or_default());
    }
    Ok(told)
}

async fn listed(api: &mut Api, health: &str) -> Result<Vec<String>> {
    let filter = ContainerFilter { health: vec![health.into()], ..ContainerFilter::default() };
    let request = ListContainersRequest { filter: Some(filter), ..Default::default() };
    let answer = api.containers.list(request).await?.into_inner();
    Ok(answer.containers.into_iter().map(|c| c.id).collect())
}

#[tokio::test]
async fn from_starting_to_healthy_to_unhealthy_and_back() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let check = HealthCheck { retries: 2, ..shell("echo asked $(id -u); test -e /tmp/well") };
    let plain = api.run(sleeper()).await?;
    ensure!(plain.health.is_none(), "{plain:?}");
    let patient = HealthCheck { start_period: time(Duration::from_secs(3600)), ..check.clone() };
    let patient = HealthCheck { start_interval: check.interval, ..patient };
    let id = api.run(checked(patient)).await?.id;
    // Failures in the start period are seen and do not count.
    let found = becomes(&api, &id, "two failures", |c| health(c).log.len() >= 2).await?;
    let first = health(&found);
    ensure!((first.status.as_str(), first.failing_streak) == ("starting", 0), "{first:?}");
    ensure!(first.log[0].exit_code == 1 && first.log[0].output == "asked 0\n", "{first:?}");
    ensure!(listed(&mut api, "starting").await? == std::slice::from_ref(&id));
    ensure!(listed(&mut api, "none").await? == std::slice::from_ref(&plain.id));

    sh(&mut api, &id, "touch /tmp/well").await?;
    is(&api, &id, "healthy").await?;
    ensure!(listed(&mut api, "healthy").await? == std::slice::from_ref(&id));
    sh(&mut api, &id, "rm /tmp/well").await?;
    let ill = health(&is(&api, &id, "unhealthy").await?);
    ensure!(ill.failing_streak >= 2 && ill.log.len() <= 5, "{ill:?}");
    sh(&mut api, &id, "touch /tmp/well").await?;
    let well = health(&is(&api, &id, "healthy").await?);
    ensure!(well.failing_streak == 0, "{well:?}");
    ensure!(told(&mut api, &id, 3).await? == ["healthy", "unhealthy", "healthy"]);

    // What does not run is not healthy, and a start begins anew.
    api.remove(&plain.id).await?;
    let stop =
        wharf_proto::v1::StopContainerRequest { container: id.clone(), ..Default::default() };
    let stopped = api.containers.stop(stop).await?.into_inner().container.context("none")?;
    ensure!(health(&stopped).status == "unhealthy", "{stopped:?}");
    let started = api.start(&id).await?;
    ensure!(health(&started) == Health { status: "starting".into(), ..Health::default() });
    is(&api, &id, "healthy").await?;
    world.finish().await
}

#[tokio::test]
async fn no_probe_is_in_the_journal_or_left() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    // The shell and what it started are both in the way of the next.
    let slow = HealthCheck {
        timeout: time(Duration::from_millis(300)),
        retries: 1,
        ..shell("echo before; sleep 4711 & sleep 4711; true")
    };
    let id = api.run(checked(slow)).await?.id;
    let found = is(&api, &id, "unhealthy").await?;
    let probe = health(&found).log.first().cloned().context("no probe")?;
    ensure!(probe.exit_code == -1, "{probe:?}");
    ensure!(probe.output == "Health check exceeded timeout (300ms): before\n", "{probe:?}");
    // Not two of them at a time, though several have been killed.
    becomes(&api, &id, "four have been killed", |c| health(c).failing_streak >= 4).await?;
    let request = wharf_proto::v1::ProcessesRequest { container: id.clone() };
    let seen = api.containers.processes(request).await?.into_inner().processes;
    let sleeping = seen.iter().filter(|p| p.command.iter().any(|word| word == "4711")).count();
    ensure!(sleeping <= 2, "{seen:?}");
    // In the middle of one, most likely.
    world.kill9()?;
    world.restart().await?;
    api = world.api()?;
    let before = health(&api.get(&id).await?);
    ensure!(before.status == "unhealthy" && before.failing_streak >= 4, "{before:?}");
    becomes(&api, &id, "it goes on", |c| health(c).failing_streak > before.failing_streak).await?;

    let mut events = api
        .events
        .subscribe(SubscribeRequest { from_sequence: 1, ..Default::default() })
        .await?
        .into_inner();
    api.remove(&id).await?;
    loop {
        let event = soon("events", events.message()).await?.context("the stream ended")?;
        ensure!(!event.topic.starts_with("exec."), "{event:?}");
        if event.topic == "container.delete" {
            break;
        }
    }
    drop(events);
    world.finish().await
}

#[tokio::test]
async fn a_frozen_container_is_not_asked() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(checked(shell("true"))).await?.id;
    is(&api, &id, "healthy").await?;
    let pause = PauseContainerRequest { container: id.clone() };
    api.containers.pause(pause).await?;
    let paused = api.get(&id).await?;
    ensure!(paused.state() == ContainerState::Paused);
    // Many times the interval: a wrong probe would show, a slow machine does not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let later = api.get(&id).await?;
    ensure!(later.state() == ContainerState::Paused, "it was thawed: {later:?}");
    ensure!(health(&paused) == health(&later), "{later:?}");
    let resume = ResumeContainerRequest { container: id.clone() };
    api.containers.resume(resume).await?;
    let last = health(&later).log.pop().context("no probe")?;
    becomes(&api, &id, "it is asked again", |c| health(c).log.last() != Some(&last)).await?;
    world.finish().await
}

#[tokio::test]
async fn the_images_check_and_what_is_said_over_it() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let mut recipe = image::busybox()?;
    recipe.packing = Packing::Plain;
    recipe.config["Healthcheck"] = json!({
        "Test": ["CMD", "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; exit 3"],
        "Interval": 50_000_000, "Retries": 1,
    });
    let built = recipe.build("checked:1")?;
    api.import(&built.oci_tar()?, "").await?;
    let of = |check: Option<HealthCheck>| ContainerSpec {
        image: "checked:1".into(),
        health_check: check,
        ..sleeper()
    };
    let id = api.run(of(None)).await?.id;
    let ill = health(&is(&api, &id, "unhealthy").await?);
    let probe = ill.log.first().context("no probe")?;
    ensure!(probe.exit_code == 3, "{probe:?}");
    ensure!(probe.output == format!("{}...", "x".repeat(4096)), "{} bytes", probe.output.len());
    api.remove(&id).await?;

    let own = HealthCheck { test: vec!["CMD".into(), "true".into()], ..HealthCheck::default() };
    let container = api.run(of(Some(own))).await?;
    let said = container.spec.and_then(|spec| spec.health_check).context("no check")?;
    ensure!(said.retries == 1 && said.test == ["CMD", "true"], "{said:?}");
    is(&api, &container.id, "healthy").await?;
    api.remove(&container.id).await?;

    let none = HealthCheck { test: vec!["NONE".into()], ..HealthCheck::default() };
    let container = api.run(of(Some(none))).await?;
    ensure!(container.health.is_none(), "{container:?}");
    api.remove(&container.id).await?;

    let lost = HealthCheck {
        test: vec!["CMD".into(), "/no/such".into()],
        ..HealthCheck { retries: 1, ..HealthCheck::default() }
    };
    let container = api.run(of(Some(lost))).await?;
    let ill = health(&is(&api, &container.id, "unhealthy").await?);
    let probe = ill.log.first().context("no probe")?;
    ensure!(probe.exit_code != 0 && probe.output.contains("/no/such"), "{probe:?}");

    let mut bad = spec(["true"]);
    bad.health_check = Some(HealthCheck { test: vec!["curl".into()], ..HealthCheck::default() });
    bad.image = "checked:1".into();
    let status = refused(api.create(bad).await, Code::InvalidArgument)?;
    ensure!(blamed_fields(&status) == ["spec.health_check.test"], "{status:?}");
    world.finish().await
}

#[tokio::test]
async fn by_the_command_line() -> Result<()> {
    let world = World::start().await?;
    let api = world.with_busybox().await?;
    let wharf = async |line: &str| -> Result<String> {
        let args: Vec<&str> = line.split(' ').collect();
        let mut command = world.cli(&args)?;
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = soon("wharf ends", async { run.await? }).await?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let run = "run -d --name web --health-cmd true --health-interval 50ms busybox:test sleep 1000";
    let id = wharf(run).await?;
    is(&api, &id, "healthy").await?;
    let up = wharf("ps --format {{.Status}}").await?;
    ensure!(up.starts_with("Up ") && up.ends_with(" (healthy)"), "{up}");
    ensure!(wharf("ps -q --filter health=healthy").await? == id[..12]);
    ensure!(wharf("ps -q --filter health=unhealthy").await?.is_empty());
    ensure!(wharf("inspect -f {{.State.Health.Status}} web").await? == "healthy");
    let shown: Value = serde_json::from_str(&wharf("inspect web").await?)?;
    let check = json!({"Test": ["CMD-SHELL", "true"], "Interval": 50_000_000});
    ensure!(shown[0]["Config"]["Healthcheck"] == check, "{}", shown[0]["Config"]);
    ensure!(shown[0]["State"]["Health"]["Log"][0]["ExitCode"] == 0, "{}", shown[0]["State"]);
    let events = wharf("events --since 1h --until 0s --filter event=health_status").await?;
    ensure!(events.contains("container health_status: healthy"), "{events}");

    // What waits for its restart is shown as that, as Docker shows it.
    let failing = wharf("run -d --restart always --name crash busybox:test false").await?;
    becomes(&api, &failing, "a longer pause", |c| c.restarting && c.restart_count >= 5).await?;
    wait::until("it is listed", || async {
        let listed = wharf("ps -q --filter status=restarting").await?;
        Ok((listed == failing[..12]).then_some(()))
    })
    .await?;
    world.finish().await
}
