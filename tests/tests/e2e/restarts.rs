//! Restart policies: started again by itself, when a policy says so and no user wants it down.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    Container, ContainerSpec, ContainerState, KillContainerRequest, StopContainerRequest,
    SubscribeRequest, UpdateContainerRequest,
};
use wharf_tests::{
    api::{Api, blamed_fields, script, sleeper, spec},
    wait::{self, soon},
    world::{Options, World},
};

use crate::refused;

fn with(policy: &str, mut spec: ContainerSpec) -> ContainerSpec {
    spec.restart = policy.into();
    spec
}

async fn stop(api: &mut Api, id: &str) -> Result<Container> {
    let request = StopContainerRequest {
        container: id.into(),
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        signal: String::new(),
    };
    api.containers.stop(request).await?.into_inner().container.context("no container")
}

async fn kill(api: &mut Api, id: &str, signal: &str) -> Result<()> {
    let request = KillContainerRequest { container: id.into(), signal: signal.into() };
    api.containers.kill(request).await?;
    Ok(())
}

async fn update(api: &mut Api, id: &str, policy: &str) -> Result<Container, tonic::Status> {
    let request = UpdateContainerRequest {
        container: id.into(),
        restart: Some(policy.into()),
        ..Default::default()
    };
    Ok(api.containers.update(request).await?.into_inner().container.unwrap_or_default())
}

/// Waits until the container is as wanted.
async fn becomes(
    api: &Api,
    id: &str,
    what: &str,
    wanted: impl Fn(&Container) -> bool,
) -> Result<Container> {
    wait::until(what, || {
        let (mut api, id, wanted) = (api.clone(), id.to_owned(), &wanted);
        async move {
            let found = api.get(&id).await?;
            Ok(Some(found).filter(wanted))
        }
    })
    .await
}

fn number(container: &Container) -> u64 {
    container.incarnation.as_ref().map_or(0, |run| run.number)
}

fn runs(container: &Container, start: u64) -> bool {
    container.state() == ContainerState::Running && number(container) == start
}

fn is_over(container: &Container) -> bool {
    container.state() == ContainerState::Stopped && !container.restarting
}

#[tokio::test]
async fn on_failure_is_tried_as_often_as_it_says() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let failing = api.run(with("on-failure:2", script("echo tried; exit 3"))).await?;
    let good = api.run(with("on-failure", script("exit 0"))).await?;
    let over = becomes(&api, &failing.id, "it gives up", |c| is_over(c) && number(c) == 3).await?;
    ensure!(over.restart_count == 2, "{over:?}");
    let exit = over.incarnation.and_then(|run| run.exit).context("no exit")?;
    ensure!(exit.exit_code == 3, "{exit:?}");
    ensure!(api.logs(&failing.id).await?.out() == "tried\ntried\ntried\n");
    let good = becomes(&api, &good.id, "it has ended well", is_over).await?;
    ensure!(number(&good) == 1 && good.restart_count == 0, "{good:?}");

    // A start by a user counts from the beginning.
    api.start(&failing.id).await?;
    let over = becomes(&api, &failing.id, "it gives up", |c| is_over(c) && number(c) == 6).await?;
    ensure!(over.restart_count == 2, "{over:?}");

    let mut events = api
        .events
        .subscribe(SubscribeRequest { from_sequence: 1, ..Default::default() })
        .await?
        .into_inner();
    let mut told = Vec::new();
    while told.len() < 4 {
        let event = soon("events", events.message()).await?.context("the stream ended")?;
        if event.topic == "container.restarting" && event.id == failing.id {
            let value = |key: &str| event.attributes.get(key).cloned().unwrap_or_default();
            told.push((value("restartCount"), value("delayMs")));
        }
    }
    let pair = |count: &str, delay: &str| (count.to_owned(), delay.to_owned());
    let round = [pair("1", "100"), pair("2", "200")];
    ensure!(told == [round.clone(), round].concat(), "{told:?}");
    drop(events);
    world.finish().await
}

#[tokio::test]
async fn what_a_user_stops_or_kills_stays_down() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    for policy in ["always", "unless-stopped"] {
        let container = api.run(with(policy, sleeper())).await?;
        stop(&mut api, &container.id).await?;
        let killed = api.run(with(policy, sleeper())).await?;
        kill(&mut api, &killed.id, "KILL").await?;
        api.wait(&killed.id).await?;
        world.kill9()?;
        world.restart().await?;
        api = world.api()?;
        for id in [container.id, killed.id] {
            let found = api.get(&id).await?;
            ensure!(is_over(&found) && number(&found) == 1, "{policy}: {found:?}");
            // By hand it starts, and is under its policy again.
            let pid = api.start(&id).await?.incarnation.context("no incarnation")?.pid;
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
            let again = becomes(&api, &id, "it is started again", |c| runs(c, 3)).await?;
            ensure!(again.restart_count == 1, "{again:?}");
            stop(&mut api, &id).await?;
        }
    }
    world.finish().await
}

#[tokio::test]
async fn a_signal_that_is_no_stop_leaves_the_policy_alone() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let text = "trap 'exit 0' HUP; echo up; while :; do sleep 1000 & wait; done";
    let container = api.run(with("always", script(text))).await?;
    wait::until("the trap is set", || {
        let (mut api, id) = (api.clone(), container.id.clone());
        async move { Ok(api.logs(&id).await?.out().contains("up").then_some(())) }
    })
    .await?;
    kill(&mut api, &container.id, "HUP").await?;
    becomes(&api, &container.id, "it is started again", |c| runs(c, 2)).await?;
    api.delete_all().await?;
    world.finish().await
}

/// Brings a container to where it waits for long, by many quick ends.
async fn waits_for_long(api: &mut Api, policy: &str) -> Result<Container> {
    let container = api.run(with(policy, script("exit 1"))).await?;
    let waits = |c: &Container| c.restarting && c.restart_count >= 5;
    becomes(api, &container.id, "it waits for its restart", waits).await
}

#[tokio::test]
async fn waiting_is_over_at_a_users_word() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = waits_for_long(&mut api, "always").await?;
    let found = stop(&mut api, &container.id).await?;
    ensure!(is_over(&found), "{found:?}");

    let gone = waits_for_long(&mut api, "unless-stopped").await?;
    api.containers
        .delete(wharf_proto::v1::DeleteContainerRequest {
            container: gone.id.clone(),
            ..Default::default()
        })
        .await?;
    refused(api.get(&gone.id).await, Code::NotFound)?;

    let killed = waits_for_long(&mut api, "on-failure").await?;
    kill(&mut api, &killed.id, "TERM").await?;
    let found = api.get(&killed.id).await?;
    ensure!(is_over(&found), "{found:?}");

    let changed = waits_for_long(&mut api, "always").await?;
    let found = update(&mut api, &changed.id, "no").await?;
    ensure!(is_over(&found), "{found:?}");

    let started = waits_for_long(&mut api, "always").await?;
    let before = number(&started);
    api.start(&started.id).await?;
    let found = becomes(&api, &started.id, "it is started at once", |c| number(c) > before).await?;
    ensure!(found.restart_count < 5, "{found:?}");
    stop(&mut api, &started.id).await?;

    world.kill9()?;
    world.restart().await?;
    api = world.api()?;
    for before in [&container, &killed, &changed] {
        let found = api.get(&before.id).await?;
        ensure!(is_over(&found) && number(&found) <= number(before) + 1, "{found:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn a_restart_that_is_due_survives_the_supervisor() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    // Waits when the supervisor is killed.
    let waiting = api.run(with("always", script("exit 1"))).await?;
    becomes(&api, &waiting.id, "it waits", |c| c.restarting && c.restart_count >= 3).await?;
    // Ends while the supervisor is away.
    let running = api.run(with("on-failure", sleeper())).await?;
    let pid = running.incarnation.as_ref().context("no incarnation")?.pid;
    world.kill9()?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    world.restart().await?;
    api = world.api()?;
    becomes(&api, &waiting.id, "it goes on", |c| c.restart_count >= 5).await?;
    let again = becomes(&api, &running.id, "it is started again", |c| runs(c, 2)).await?;
    ensure!(again.restart_count == 1, "{again:?}");
    for id in [&waiting.id, &running.id] {
        stop(&mut api, id).await?;
    }
    world.finish().await
}

#[tokio::test]
async fn what_can_not_start_waits_as_well() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    // The first start is the caller's, who is told.
    let mut bad = with("always", spec(["/no/such/program"]));
    bad.name = "bad".into();
    ensure!(api.run(bad).await.is_err());
    let found = api.get("bad").await?;
    ensure!(is_over(&found) && number(&found) == 1, "{found:?}");
    // One that has run and can't any more: its program is gone.
    let text = "if [ -e /ran ]; then exit 5; fi; touch /ran; rm /bin/sh; exit 4";
    let gone = api.run(with("always", script(text))).await?;
    let failed = |c: &Container| {
        let exit = c.incarnation.as_ref().and_then(|run| run.exit.as_ref());
        c.restart_count >= 4 && exit.is_some_and(|exit| exit.reason == "start-failed")
    };
    let found = becomes(&api, &gone.id, "it fails again and again", failed).await?;
    ensure!(found.restarting, "{found:?}");
    api.delete_all().await?;
    world.finish().await
}

#[tokio::test]
async fn policies_that_make_no_sense_are_refused() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    for bad in ["never", "always:3", "on-failure:x"] {
        let status = refused(api.create(with(bad, sleeper())).await, Code::InvalidArgument)?;
        ensure!(blamed_fields(&status) == ["spec.restart"], "{status:?}");
    }
    let mut removed = with("always", sleeper());
    removed.auto_remove = true;
    let status = refused(api.create(removed.clone()).await, Code::InvalidArgument)?;
    ensure!(blamed_fields(&status) == ["spec.restart"], "{status:?}");
    removed.restart = "no".into();
    let removed = api.create(removed).await?;
    let status = refused(update(&mut api, &removed.id, "always").await, Code::InvalidArgument)?;
    ensure!(blamed_fields(&status) == ["restart"], "{status:?}");
    api.delete_all().await?;
    world.finish().await
}

#[tokio::test]
async fn the_command_line_has_policies() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let run = |args: &[&str]| -> Result<String> {
        let output = world.cli(args)?.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{args:?}: {output:?}");
        Ok(text.trim().to_owned())
    };
    run(&[
        "create",
        "--name",
        "web",
        "--restart",
        "on-failure:3",
        "busybox:test",
        "sleep",
        "1000",
    ])?;
    let format = "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} \
                  {{.RestartCount}}";
    ensure!(run(&["inspect", "-f", format, "web"])? == "on-failure 3 0");
    run(&["update", "--restart", "unless-stopped", "web"])?;
    ensure!(run(&["inspect", "-f", format, "web"])? == "unless-stopped 0 0");
    let both = world
        .cli(["run", "-d", "--rm", "--restart", "always", "busybox:test", "true"])?
        .output()?;
    ensure!(both.status.code() == Some(125), "{both:?}");
    let waiting = waits_for_long(&mut api, "always").await?;
    let shown =
        run(&["ps", "-a", "--filter", &format!("id={}", waiting.id), "--format", "{{.Status}}"])?;
    ensure!(shown.starts_with("Restarting (1) ") || shown.starts_with("Exited (1)"), "{shown}");
    api.delete_all().await?;
    world.finish().await
}

/// A supervisor that is told of another boot, in a mount namespace of its own; then all processes
/// end and the folder under /run is emptied, as at a boot, and another supervisor finds the host's
/// real boot.
#[tokio::test]
async fn boots_bring_up_what_the_policy_says() -> Result<()> {
    let boot_id = "11111111-2222-3333-4444-555555555555";
    let options = Options { boot_id: Some(boot_id.into()), ..Options::default() };
    let mut world = World::with(options).await?;
    let mut api = world.with_busybox().await?;
    let mut running = Vec::new();
    for policy in ["always", "unless-stopped", "on-failure"] {
        running.push(api.run(with(policy, sleeper())).await?);
    }
    let always = api.run(with("always", sleeper())).await?;
    let unless_stopped = api.run(with("unless-stopped", sleeper())).await?;
    let on_failure = api.run(with("on-failure", sleeper())).await?;
    let created = api.create(with("always", sleeper())).await?;
    for container in [&always, &unless_stopped, &on_failure] {
        stop(&mut api, &container.id).await?;
        // Its shim is ended behind the answer; nothing here would end it after "the boot".
        let bundle = container.bundle_path.clone();
        wait::until_now("its shim ends", || Ok((!fs::exists(&bundle)?).then_some(()))).await?;
    }
    world.kill9()?;
    for container in &running {
        let pid = i32::try_from(container.incarnation.as_ref().context("no incarnation")?.pid)?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after = stat.rsplit_once(')').context("no stat")?.1;
        let shim: i32 = after.split_whitespace().nth(1).context("no parent")?.parse()?;
        for pid in [shim, pid] {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        }
        let path = format!("/proc/{pid}");
        wait::until_now("it ends", || Ok((!fs::exists(&path)?).then_some(()))).await?;
    }
    fs::remove_dir_all(world.state())?;

    world.booted();
    world.restart().await?;
    api = world.api()?;
    for container in &running {
        becomes(&api, &container.id, "it is started at boot", |c| runs(c, 2)).await?;
    }
    becomes(&api, &always.id, "it is started at boot", |c| runs(c, 2)).await?;
    for down in [&unless_stopped, &on_failure] {
        let found = api.get(&down.id).await?;
        ensure!(is_over(&found) && number(&found) == 1, "{found:?}");
    }
    ensure!(api.get(&created.id).await?.state() == ContainerState::Created);
    // A user's stop holds in this boot.
    stop(&mut api, &always.id).await?;
    world.kill9()?;
    world.restart().await?;
    api = world.api()?;
    let found = api.get(&always.id).await?;
    ensure!(is_over(&found) && number(&found) == 2, "{found:?}");
    for container in &running {
        let found = api.get(&container.id).await?;
        ensure!(runs(&found, 2), "{found:?}");
    }
    api.delete_all().await?;
    world.finish().await
}

#[tokio::test]
async fn a_restart_of_a_user_is_no_restart_of_the_policy() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.run(with("always", sleeper())).await?;
    let request = wharf_proto::v1::RestartContainerRequest {
        container: container.id.clone(),
        timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        signal: String::new(),
    };
    let again = api.containers.restart(request).await?.into_inner().container;
    let again = again.context("no container")?;
    ensure!(runs(&again, 2) && again.restart_count == 0, "{again:?}");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let found = api.get(&container.id).await?;
    ensure!(runs(&found, 2) && found.restart_count == 0, "{found:?}");
    // Its policy is in force as before.
    let pid = found.incarnation.context("no incarnation")?.pid;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
    becomes(&api, &container.id, "it is started again", |c| runs(c, 3)).await?;
    api.delete_all().await?;
    world.finish().await
}
