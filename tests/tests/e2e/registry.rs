//! Pulls from a real registry on loopback.

use std::{io::Write as _, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_tests::{
    api::{blamed_fields, resource, spec},
    host, image,
    registry::Registry,
    wait::soon,
    world::World,
};

use crate::refused;

#[tokio::test]
async fn pulled_with_progress_and_then_up_to_date() -> Result<()> {
    if let Some(why) = Registry::missing() {
        return host::skip("pulled_with_progress_and_then_up_to_date", why);
    }
    let registry = Registry::start().await?;
    let built = image::busybox()?.build("pulled:1")?;
    registry.push(&built, "some/where/busybox", "1")?;
    let world = World::start().await?;
    let mut api = world.api()?;
    let reference = registry.reference("some/where/busybox:1");
    let (progress, done) = soon("the pull", api.pull(&reference)).await?;
    ensure!(progress > 0, "no progress was told");
    ensure!(!done.up_to_date, "{done:?}");
    let pulled = done.image.unwrap_or_default();
    ensure!(pulled.id == built.config.digest && pulled.names == [reference.clone()], "{pulled:?}");
    ensure!(pulled.digest == built.manifest.digest, "{pulled:?}");

    let mut hello = spec(["echo", "pulled"]);
    hello.image = reference.clone();
    ensure!(api.run_to_end(hello).await?.1.out() == "pulled\n");

    let (_, again) = soon("the second pull", api.pull(&reference)).await?;
    ensure!(again.up_to_date, "{again:?}");
    let by_digest = registry.reference(&format!("some/where/busybox@{}", built.manifest.digest));
    let (_, same) = soon("a pull by digest", api.pull(&by_digest)).await?;
    ensure!(same.image.is_some_and(|i| i.id == pulled.id));

    // The tag moves on; one layer of it is here already.
    let mut newer = image::busybox()?;
    newer.layers.push(image::Layer::default().file("etc/version", 0o644, "2\n"));
    let newer = newer.build("pulled:1")?;
    registry.push(&newer, "some/where/busybox", "1")?;
    let (_, moved) = soon("a pull of the moved tag", api.pull(&reference)).await?;
    ensure!(!moved.up_to_date && moved.image.is_some_and(|i| i.id == newer.config.digest));
    let mut version = spec(["cat", "/etc/version"]);
    version.image = reference;
    ensure!(api.run_to_end(version).await?.1.out() == "2\n");
    world.finish().await
}

#[tokio::test]
async fn pulls_that_fail() -> Result<()> {
    if let Some(why) = Registry::missing() {
        return host::skip("pulls_that_fail", why);
    }
    let registry = Registry::start().await?;
    let built = image::busybox()?.build("broken:1")?;
    registry.push(&built, "broken", "1")?;
    let layer = built.layers[0].blob.digest.clone();
    registry.corrupt(&layer)?;
    let world = World::start().await?;
    let mut api = world.api()?;

    let unknown = registry.reference("no/such:1");
    let status = refused(soon_status(api.pull(&unknown)).await?, Code::NotFound)?;
    ensure!(resource(&status).is_some_and(|(kind, _)| kind == "image"), "{status:?}");
    let unknown_tag = registry.reference("broken:2");
    refused(soon_status(api.pull(&unknown_tag)).await?, Code::NotFound)?;

    let broken = registry.reference("broken:1");
    let status = refused(soon_status(api.pull(&broken)).await?, Code::DataLoss)?;
    let named =
        status.message().contains(&layer) || resource(&status).is_some_and(|(_, n)| n == layer);
    ensure!(named, "{layer}: {status:?}");
    crate::images::nothing_half_done(&world).await?;

    for bad in ["docker.io/UPPER", "a//b", "x:y:z:w", "", "a@sha256:1"] {
        let status = refused(soon_status(api.pull(bad)).await?, Code::InvalidArgument)?;
        ensure!(blamed_fields(&status) == ["reference"], "{bad}: {status:?}");
    }
    drop(registry);
    refused(soon_status(api.pull(&broken)).await?, Code::Unavailable)?;
    world.finish().await
}

async fn soon_status<T>(
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<Result<T, tonic::Status>> {
    soon("an answer", async { Ok::<_, anyhow::Error>(call.await) }).await
}

/// bcrypt of "harbour".
const USERS: &str = "captain:$2y$05$abcdefghijklmnopqrstuuZ9hITkhSjgdPh1azpD9e5XbVlHeIfui\n";

/// Keeps what it is given in a file beside it, as Docker's helpers keep it elsewhere.
const HELPER: &str = r#"#!/bin/sh
kept=$(dirname "$0")/kept
case $1 in
store) cat > "$kept";;
get) cat > /dev/null; [ -f "$kept" ] && cat "$kept" || { echo "credentials not found in native keychain"; exit 1; };;
erase) cat > /dev/null; rm -f "$kept";;
esac
"#;

#[tokio::test]
async fn the_command_line_logs_in_and_pushes() -> Result<()> {
    if let Some(why) = Registry::missing() {
        return host::skip("the_command_line_logs_in_and_pushes", why);
    }
    let registry = Registry::start_with_users(USERS).await?;
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let home = tempfile::TempDir::new()?;
    let config = home.path().join("config.json");
    let wharf = async |args: &[&str], input: &'static str| -> Result<(i32, String)> {
        let mut command = world.cli(args)?;
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("DOCKER_CONFIG", home.path());
        command.env("PATH", format!("{}:{path}", home.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(input.as_bytes());
            }
            child.wait_with_output()
        });
        let output = soon("wharf ends", async { anyhow::Ok(run.await??) }).await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    };
    let (address, reference) = (registry.address(), registry.reference("team/busybox:1"));
    wharf(&["tag", image::BUSYBOX, &reference], "").await?;
    let (code, text) = wharf(&["push", &reference], "").await?;
    ensure!(code != 0 && text.contains(&address), "let in without a word: {text}");
    let login = ["login", "-u", "captain", "--password-stdin", &*address];
    let (code, text) = wharf(&login, "storm\n").await?;
    ensure!(code != 0 && !config.exists(), "a wrong password: {text}");
    let (code, text) = wharf(&login, "harbour\n").await?;
    ensure!(code == 0 && text.contains("Login Succeeded"), "{text}");
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    ensure!(kept["auths"][&address]["auth"] == "Y2FwdGFpbjpoYXJib3Vy", "{kept}");

    let (code, text) = wharf(&["push", &reference], "").await?;
    ensure!(code == 0 && text.contains("digest: sha256:"), "{text}");
    let (_, text) = wharf(&["push", "-q", &reference], "").await?;
    ensure!(text.trim() == reference, "{text}");
    let (_, text) = wharf(&["image", "tags", &reference], "").await?;
    ensure!(text.trim() == "1", "{text}");
    let (_, text) = wharf(&["search", &format!("{address}/busy")], "").await?;
    ensure!(text.contains(&format!("{address}/team/busybox")), "{text}");

    // A helper keeps it in the file's place.
    std::fs::write(home.path().join("docker-credential-test"), HELPER)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(home.path().join("docker-credential-test"), mode)?;
    std::fs::write(&config, r#"{"credsStore": "test"}"#)?;
    let (code, text) = wharf(&["pull", "-q", &reference], "").await?;
    ensure!(code != 0, "nothing is kept yet: {text}");
    let (code, text) = wharf(&login, "harbour").await?;
    ensure!(code == 0, "{text}");
    ensure!(!std::fs::read_to_string(&config)?.contains("Y2FwdGFpb"), "it is in the file");
    api.images
        .delete(wharf_proto::v1::DeleteImageRequest { image: reference.clone(), force: true })
        .await?;
    let (code, text) = wharf(&["run", "--rm", &reference, "echo", "pulled"], "").await?;
    ensure!(code == 0 && text.contains("pulled"), "{text}");
    let (code, text) = wharf(&["logout", &address], "").await?;
    ensure!(code == 0 && text.contains("Removing login credentials"), "{text}");
    let (_, text) = wharf(&["logout", &address], "").await?;
    ensure!(text.contains("Not logged in"), "{text}");
    let (code, text) = wharf(&["image", "tags", &reference], "").await?;
    ensure!(code != 0, "it knows nobody any more: {text}");
    world.finish().await
}

/// However large an image is, what a pull takes of memory is a few buffers a layer.
#[tokio::test]
async fn a_large_image_takes_little_memory() -> Result<()> {
    if let Some(why) = Registry::missing() {
        return host::skip("a_large_image_takes_little_memory", why);
    }
    let registry = Registry::start().await?;
    let mut recipe = image::busybox()?;
    // As random as gzip needs it to be.
    let mut state = 1_u64;
    let mut noise = |len: usize| -> Vec<u8> {
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (*state >> 56) as u8
        };
        (0..len).map(|_| next(&mut state)).collect()
    };
    for layer in 0..5 {
        recipe.layers.push(image::Layer::default().file(
            &format!("big{layer}"),
            0o644,
            noise(20 << 20),
        ));
    }
    registry.push(&recipe.build("large:1")?, "large", "1")?;
    drop(recipe);
    let world = World::start().await?;
    let mut api = world.api()?;
    let pid = world.daemon_pid()?;
    let field = |key: &str| -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    };
    let before = field("VmRSS:")?;
    let (_, done) = soon("the pull", api.pull(&registry.reference("large:1"))).await?;
    let spent = done.spent.unwrap_or_default();
    ensure!(spent.network_us > 0 && spent.inflate_us > 0 && spent.write_us > 0, "{spent:?}");
    let grown = field("VmHWM:")?.saturating_sub(before);
    ensure!(grown < 40, "the pull of 100 MiB took {grown} MiB");
    world.finish().await
}
