//! A request that comes twice is done once.

use std::{fs, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    Container, ContainerState, CreateContainerRequest, CreateVolumeRequest, DeleteContainerRequest,
    DeleteVolumeRequest, ExecRequest, ExecStart, KillContainerRequest, ListVolumesRequest, Mount,
    RestartContainerRequest, RunContainerRequest, StartContainerRequest, StopContainerRequest,
    UpdateContainerRequest, exec_request, exec_response,
};
use wharf_tests::{
    api::{Api, blamed_fields, reason, script, sleeper, spec, under},
    wait::{self, soon},
    world::World,
};

use crate::refused;

fn create(name: &str) -> CreateContainerRequest {
    let mut spec = sleeper();
    spec.name = name.into();
    CreateContainerRequest { spec: Some(spec) }
}

#[tokio::test]
async fn twins_get_the_first_result() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut twins = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let mut api = world.api()?;
        twins.spawn(async move { api.containers.create(under("twin-1", create("one"))).await });
    }
    let mut answers = Vec::new();
    while let Some(answer) = twins.join_next().await {
        answers.push(answer??.into_inner().container.context("no container")?);
    }
    ensure!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    ensure!(api.list().await?.len() == 1);
    // A failure is the first result too.
    for _ in 0..2 {
        let again = api.containers.create(under("twin-2", create("one"))).await;
        refused(again, Code::AlreadyExists)?;
    }
    let id = answers[0].id.clone();
    api.remove(&id).await?;
    let again = api.containers.create(under("twin-1", create("one"))).await?.into_inner();
    ensure!(again.container.as_ref() == answers.first(), "{again:?}");
    ensure!(api.list().await?.is_empty(), "made a second time");
    world.finish().await
}

#[tokio::test]
async fn an_id_belongs_to_one_request() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    api.containers.create(under("mine", create("one"))).await?;
    for round in 0..2 {
        let other = api.containers.create(under("mine", create("two"))).await;
        let status = refused(other, Code::InvalidArgument)?;
        ensure!(reason(&status) == "REQUEST_ID_REUSED", "round {round}: {status:?}");
        ensure!(blamed_fields(&status) == ["wharf-request-id"], "{status:?}");
        let message =
            DeleteContainerRequest { container: "one".into(), force: true, volumes: false };
        refused(api.containers.delete(under("mine", message)).await, Code::InvalidArgument)?;
        // Another supervisor knows it as well.
        world.kill9()?;
        world.restart().await?;
        api = world.api()?;
    }
    let bad = api.containers.create(under("not an id", create("two"))).await;
    ensure!(reason(&refused(bad, Code::InvalidArgument)?) == "INVALID_REQUEST_ID");
    ensure!(api.list().await?.len() == 1);
    world.finish().await
}

#[tokio::test]
async fn what_was_done_before_a_kill_is_not_done_again() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let folder = world.folder().join("t");
    fs::create_dir(&folder)?;
    let mut counted = script(
        "echo start >> /t/log; trap 'echo signal >> /t/log' USR1; while :; do usleep 10000; done",
    );
    counted.mounts = vec![Mount {
        r#type: "bind".into(),
        source: folder.display().to_string(),
        target: "/t".into(),
        ..Default::default()
    }];
    let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
    let run = RunContainerRequest { spec: Some(counted), window: None };
    let first = api.containers.run(under("run", run.clone())).await?.into_inner();
    let id = first.container.context("no container")?.id;
    wait::until_now("it runs", || Ok((log() == "start\n").then_some(()))).await?;
    let mut brief = spec(["true"]);
    brief.name = "brief".into();
    let brief = api.create(brief).await?.id;
    let start = StartContainerRequest { container: brief.clone(), window: None };
    api.containers.start(under("start", start.clone())).await?;
    api.wait(&brief).await?;
    let kill = KillContainerRequest { container: id.clone(), signal: "USR1".into() };
    api.containers.kill(under("kill", kill.clone())).await?;
    wait::until_now("it heard", || Ok((log() == "start\nsignal\n").then_some(()))).await?;
    let update = UpdateContainerRequest {
        container: id.clone(),
        name: Some("renamed".into()),
        ..Default::default()
    };
    api.containers.update(under("update", update.clone())).await?;
    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    let again = api.containers.run(under("run", run)).await?.into_inner();
    ensure!(again.container.context("no container")?.id == id);
    let again = api.containers.start(under("start", start)).await?.into_inner();
    let brief_now = again.container.context("no container")?;
    ensure!(brief_now.state() == ContainerState::Stopped, "{brief_now:?}");
    ensure!(brief_now.incarnation.is_some_and(|i| i.number == 1));
    api.containers.kill(under("kill", kill)).await?;
    api.containers.update(under("update", update)).await?;
    ensure!(log() == "start\nsignal\n", "{}", log());
    let delete = DeleteContainerRequest { container: brief, force: false, volumes: false };
    api.containers.delete(under("delete", delete.clone())).await?;
    let stop = StopContainerRequest { container: id.clone(), signal: "KILL".into(), timeout: None };
    api.containers.stop(under("stop", stop.clone())).await?;
    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    api.containers.delete(under("delete", delete)).await?;
    api.containers.stop(under("stop", stop)).await?;
    ensure!(log() == "start\nsignal\n", "{}", log());
    world.finish().await
}

async fn exec_under(api: &mut Api, id: &str, start: &ExecStart) -> Result<String> {
    let first = ExecRequest { kind: Some(exec_request::Kind::Start(start.clone())) };
    let mut answers =
        api.containers.exec(under(id, tokio_stream::iter([first]))).await?.into_inner();
    let answer = soon("the start of an exec", answers.message()).await?.context("no answer")?;
    match answer.kind {
        Some(exec_response::Kind::Started(started)) => Ok(started.exec_id),
        other => anyhow::bail!("{other:?}"),
    }
}

#[tokio::test]
async fn an_exec_runs_once() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let text = "echo x >> /count; while [ ! -e /go ]; do usleep 10000; done";
    let start = ExecStart {
        container: id.clone(),
        args: ["sh", "-c", text].map(Into::into).into(),
        detach: true,
        ..Default::default()
    };
    let first = exec_under(&mut api, "exec", &start).await?;
    ensure!(exec_under(&mut api, "exec", &start).await? == first);
    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    ensure!(exec_under(&mut api, "exec", &start).await? == first);
    let other = exec_under(&mut api, "other", &start).await?;
    ensure!(other != first);
    let shell = |text: &str| ExecStart {
        container: id.clone(),
        args: ["sh", "-c", text].map(Into::into).into(),
        ..Default::default()
    };
    wait::until("both run", || {
        let (mut api, start) = (api.clone(), shell("cat /count"));
        async move { Ok((api.exec(start, b"").await?.out() == "x\nx\n").then_some(())) }
    })
    .await?;
    api.exec(shell("touch /go"), b"").await?;
    world.finish().await
}

/// The command line, while the supervisor is killed under it: every call succeeds, and once.
#[tokio::test]
async fn restarts_and_volumes_are_made_once() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run_sleeper().await?.id;
    let restart = || {
        let message = RestartContainerRequest { container: id.clone(), ..Default::default() };
        under("restart-1", message)
    };
    let make = || under("volume-1", CreateVolumeRequest::default());
    let begun = api.containers.restart(restart()).await?.into_inner().container;
    let volume = api.volumes.create(make()).await?.into_inner().volume.context("no volume")?;
    let remove = || under("volume-2", DeleteVolumeRequest { volume: volume.name.clone() });
    for round in 0..2 {
        world.kill9()?;
        world.restart().await?;
        api = world.api()?;
        let again = api.containers.restart(restart()).await?.into_inner().container;
        let incarnation = |c: &Option<Container>| c.as_ref().and_then(|c| c.incarnation.clone());
        ensure!(incarnation(&again) == incarnation(&begun), "round {round}: {again:?}");
        if round == 0 {
            let again = api.volumes.create(make()).await?.into_inner().volume;
            ensure!(again.as_ref() == Some(&volume), "{again:?}");
        }
        api.volumes.delete(remove()).await?;
        let left = api.volumes.list(ListVolumesRequest {}).await?.into_inner().volumes;
        ensure!(left.is_empty(), "{left:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn the_client_asks_again_through_kills() -> Result<()> {
    let mut world = World::start().await?;
    drop(world.with_busybox().await?);
    let mut clients = Vec::new();
    for n in 0..3 {
        // A call that finds nobody has sent nothing: that is the one thing to be tried again by hand.
        let script = "w=$0; f=$2; \
            try() { until \"$w\" \"$@\" 2>$f; do grep -q 'no supervisor answers' $f || { cat $f >&2; exit 1; }; \
            sleep 0.05; done; }; \
            for i in 1 2 3 4 5 6; do try run -d --name $1-$i busybox:test sh -c 'exit 3'; \
            try wait $1-$i; try rm $1-$i; done";
        let program = world.cli(["x"])?.get_program().to_owned();
        let mut command = std::process::Command::new("sh");
        command.args(["-ec", script]).arg(program).arg(format!("c{n}"));
        command.arg(world.folder().join(format!("errors-{n}")));
        command.env("WHARF_ADDRESS", world.address());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        clients.push(command.spawn()?);
    }
    let mut kills = 0;
    while clients.iter_mut().any(|c| c.try_wait().is_ok_and(|status| status.is_none())) {
        // Not a wait: the longer it lives, the more calls are under way when it dies.
        tokio::time::sleep(std::time::Duration::from_millis(80 + kills % 7 * 30)).await;
        world.kill9()?;
        world.restart().await?;
        kills += 1;
        ensure!(kills < 200, "the clients do not end");
    }
    for client in clients {
        let output = client.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "after {kills} kills: {errors}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let codes = text.lines().filter(|line| line.trim() == "3").count();
        ensure!(codes == 6, "{text}");
    }
    ensure!(kills > 2);
    world.finish().await
}
