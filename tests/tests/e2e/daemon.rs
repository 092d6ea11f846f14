//! The daemon as a program: start, refusals, standard services.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use tokio_stream::StreamExt as _;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use wharf_proto::v1::{InfoRequest, VersionRequest};
use wharf_tests::{host, wait::soon, world::World};

fn outcome(command: &mut Command) -> Result<(bool, String)> {
    let output = command.output().context("run wharfd")?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test]
async fn version_info_health_and_reflection() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let version = api.system.version(VersionRequest {}).await?.into_inner();
    ensure!(version.api_version == "wharf.v1" && version.os == "linux", "{version:?}");
    let info = api.system.info(InfoRequest {}).await?.into_inner();
    ensure!(i32::try_from(info.pid)? == world.daemon_pid()?, "{info:?}");
    ensure!(info.root_dir == world.root().display().to_string(), "{info:?}");
    ensure!(["v1", "v2", "hybrid"].contains(&info.cgroup_version.as_str()), "{info:?}");
    ensure!(info.containers == 0 && info.images == 0 && info.cpus > 0, "{info:?}");

    let mut health = HealthClient::new(world.channel()?);
    for service in ["", "wharf.v1.Containers"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await?.into_inner();
        ensure!(answer.status() == ServingStatus::Serving, "{service}: {answer:?}");
    }
    let mut reflection = ServerReflectionClient::new(world.channel()?);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let requests = tokio_stream::iter([request]).chain(tokio_stream::pending());
    let mut answers = reflection.server_reflection_info(requests).await?.into_inner();
    let answer = soon("reflection", answers.message()).await?.context("no answer")?;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        anyhow::bail!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    for service in ["Containers", "Images", "Events", "System"] {
        ensure!(names.contains(&format!("wharf.v1.{service}")), "{names:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn a_second_one_is_refused_by_the_firsts_pid() -> Result<()> {
    let world = World::start().await?;
    let (success, text) = outcome(&mut world.daemon_command()?)?;
    ensure!(!success && text.contains(&world.daemon_pid()?.to_string()), "{text}");
    // The root alone is enough.
    let other = world.folder().join("other");
    let mut elsewhere = Command::new(host::binary("wharfd")?);
    elsewhere.arg("--root").arg(world.root()).arg("--state").arg(&other).arg("--address");
    elsewhere.arg(format!("unix:{}", world.folder().join("other.sock").display()));
    let (success, text) = outcome(&mut elsewhere)?;
    ensure!(!success && text.contains(&world.daemon_pid()?.to_string()), "{text}");
    // The first is none the worse.
    world.api()?.system.version(VersionRequest {}).await?;
    world.finish().await
}

#[tokio::test]
async fn configuration_that_makes_no_sense() -> Result<()> {
    let mut world = World::start().await?;
    world.shutdown().await?;
    let config = fs::read_to_string(world.config_path())?;
    for (line, words) in [
        ("defalt_network = \"none\"", vec!["defalt_network", "default_network"]),
        ("[container_log]\nmax_byte = 5", vec!["max_byte", "container_log.max_bytes"]),
        ("max_downloads = \"many\"", vec!["max_downloads"]),
        ("max_downloads = ", vec!["config.toml"]),
    ] {
        fs::write(world.config_path(), format!("{config}{line}\n"))?;
        let (success, text) = outcome(&mut world.daemon_command()?)?;
        ensure!(!success, "{line} was taken");
        ensure!(words.iter().all(|w| text.contains(w)), "{line}: {text}");
    }
    fs::write(world.config_path(), config)?;
    world.finish().await
}

#[tokio::test]
async fn without_root_it_says_so() -> Result<()> {
    let Some(setpriv) = host::tool("setpriv") else {
        return host::skip("without_root_it_says_so", "no setpriv(1) here");
    };
    let world = World::cold(Default::default())?;
    let program = world.folder().join("wharfd");
    // Where a stranger can read it.
    fs::copy(host::binary("wharfd")?, &program)?;
    let mut command = Command::new(setpriv);
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command.arg("--root").arg(world.folder().join("nr"));
    command.arg("--state").arg(world.folder().join("ns")).current_dir("/");
    let (success, text) = outcome(&mut command)?;
    ensure!(!success && text.contains("root"), "{text}");
    world.finish().await
}

#[tokio::test]
async fn sockets_and_folders_are_private() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let world = World::start().await?;
    let mode = |path| Ok::<_, std::io::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    ensure!(mode(world.root())? == 0o700, "{:o}", mode(world.root())?);
    ensure!(mode(world.state())? == 0o700, "{:o}", mode(world.state())?);
    let socket = world.folder().join("w.sock");
    ensure!(mode(socket.clone())? == 0o600, "{:o}", mode(socket)?);
    world.finish().await
}
