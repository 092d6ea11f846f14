//! Steps of a container's life.

use std::{future::Future, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use tonic::Code;
use wharf_proto::v1::{
    Container, ContainerSpec, ContainerState, CreateContainerRequest, DeleteContainerRequest,
    ExecRequest, ExecStart, KillContainerRequest, Mount, RunContainerRequest,
    StartContainerRequest, StopContainerRequest, SubscribeRequest, exec_request,
};
use wharf_tests::{
    api::{Api, reason, script, sleeper, under},
    wait::{self, soon},
    world::World,
};

use crate::matrix::{Acted, Faults, Step, wait_state};

async fn with_image() -> Result<Faults> {
    let mut faults = Faults::start().await?;
    drop(faults.world().with_busybox().await?);
    Ok(faults)
}

fn named(mut spec: ContainerSpec, case: &str) -> ContainerSpec {
    spec.name = format!("c-{case}");
    spec
}

async fn tidy(api: &mut Api) -> Result<()> {
    Ok(api.delete_all().await?)
}

async fn get(api: &mut Api, id: &str) -> Result<Container> {
    Ok(api.get(id).await?)
}

/// The bundle goes last of all after an exit.
async fn no_bundle(world: &World, id: &str) -> Result<()> {
    let bundle = world.state().join("c").join(&id[..12]);
    wait::until_now("the bundle is gone", || Ok((!bundle.exists()).then_some(()))).await
}

/// Gets the pid of a container that runs.
async fn pid(api: &mut Api, id: &str) -> Result<u32> {
    let container = get(api, id).await?;
    ensure!(container.state() == ContainerState::Running, "{container:?}");
    Ok(container.incarnation.context("no incarnation")?.pid)
}

struct Create;

impl Step for Create {
    type Ready = String;

    async fn ready(&self, _: &mut World, case: &str) -> Result<String> {
        Ok(case.into())
    }

    fn act(
        &self,
        mut api: Api,
        case: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = CreateContainerRequest { spec: Some(named(sleeper(), &case)) };
        async move { api.containers.create(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, case: &String) -> Result<()> {
        let all = api.list().await?;
        ensure!(all.len() == 1, "{all:?}");
        ensure!(get(api, &format!("c-{case}")).await?.state() == ContainerState::Created);
        Ok(())
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct Run;

impl Step for Run {
    type Ready = String;

    async fn ready(&self, _: &mut World, case: &str) -> Result<String> {
        Ok(case.into())
    }

    fn act(
        &self,
        mut api: Api,
        case: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let spec = ContainerSpec { auto_remove: true, ..named(sleeper(), &case) };
        let message = RunContainerRequest { spec: Some(spec), window: None };
        async move { api.containers.run(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, case: &String) -> Result<()> {
        let all = api.list().await?;
        ensure!(all.len() == 1, "{all:?}");
        pid(api, &format!("c-{case}")).await.map(drop)
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct Start;

impl Step for Start {
    type Ready = String;

    async fn ready(&self, world: &mut World, case: &str) -> Result<String> {
        Ok(world.api()?.create(named(sleeper(), case)).await?.id)
    }

    fn act(
        &self,
        mut api: Api,
        id: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = StartContainerRequest { container: id, window: None };
        async move { api.containers.start(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, id: &String) -> Result<()> {
        pid(api, id).await.map(drop)
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct Exec;

impl Exec {
    const COUNT: &str = "echo x >> /count";

    async fn shell(api: &mut Api, id: &str, text: &str) -> Result<String> {
        let start = ExecStart {
            container: id.into(),
            args: ["sh", "-c", text].map(Into::into).into(),
            ..Default::default()
        };
        Ok(api.exec(start, b"").await?.out())
    }
}

impl Step for Exec {
    type Ready = String;

    async fn ready(&self, world: &mut World, case: &str) -> Result<String> {
        Ok(world.api()?.run(named(sleeper(), case)).await?.id)
    }

    fn act(
        &self,
        mut api: Api,
        id: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let start = ExecStart {
            container: id,
            args: ["sh", "-c", Self::COUNT].map(Into::into).into(),
            detach: true,
            ..Default::default()
        };
        let first = ExecRequest { kind: Some(exec_request::Kind::Start(start)) };
        async move {
            let requests = under(&request, tokio_stream::iter([first]));
            let mut answers = match api.containers.exec(requests).await {
                Ok(answers) => answers.into_inner(),
                // It has run under this id, which is what was asked for.
                Err(status) if reason(&status) == "EXEC_NOT_FOUND" => return Ok(()),
                Err(status) => return Err(status),
            };
            while answers.message().await?.is_some() {}
            Ok(())
        }
    }

    async fn done(&self, _: &World, api: &mut Api, id: &String) -> Result<()> {
        wait::until("it has run", || {
            let (mut api, id) = (api.clone(), id.clone());
            async move {
                let count = Self::shell(&mut api, &id, "cat /count 2>&1").await?;
                ensure!(!count.contains("x\nx"), "it has run twice: {count:?}");
                Ok((count == "x\n").then_some(()))
            }
        })
        .await
    }

    async fn settled(&self, _: &World, api: &mut Api, id: &String) -> Result<()> {
        // Its end is in the journal, once.
        wait::until("the exec's end is told", || {
            let (api, id) = (api.clone(), id.clone());
            async move {
                let told = exits(&api, &id).await?;
                let first = told.first().cloned();
                let twice =
                    first.as_ref().is_some_and(|f| told.iter().filter(|t| *t == f).count() > 1);
                ensure!(!twice, "told twice: {told:?}");
                Ok(first.map(drop))
            }
        })
        .await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

/// Ids of execs of a container whose end is in the journal.
async fn exits(api: &Api, id: &str) -> Result<Vec<String>> {
    let now = prost_types::Timestamp::from(std::time::SystemTime::now());
    let request = SubscribeRequest {
        from_sequence: 1,
        until: Some(now),
        topics: vec!["exec.exit".into()],
        container: id.into(),
        ..Default::default()
    };
    let mut events = api.events.clone().subscribe(request).await?.into_inner();
    let mut told = Vec::new();
    while let Some(event) = soon("an event", events.message()).await? {
        told.push(event.attributes.get("execId").cloned().unwrap_or_default());
    }
    Ok(told)
}

struct Stop;

impl Step for Stop {
    type Ready = String;

    async fn ready(&self, world: &mut World, case: &str) -> Result<String> {
        let mut api = world.api()?;
        let heeds = "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done";
        let id = api.run(named(script(heeds), case)).await?.id;
        wait::until("it heeds signals", || {
            let (mut api, id) = (api.clone(), id.clone());
            async move { Ok((api.logs(&id).await?.out() == "ready\n").then_some(())) }
        })
        .await?;
        Ok(id)
    }

    fn act(
        &self,
        mut api: Api,
        id: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = StopContainerRequest { container: id, ..Default::default() };
        async move { api.containers.stop(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, id: &String) -> Result<()> {
        wait_state(api, id, ContainerState::Stopped).await?;
        let exit = get(api, id).await?.incarnation.and_then(|i| i.exit).context("no exit")?;
        ensure!(exit.exit_code == 0 && exit.reason == "exited", "{exit:?}");
        Ok(())
    }

    async fn settled(&self, world: &World, _: &mut Api, id: &String) -> Result<()> {
        no_bundle(world, id).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct Kill;

impl Step for Kill {
    type Ready = String;

    async fn ready(&self, world: &mut World, case: &str) -> Result<String> {
        Ok(world.api()?.run(named(sleeper(), case)).await?.id)
    }

    fn act(
        &self,
        mut api: Api,
        id: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = KillContainerRequest { container: id, signal: "KILL".into() };
        async move {
            match api.containers.kill(under(&request, message)).await {
                // It was sent, and did its work, before that was written down.
                Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
                other => other.map(drop),
            }
        }
    }

    async fn done(&self, _: &World, api: &mut Api, id: &String) -> Result<()> {
        wait_state(api, id, ContainerState::Stopped).await?;
        let exit = get(api, id).await?.incarnation.and_then(|i| i.exit).context("no exit")?;
        ensure!(exit.exit_code == 137 && exit.signal == 9, "{exit:?}");
        Ok(())
    }

    async fn settled(&self, world: &World, _: &mut Api, id: &String) -> Result<()> {
        no_bundle(world, id).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct Delete;

impl Step for Delete {
    type Ready = String;

    async fn ready(&self, world: &mut World, case: &str) -> Result<String> {
        let mut api = world.api()?;
        let id = api.run(named(script("echo out; exit 3"), case)).await?.id;
        ensure!(api.wait(&id).await?.exit_code == 3);
        no_bundle(world, &id).await?;
        Ok(id)
    }

    fn act(
        &self,
        mut api: Api,
        id: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = DeleteContainerRequest { container: id, force: false, volumes: false };
        async move { api.containers.delete(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, id: &String) -> Result<()> {
        match api.get(id).await {
            Err(status) if status.code() == Code::NotFound => Ok(()),
            other => bail!("{other:?}"),
        }
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

/// What a start of the supervisor finds: one that runs, one that ended meanwhile, one that was never
/// started.
struct Found;

#[derive(Clone)]
struct World3 {
    runs: String,
    pid: u32,
    ends: String,
    idle: String,
    go: PathBuf,
}

impl Step for Found {
    type Ready = World3;

    async fn ready(&self, world: &mut World, case: &str) -> Result<World3> {
        let mut api = world.api()?;
        let runs = api.run(named(sleeper(), case)).await?.id;
        let pid = pid(&mut api, &runs).await?;
        let folder = world.folder().join("t");
        std::fs::create_dir_all(&folder)?;
        let go = folder.join("go");
        let _ = std::fs::remove_file(&go);
        let mut ends = script("while [ ! -e /t/go ]; do usleep 5000; done; exit 7");
        ends.mounts = vec![Mount {
            r#type: "bind".into(),
            source: folder.display().to_string(),
            target: "/t".into(),
            ..Default::default()
        }];
        let ends = api.run(ends).await?.id;
        let idle = api.create(sleeper()).await?.id;
        // It ends at about the time when the supervisor does.
        std::fs::write(&go, "")?;
        Ok(World3 { runs, pid, ends, idle, go })
    }

    fn act(&self, _: Api, _: World3, _: String) -> impl Future<Output = Acted> + Send + 'static {
        std::future::ready(Ok(()))
    }

    async fn done(&self, _: &World, api: &mut Api, ready: &World3) -> Result<()> {
        ensure!(pid(api, &ready.runs).await? == ready.pid, "another process");
        wait_state(api, &ready.ends, ContainerState::Stopped).await?;
        let exit =
            get(api, &ready.ends).await?.incarnation.and_then(|i| i.exit).context("no exit")?;
        ensure!(exit.exit_code == 7, "{exit:?}");
        ensure!(get(api, &ready.idle).await?.state() == ContainerState::Created);
        ensure!(ready.go.exists());
        Ok(())
    }

    async fn settled(&self, world: &World, api: &mut Api, ready: &World3) -> Result<()> {
        wait_state(api, &ready.ends, ContainerState::Stopped).await?;
        no_bundle(world, &ready.ends).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

macro_rules! matrix {
    ($($test:ident: $step:expr),* $(,)?) => {$(
        #[tokio::test]
        async fn $test() -> Result<()> {
            let mut faults = with_image().await?;
            faults.take(stringify!($test), &$step).await?;
            faults.finish().await
        }
    )*};
}

matrix! {
    create: Create,
    run: Run,
    start: Start,
    exec: Exec,
    stop: Stop,
    kill: Kill,
    delete: Delete,
}

#[tokio::test]
async fn start_up() -> Result<()> {
    let mut faults = with_image().await?;
    faults.start_up("start_up", &Found).await?;
    faults.finish().await
}
