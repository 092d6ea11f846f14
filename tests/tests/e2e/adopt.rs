//! Shims that are killed under their containers: another goes on.

use std::{collections::HashSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{AttachStart, ContainerState, ExecStart, StopContainerRequest};
use wharf_tests::{
    api::{Api, script, sleeper},
    wait,
    world::World,
};

use crate::no_gap;

/// The shim of a container: it is named after it.
fn shim_of(id: &str) -> Option<i32> {
    let name = format!("wharf-shim: {id}");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        words.trim().starts_with(&name).then_some(pid)
    })
}

async fn shim_pid(id: &str) -> Result<i32> {
    wait::until_now("the shim", || Ok(shim_of(id))).await
}

fn kill(pid: i32) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(pid);
    Ok(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?)
}

async fn runs_under_another(api: &Api, id: &str, before: &HashSet<i32>) -> Result<i32> {
    wait::until("another shim", || {
        let (mut api, id) = (api.clone(), id.to_owned());
        async move {
            let pid = shim_of(&id).filter(|pid| !before.contains(pid));
            let running = api.state(&id).await? == ContainerState::Running;
            Ok(pid.filter(|_| running))
        }
    })
    .await
}

#[tokio::test]
async fn killed_again_and_again_and_nothing_is_missing() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script(
        "trap 'echo bye >&2; exit 7' TERM; i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; \
         usleep 2000; done; read line; echo got $line >&2; exit 5",
    );
    spec.open_stdin = true;
    let container = api.run(spec).await?;
    let (id, pid) = (container.id.clone(), container.incarnation.context("none")?.pid);
    let mut killed = HashSet::new();
    for round in 0..4 {
        let shim = shim_pid(&id).await?;
        // Not before there is something to go on with, nor always long after it.
        if round % 2 == 0 {
            let before = api.logs(&id).await?.out().lines().count();
            wait::until("more output", || {
                let (mut api, id) = (api.clone(), id.clone());
                async move {
                    Ok((api.logs(&id).await?.out().lines().count() > before + 20).then_some(()))
                }
            })
            .await?;
        }
        if round == 3 {
            // All killed shims so far lost nothing.
            ensure!(no_gap(&api.logs(&id).await?.out())? > 40);
        }
        kill(shim)?;
        killed.insert(shim);
        if round == 3 {
            // Both at once: its pipes go with them, but not the container.
            world.kill9()?;
            world.restart().await?;
            api = world.api()?;
        }
        runs_under_another(&api, &id, &killed)
            .await
            .with_context(|| format!("round {round}\n{}", world.daemon_log()))?;
        let now = api.get(&id).await?.incarnation.context("none")?;
        ensure!(now.pid == pid && now.number == 1, "round {round}: {now:?}");
        if round == 3 {
            break;
        }
        let exec = ExecStart {
            container: id.clone(),
            args: vec!["echo".into(), "inside".into()],
            ..Default::default()
        };
        let outcome = api.exec(exec, b"").await.with_context(|| format!("round {round}"))?;
        ensure!(outcome.out() == "inside\n" && outcome.code() == 0, "round {round}: {outcome:?}");
    }
    let stop = StopContainerRequest {
        container: id.clone(),
        timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        signal: String::new(),
    };
    api.containers.stop(stop).await?;
    let ended = api.get(&id).await?.incarnation.and_then(|i| i.exit).context("no exit")?;
    ensure!(!ended.reason.is_empty(), "{ended:?}");
    api.remove(&id).await?;
    world.finish().await
}

#[tokio::test]
async fn stdin_attach_and_the_true_exit_after_a_killed_shim() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = script("echo ready; read line; echo got $line; exit 5");
    spec.open_stdin = true;
    let id = api.run(spec).await?.id;
    wait::until("it is ready", || {
        let (mut api, id) = (api.clone(), id.clone());
        async move { Ok((api.logs(&id).await?.out() == "ready\n").then_some(())) }
    })
    .await?;
    wait_kept(&world).await?;
    let shim = shim_pid(&id).await?;
    kill(shim)?;
    runs_under_another(&api, &id, &HashSet::from([shim]))
        .await
        .with_context(|| world.daemon_log())?;
    let start = AttachStart {
        container: id.clone(),
        stdin: true,
        stdout: true,
        stderr: true,
        from: Some(wharf_proto::v1::attach_start::From::HistoryLines(-1)),
        ..Default::default()
    };
    let outcome = api.attach(start, b"hello\n").await?;
    ensure!(outcome.out() == "ready\ngot hello\n", "{outcome:?}");
    ensure!(outcome.code() == 5, "{outcome:?}");
    api.remove(&id).await?;
    world.finish().await
}

/// Until the supervisor holds descriptors of the container's: 20 ms after its start.
async fn wait_kept(world: &World) -> Result<()> {
    let pid = world.daemon_pid()?;
    wait::until_now("a pidfd is kept", || {
        let mut pidfds = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            pidfds += usize::from(target == Path::new("anon_inode:[pidfd]"));
        }
        // Of the shim, and of the container.
        Ok((pidfds >= 2).then_some(()))
    })
    .await
}

#[tokio::test]
async fn an_exec_ends_with_its_killed_shim_and_says_so() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let shim = shim_pid(&id).await?;
    let exec = ExecStart {
        container: id.clone(),
        args: vec!["sh".into(), "-c".into(), "echo there; sleep 1000".into()],
        ..Default::default()
    };
    let running = tokio::spawn({
        let mut api = api.clone();
        async move { api.exec(exec, b"").await }
    });
    wait::until("the exec's process", || {
        let (mut api, id) = (api.clone(), id.clone());
        async move {
            let request = wharf_proto::v1::ProcessesRequest { container: id };
            let found = api.containers.processes(request).await?.into_inner().processes;
            Ok(found.iter().any(|p| !p.exec_id.is_empty()).then_some(()))
        }
    })
    .await?;
    kill(shim)?;
    let error = running.await?.err().context("the exec went on")?;
    let status = error.downcast::<tonic::Status>()?;
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    ensure!(wharf_tests::api::reason(&status) == "EXEC_LOST", "{status:?}");
    runs_under_another(&api, &id, &HashSet::from([shim])).await?;
    // Its process is not left behind.
    wait::until("the exec's process is gone", || {
        let (mut api, id) = (api.clone(), id.clone());
        async move {
            let request = wharf_proto::v1::ProcessesRequest { container: id };
            let found = api.containers.processes(request).await?.into_inner().processes;
            let left = found.iter().any(|p| p.command.iter().any(|word| word.contains("there")));
            Ok((!left).then_some(()))
        }
    })
    .await?;
    api.remove(&id).await?;
    world.finish().await
}
