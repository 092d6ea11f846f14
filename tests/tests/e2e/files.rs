//! Files of containers: copied in and out, what has changed, the whole as a tar.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    process::{Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use wharf_proto::v1::{IdMapping, Mount, StopContainerRequest, UserNamespace};
use wharf_tests::{
    api::{Api, sleeper},
    world::World,
};

use crate::exec::shell;

fn wharf(world: &World, args: &[&str]) -> Result<Output> {
    let output = world.cli(args)?.stdin(Stdio::null()).output()?;
    Ok(output)
}

fn ok(world: &World, args: &[&str]) -> Result<String> {
    let output = wharf(world, args)?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {err}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn refused(world: &World, args: &[&str]) -> Result<String> {
    let output = wharf(world, args)?;
    ensure!(!output.status.success(), "{args:?} was not refused");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn says(api: &mut Api, container: &str, text: &str) -> Result<String> {
    let outcome = api.exec(shell(container, text), &[]).await?;
    Ok(outcome.out() + &outcome.err())
}

async fn stop(api: &mut Api, container: &str) -> Result<()> {
    let stop = StopContainerRequest { container: container.into(), ..Default::default() };
    api.containers.stop(stop).await?;
    Ok(())
}

#[tokio::test]
async fn copied_in_and_out_of_running_and_stopped_containers() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let range = vec![IdMapping { container_id: 0, host_id: 3_000_000, size: 65536 }];
    let mapped = UserNamespace { uids: range.clone(), gids: range, ..Default::default() };
    let here = tempfile::tempdir()?;
    let path = |name: &str| here.path().join(name);
    let text = |name: &str| path(name).to_string_lossy().into_owned();
    fs::create_dir_all(path("folder/deep"))?;
    fs::write(path("folder/deep/file"), "deep\n")?;
    fs::write(path("file"), "file\n")?;
    symlink("deep/file", path("folder/link"))?;

    for (name, namespace) in [("plain", None), ("mapped", Some(mapped))] {
        let mut wanted = sleeper();
        wanted.name = name.into();
        wanted.user_namespace = namespace;
        wanted.mounts.push(Mount {
            r#type: "volume".into(),
            source: format!("vol-{name}"),
            target: "/vol".into(),
            ..Default::default()
        });
        api.run(wanted).await?;
        let setup = "mkdir /w; echo out > /w/out; chown 5:6 /w/out; ln -s /w /to-w; ln -s /etc/no /w/dangling";
        ensure!(says(&mut api, name, setup).await?.is_empty());
        for state in ["running", "stopped"] {
            let at = |path: &str| format!("{name}:{path}");
            // In: under its name into a folder, under another, what is in it; through links, to a volume.
            ok(&world, &["cp", &text("file"), &at("/to-w")])?;
            ok(&world, &["cp", &text("file"), &at(&format!("/w/{state}"))])?;
            ok(&world, &["cp", &text("folder"), &at("w/")])?;
            ok(&world, &["cp", &text("folder/."), &at("/w/content")])?;
            ok(&world, &["cp", "-a", &text("file"), &at("/vol/kept")])?;
            // Out: the same the other way around.
            let out = path(&format!("{name}-{state}"));
            fs::create_dir(&out)?;
            let out_text = out.to_string_lossy().into_owned();
            ok(&world, &["cp", &at("/w"), &out_text])?;
            ok(&world, &["cp", "-a", &at("/w/out"), &format!("{out_text}/renamed")])?;
            ok(&world, &["cp", &at("/to-w/."), &format!("{out_text}/content")])?;
            ok(&world, &["cp", "-L", &at("/w/folder/link"), &format!("{out_text}/followed")])?;
            ok(&world, &["cp", &at("/vol/kept"), &out_text])?;
            let read = |name: &str| fs::read_to_string(out.join(name));
            ensure!(read("w/out")? == "out\n" && read("content/out")? == "out\n");
            ensure!(read(&format!("w/{state}"))? == "file\n" && read("w/file")? == "file\n");
            ensure!(read("w/folder/deep/file")? == "deep\n" && read("followed")? == "deep\n");
            ensure!(read("w/content/deep/file")? == "deep\n" && read("kept")? == "file\n");
            ensure!(fs::read_link(out.join("w/folder/link"))?.to_str() == Some("deep/file"));
            let renamed = fs::metadata(out.join("renamed"))?;
            ensure!((renamed.uid(), renamed.gid()) == (5, 6), "{renamed:?}");
            // What can't be.
            let said = refused(&world, &["cp", &at("/none"), &out_text])?;
            ensure!(said.contains("no \"/none\""), "{said}");
            refused(&world, &["cp", &text("folder"), &at("/w/out")])?;
            refused(&world, &["cp", &text("file"), &at("/none/")])?;
            refused(&world, &["cp", &at("/w"), &format!("{out_text}/renamed")])?;
            // A tar on standard output and input.
            let tar = wharf(&world, &["cp", &at("/w/out"), "-"])?.stdout;
            fs::write(path("out.tar"), &tar)?;
            let input = fs::File::open(path("out.tar"))?;
            let put = world.cli(["cp", "-", &at("/vol")])?.stdin(input).output()?;
            ensure!(put.status.success(), "{put:?}");
            if state == "running" {
                stop(&mut api, name).await?;
            }
        }
        api.start(name).await?;
        let seen = says(
            &mut api,
            name,
            "cat /w/running /w/stopped /w/file /vol/kept /vol/out; stat -c '%u:%g' /w/file \
             /w/folder /w/out /vol/out /vol/kept; readlink /to-w",
        )
        .await?;
        let expected = "file\nfile\nfile\nfile\nout\n0:0\n0:0\n5:6\n5:6\n0:0\n/w\n";
        ensure!(seen == expected, "{name}: {seen}");
    }
    api.delete_all().await?;
    let all = wharf_proto::v1::PruneVolumesRequest { all: true, ..Default::default() };
    api.volumes.prune(all).await?;
    world.finish().await
}

#[tokio::test]
async fn links_of_a_container_lead_nowhere_else() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let secret = tempfile::tempdir()?;
    fs::write(secret.path().join("secret"), "secret")?;
    let mut wanted = sleeper();
    wanted.name = "hostile".into();
    api.run(wanted).await?;
    let out = secret.path().display();
    let setup = format!(
        "ln -s {out} /away; ln -s ../../../../..{out} /up; ln -s {out}/secret /file; mkdir /d; ln -s \
         {out} /d/away"
    );
    says(&mut api, "hostile", &setup).await?;
    let here = tempfile::tempdir()?;
    let file = here.path().join("file");
    fs::write(&file, "mine")?;
    let file = file.to_string_lossy().into_owned();
    for state in ["running", "stopped"] {
        for path in ["/away/secret", "/up/secret", "/file", "/d/away/secret", "/../../../secret"] {
            let to = here.path().join("got").to_string_lossy().into_owned();
            wharf(&world, &["cp", "-L", &format!("hostile:{path}"), &to])?;
            let got = fs::read_to_string(here.path().join("got")).unwrap_or_default();
            ensure!(!got.contains("secret"), "{state}: {path} was read");
        }
        for path in ["/away", "/away/x", "/up/x", "/file", "/d/away/x"] {
            wharf(&world, &["cp", &file, &format!("hostile:{path}")])?;
        }
        let there: Vec<_> = fs::read_dir(secret.path())?.collect();
        ensure!(there.len() == 1, "{state}: something was written: {there:?}");
        ensure!(fs::read_to_string(secret.path().join("secret"))? == "secret");
        if state == "running" {
            stop(&mut api, "hostile").await?;
        }
    }
    api.delete_all().await?;
    world.finish().await
}

#[tokio::test]
async fn what_has_changed_and_the_whole() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut wanted = sleeper();
    wanted.name = "changed".into();
    api.run(wanted).await?;
    let change = "echo x > /home/bob/new; rm /etc/group; echo more >> /etc/passwd; mkdir /empty";
    ensure!(says(&mut api, "changed", change).await?.is_empty());
    let expected =
        "C /etc\nD /etc/group\nC /etc/passwd\nA /empty\nC /home\nC /home/bob\nA /home/bob/new\n";
    for state in ["running", "stopped"] {
        let mut lines: Vec<_> =
            ok(&world, &["diff", "changed"])?.lines().map(str::to_owned).collect();
        let mut wanted: Vec<_> = expected.lines().map(str::to_owned).collect();
        lines.sort();
        wanted.sort();
        ensure!(lines == wanted, "{state}: {lines:?}");
        let here = tempfile::tempdir()?;
        let tar = here.path().join("all.tar");
        ok(&world, &["export", "-o", &tar.to_string_lossy(), "changed"])?;
        let mut names = Vec::new();
        for entry in tar::Archive::new(fs::File::open(&tar)?).entries()? {
            names.push(entry?.path()?.to_string_lossy().into_owned());
        }
        for name in ["home/bob/new", "etc/passwd", "empty/", "bin/busybox"] {
            ensure!(names.iter().any(|known| known == name), "{state}: no {name} in {names:?}");
        }
        ensure!(!names.iter().any(|name| name == "etc/group" || name.starts_with("proc/1")));
        if state == "running" {
            stop(&mut api, "changed").await?;
        }
    }
    let said = refused(&world, &["diff", "nobody"])?;
    ensure!(said.contains("no container is called"), "{said}");
    // Before its first start, too.
    let mut wanted = sleeper();
    wanted.name = "never".into();
    api.create(wanted).await?;
    ensure!(ok(&world, &["diff", "never"])?.is_empty());
    let here = tempfile::tempdir()?;
    let file = here.path().join("f").to_string_lossy().into_owned();
    fs::write(&file, "early\n")?;
    ok(&world, &["cp", &file, "never:/early"])?;
    api.start("never").await?;
    ensure!(says(&mut api, "never", "cat /early").await? == "early\n");
    let size = fs::metadata(&file).context("still here")?.len();
    ensure!(size == 6);
    api.delete_all().await?;
    world.finish().await
}
