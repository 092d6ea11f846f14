//! The command line as Docker's users know it: verbs, flags, exit codes.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use wharf_proto::v1::ContainerState;
use wharf_tests::{
    image::{self, BUSYBOX},
    wait,
    world::World,
};

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `wharf` to its end, off the threads that the test's own calls need.
async fn wharf(world: &World, args: &[&str]) -> Result<Said> {
    let mut command = world.cli(args)?;
    command.stdin(Stdio::null());
    finished(command).await.with_context(|| format!("wharf {}", args.join(" ")))
}

async fn finished(mut command: Command) -> Result<Said> {
    let run = tokio::task::spawn_blocking(move || command.output());
    Ok(said(wait::soon("wharf ends", async { run.await? }).await?))
}

/// The same, when it must succeed.
async fn ok(world: &World, args: &[&str]) -> Result<String> {
    let said = wharf(world, args).await?;
    ensure!(said.code == 0, "wharf {}: {} {}", args.join(" "), said.code, said.err);
    Ok(said.out)
}

#[tokio::test]
async fn exit_codes() -> Result<()> {
    let world = World::start().await?;
    let _api = world.with_busybox().await?;
    for (code, args) in [
        (0, vec![BUSYBOX, "true"]),
        (1, vec![BUSYBOX, "false"]),
        (77, vec![BUSYBOX, "sh", "-c", "exit 77"]),
        (137, vec!["-m", "24m", "--memory-swap", "24m", BUSYBOX, "tail", "/dev/zero"]),
        (127, vec![BUSYBOX, "/no/such"]),
        (126, vec![BUSYBOX, "/bin/not-executable"]),
        (125, vec!["--no-such-flag", BUSYBOX, "true"]),
        (125, vec!["--name", "bad name", BUSYBOX, "true"]),
    ] {
        let args = [vec!["run", "--rm"], args].concat();
        let said = wharf(&world, &args).await?;
        ensure!(said.code == code, "{args:?}: {} {} {}", said.code, said.out, said.err);
        ensure!(code < 125 || code == 137 || !said.err.is_empty(), "{args:?} says nothing");
    }
    let left = ok(&world, &["ps", "-a", "-q"]).await?;
    ensure!(left.is_empty(), "--rm left {left}");
    world.finish().await
}

#[tokio::test]
async fn run_with_dockers_flags() -> Result<()> {
    let world = World::start().await?;
    let _api = world.with_busybox().await?;
    let folder = world.folder().join("v");
    fs::create_dir(&folder)?;
    let volume = format!("{}:/v:ro", folder.display());
    fs::write(folder.join("f"), "volume\n")?;
    let text = "id -un; pwd; echo $A $B; cat /v/f; hostname; touch /v/x 2>/dev/null || echo ro";
    let out = ok(
        &world,
        &[
            "run",
            "--rm",
            "-e",
            "A=1",
            "--env",
            "B=2",
            "-w",
            "/home",
            "-u",
            "bob",
            "-v",
            &volume,
            "-m",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "50",
            "--network",
            "none",
            "-h",
            "box",
            BUSYBOX,
            "sh",
            "-c",
            text,
        ],
    )
    .await?;
    ensure!(out == "bob\n/home\n1 2\nvolume\nbox\nro\n", "{out}");
    let out = ok(&world, &["run", "--rm", "--entrypoint", "echo", BUSYBOX, "a", "b"]).await?;
    ensure!(out == "a b\n", "{out}");
    let both = wharf(&world, &["run", "--rm", BUSYBOX, "sh", "-c", "echo o; echo e >&2"]).await?;
    ensure!(both.out == "o\n" && both.err == "e\n", "{} {}", both.out, both.err);
    world.finish().await
}

#[tokio::test]
async fn stdin_through_a_pipe() -> Result<()> {
    let world = World::start().await?;
    let _api = world.with_busybox().await?;
    let mut command = world.cli(["run", "-i", "--rm", BUSYBOX, "wc", "-c"])?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let feed = tokio::task::spawn_blocking(move || stdin.write_all(&vec![b'x'; 3 << 20]));
    let end = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = wait::soon("wharf ends", async { end.await? }).await?;
    feed.await??;
    ensure!(said(output).out.trim() == (3 << 20).to_string());
    world.finish().await
}

#[tokio::test]
async fn a_whole_day() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let archive = world.folder().join("image.tar");
    fs::write(&archive, image::busybox()?.build(BUSYBOX)?.docker_tar()?)?;
    let loaded = ok(&world, &["load", "-i", &archive.display().to_string()]).await?;
    ensure!(loaded.contains(BUSYBOX), "{loaded}");
    ensure!(ok(&world, &["images"]).await?.contains("busybox"));
    let script = "trap 'exit 3' TERM; echo up; while :; do sleep 1000 & wait; done";
    let id = ok(&world, &["run", "-d", "--name", "day", BUSYBOX, "sh", "-c", script]).await?;
    let id = id.trim();
    ensure!(id.len() == 64, "{id}");
    let ps = ok(&world, &["ps"]).await?;
    ensure!(ps.contains("day") && ps.contains(&id[..12]) && ps.contains("busybox"), "{ps}");
    ensure!(ok(&world, &["ps", "-q"]).await?.trim() == &id[..12]);
    wait::until("it is up", || async {
        Ok(ok(&world, &["logs", "day"]).await?.contains("up").then_some(()))
    })
    .await?;
    let exec = wharf(&world, &["exec", &id[..8], "sh", "-c", "echo in; exit 5"]).await?;
    ensure!(exec.code == 5 && exec.out == "in\n", "{} {}", exec.out, exec.err);
    ensure!(ok(&world, &["exec", "-e", "X=y", "day", "sh", "-c", "echo $X"]).await? == "y\n");
    let json: Value = serde_json::from_str(&ok(&world, &["inspect", "day"]).await?)?;
    ensure!(json[0]["Id"] == id || json[0]["id"] == id, "{json}");
    ensure!(ok(&world, &["stop", "day"]).await?.trim() == "day");
    ensure!(ok(&world, &["wait", "day"]).await?.trim() == "3");
    ensure!(ok(&world, &["ps", "-q"]).await?.is_empty());
    ensure!(ok(&world, &["ps", "-a"]).await?.contains("day"));
    ensure!(ok(&world, &["start", "day"]).await?.trim() == "day");
    let busy = wharf(&world, &["rm", "day"]).await?;
    ensure!(busy.code != 0 && busy.err.contains("running"), "{}", busy.err);
    let used = wharf(&world, &["rmi", BUSYBOX]).await?;
    ensure!(used.code != 0, "{}", used.out);
    ensure!(ok(&world, &["kill", "-s", "KILL", "day"]).await?.trim() == "day");
    wait::until("it is killed", || {
        let mut api = api.clone();
        async move { Ok((api.state("day").await? == ContainerState::Stopped).then_some(())) }
    })
    .await?;
    ensure!(ok(&world, &["rm", "-f", "day"]).await?.trim() == "day");
    let unknown = wharf(&world, &["logs", "day"]).await?;
    ensure!(unknown.code == 1 && unknown.err.contains("day"), "{} {}", unknown.code, unknown.err);
    ok(&world, &["rmi", BUSYBOX]).await?;
    ensure!(api.list().await?.is_empty());
    ensure!(ok(&world, &["version"]).await?.contains(env!("CARGO_PKG_VERSION")));
    let info = ok(&world, &["info"]).await?;
    ensure!(info.contains(&world.root().display().to_string()), "{info}");
    world.finish().await
}

#[tokio::test]
async fn json_for_programs() -> Result<()> {
    let world = World::start().await?;
    let _api = world.with_busybox().await?;
    ok(&world, &["run", "-d", "--name", "one", BUSYBOX, "sleep", "1000"]).await?;
    for args in [
        vec!["ps", "--format", "json"],
        vec!["images", "--format", "json"],
        vec!["info", "--format", "json"],
        vec!["version", "--format", "json"],
        vec!["inspect", "one", "--format", "json"],
    ] {
        let out = ok(&world, &args).await?;
        for line in serde_json::Deserializer::from_str(&out).into_iter::<Value>() {
            line.with_context(|| format!("{args:?}: {out}"))?;
        }
        ensure!(!out.trim().is_empty(), "{args:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn following_through_a_restart() -> Result<()> {
    let mut world = World::start().await?;
    let _api = world.with_busybox().await?;
    let count = "i=0; while [ $i -lt 1500 ]; do i=$((i+1)); echo $i; usleep 1000; done; exit 9";
    let mut command = world.cli(["run", "--name", "on", BUSYBOX, "sh", "-c", count])?;
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let end = tokio::task::spawn_blocking(move || child.wait_with_output());
    wait::until("it counts", || {
        let api = world.api();
        async move { Ok(api?.logs("on").await.is_ok_and(|l| l.stdout.len() > 100).then_some(())) }
    })
    .await?;
    world.kill9()?;
    world.restart().await?;
    let said = said(wait::soon("wharf ends", async { end.await? }).await?);
    ensure!(said.code == 9, "{} {}", said.code, said.err);
    ensure!(crate::no_gap(&said.out)? == 1500, "{}", said.err);
    world.finish().await
}

#[tokio::test]
async fn without_a_supervisor_it_says_what_to_do() -> Result<()> {
    let world = World::cold(Default::default())?;
    let said = wharf(&world, &["ps"]).await?;
    ensure!(said.code == 1 && said.err.contains("wharfd"), "{} {}", said.code, said.err);
    let said = wharf(&world, &["run", "--rm", BUSYBOX, "true"]).await?;
    ensure!(said.code == 125, "{} {}", said.code, said.err);
    world.finish().await
}
