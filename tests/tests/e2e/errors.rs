//! Bad requests and failures: the code, the field or the state, and nothing left behind.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    ContainerSpec, ContainerState, DeleteContainerRequest, KillContainerRequest, Mount, Resources,
    StopContainerRequest,
};
use wharf_tests::{
    api::{blamed_fields, reason, resource, script, sleeper, spec, state_in_the_way},
    world::World,
};

use crate::refused;

#[tokio::test]
async fn unknown_image() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut unknown = spec(["true"]);
    unknown.image = "no/such:image".into();
    let status = refused(api.create(unknown).await, Code::NotFound)?;
    let (kind, name) = resource(&status).context("no ResourceInfo")?;
    ensure!(kind == "image" && name.contains("no/such:image"), "{status:?}");
    ensure!(!reason(&status).is_empty());
    ensure!(api.list().await?.is_empty());
    world.finish().await
}

#[tokio::test]
async fn fields_that_make_no_sense() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let bind = |source: &str, target: &str| Mount {
        r#type: "bind".into(),
        source: source.into(),
        target: target.into(),
        ..Default::default()
    };
    let with = |change: &dyn Fn(&mut ContainerSpec)| {
        let mut spec = spec(["true"]);
        change(&mut spec);
        spec
    };
    let limits = |r: Resources| move |s: &mut ContainerSpec| s.resources = Some(r.clone());
    let cases: Vec<(&str, ContainerSpec)> = vec![
        ("spec.image", with(&|s| s.image = "UPPER//case".into())),
        ("spec.image", with(&|s| s.image = String::new())),
        ("spec.name", with(&|s| s.name = "no spaces".into())),
        ("spec.name", with(&|s| s.name = "x".into())),
        ("spec.user", with(&|s| s.user = "nobody-knows".into())),
        ("spec.user", with(&|s| s.user = "bob:no-group".into())),
        ("spec.env[1]", with(&|s| s.env = vec!["A=1".into(), "=2".into()])),
        ("spec.working_dir", with(&|s| s.working_dir = "relative".into())),
        ("spec.network", with(&|s| s.network = "bridge-to-nowhere".into())),
        ("spec.stop_signal", with(&|s| s.stop_signal = "SIGNOPE".into())),
        ("spec.mounts[0].target", with(&|s| s.mounts = vec![bind("/tmp", "relative")])),
        ("spec.mounts[0].source", with(&|s| s.mounts = vec![bind("relative", "/x")])),
        (
            "spec.mounts[1].source",
            with(&|s| s.mounts = vec![bind("/tmp", "/a"), bind("/no/such", "/x")]),
        ),
        ("spec.mounts[0].target", with(&|s| s.mounts = vec![bind("/tmp", "/../x/..")])),
        (
            "spec.mounts[0].type",
            with(&|s| s.mounts = vec![Mount { r#type: "nfs".into(), ..bind("/tmp", "/x") }]),
        ),
        (
            "spec.resources.memory_bytes",
            with(&limits(Resources { memory_bytes: Some(1), ..Default::default() })),
        ),
        (
            "spec.resources.nano_cpus",
            with(&limits(Resources { nano_cpus: Some(-1), ..Default::default() })),
        ),
        ("spec.cap_add[0]", with(&|s| s.cap_add = vec!["FLY".into()])),
        (
            "spec.rlimits[0].name",
            with(&|s| {
                s.rlimits =
                    vec![wharf_proto::v1::Rlimit { name: "patience".into(), soft: 1, hard: 1 }]
            }),
        ),
    ];
    let mut wrong = Vec::new();
    for (field, spec) in cases {
        match refused(api.create(spec).await, Code::InvalidArgument) {
            Ok(status) if blamed_fields(&status) == [field] => {}
            Ok(status) => wrong.push(format!("{field}: blames {:?}", blamed_fields(&status))),
            Err(error) => wrong.push(format!("{field}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(api.list().await?.is_empty());
    world.expect_only_daemon().await?;
    world.finish().await
}

#[tokio::test]
async fn programs_that_cannot_run() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    for (program, code, why) in [
        ("/no/such/program", 127, "ENTRYPOINT_NOT_FOUND"),
        ("no-such-program", 127, "ENTRYPOINT_NOT_FOUND"),
        ("/bin/no-interpreter", 127, "ENTRYPOINT_NOT_FOUND"),
        ("/bin/not-executable", 126, "ENTRYPOINT_NOT_EXECUTABLE"),
        ("/etc", 126, "ENTRYPOINT_NOT_EXECUTABLE"),
    ] {
        let container = api.create(spec([program])).await?;
        let refusal = refused(api.start(&container.id).await, Code::FailedPrecondition);
        let status = refusal.with_context(|| program.to_owned())?;
        ensure!(reason(&status) == why, "{program}: {status:?}");
        ensure!(status.message().contains(program), "{program}: {status:?}");
        let kept = api.get(&container.id).await?;
        ensure!(kept.state() == ContainerState::Stopped, "{program}: {kept:?}");
        let exit = kept.incarnation.and_then(|i| i.exit).context("no exit")?;
        ensure!(exit.exit_code == code && exit.reason == "start-failed", "{program}: {exit:?}");
        // It can be tried again, and fails again in the same way.
        refused(api.start(&container.id).await, Code::FailedPrecondition)?;
    }
    world.expect_only_daemon().await?;
    world.finish().await
}

#[tokio::test]
async fn a_mount_target_cannot_leave_the_rootfs() -> Result<()> {
    let world = World::start().await?;
    let outside = world.folder().join("outside");
    std::fs::create_dir(&outside)?;
    // An image whose own link points to a folder of the host.
    let mut recipe = wharf_tests::image::busybox()?;
    let up = format!("../../../../../../../..{}", outside.display());
    recipe.layers.push(
        wharf_tests::image::Layer::default()
            .symlink("away", &outside.display().to_string())
            .symlink("up", &up),
    );
    let mut api = world.api()?;
    let built = recipe.build(wharf_tests::image::BUSYBOX)?;
    api.import(&built.oci_tar()?, "").await?;
    for target in ["/away/x", "/up/x", "/../../x"] {
        let mut mounting = script("true");
        mounting.mounts =
            vec![Mount { r#type: "tmpfs".into(), target: target.into(), ..Default::default() }];
        // Refused, or resolved inside the root file system; never outside.
        match api.run_to_end(mounting).await {
            Ok((container, _)) => api.remove(&container.id).await?,
            Err(error) => {
                let status = error.downcast::<tonic::Status>()?;
                ensure!(
                    [Code::InvalidArgument, Code::FailedPrecondition].contains(&status.code()),
                    "{target}: {status:?}"
                );
            }
        }
        ensure!(wharf_tests::leak::tree(&outside).is_empty(), "{target} reached the host");
    }
    world.finish().await
}

#[tokio::test]
async fn not_in_this_state() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let created = api.create(sleeper()).await?.id;
    let (stopped, _) = api.run_to_end(script("exit 0")).await?;
    let running = api.run(sleeper()).await?.id;
    let kill = |id: &str| KillContainerRequest { container: id.into(), signal: "TERM".into() };
    for (id, state) in [(&created, "created"), (&stopped.id, "stopped")] {
        let status = refused(api.containers.kill(kill(id)).await, Code::FailedPrecondition)?;
        let blamed = state_in_the_way(&status).unwrap_or_default();
        ensure!(blamed == state, "{blamed}: {status:?}");
    }
    let delete =
        DeleteContainerRequest { container: running.clone(), force: false, ..Default::default() };
    let status = refused(api.containers.delete(delete).await, Code::FailedPrecondition)?;
    ensure!(state_in_the_way(&status).is_some_and(|s| s == "running"), "{status:?}");
    // A goal that is reached already succeeds.
    let stop = StopContainerRequest { container: stopped.id.clone(), ..Default::default() };
    api.containers.stop(stop).await?;
    let signal = KillContainerRequest { container: running, signal: "NOPE".into() };
    let status = refused(api.containers.kill(signal).await, Code::InvalidArgument)?;
    ensure!(blamed_fields(&status) == ["signal"], "{status:?}");
    world.finish().await
}

#[tokio::test]
async fn unknown_containers() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = "0123456789abcdef".to_owned();
    let mut statuses = vec![
        refused(api.get(&id).await, Code::NotFound)?,
        refused(api.start(&id).await, Code::NotFound)?,
        refused(api.remove(&id).await, Code::NotFound)?,
        refused(api.logs(&id).await, Code::NotFound)?,
    ];
    let exec = api.exec(crate::exec::shell(&id, "true"), &[]).await.err().context("it ran")?;
    statuses.push(refused(Err::<(), _>(exec.downcast()?), Code::NotFound)?);
    for status in statuses {
        let found = resource(&status).context("no ResourceInfo")?;
        ensure!(found == ("container".to_owned(), id.clone()), "{status:?}");
    }
    world.finish().await
}
