//! Containers whose users are others on the host.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    CommitContainerRequest, Container, ContainerSpec, IdMapping, Mount, StopContainerRequest,
    UserNamespace,
};
use wharf_tests::{
    api::{Api, blamed_fields, script, sleeper},
    image::{self, Layer},
    world::{Options, World},
};

use crate::{exec::shell, refused};

const HOST: u32 = 1_000_000;

fn mapped() -> Option<UserNamespace> {
    let range = vec![IdMapping { container_id: 0, host_id: HOST, size: 65536 }];
    let (uids, gids) = (range.clone(), range);
    Some(UserNamespace { mode: "private".into(), uids, gids, ..Default::default() })
}

async fn owners_image(api: &mut Api) -> Result<()> {
    let mut recipe = image::busybox()?;
    recipe.layers.push(
        Layer::default()
            .folder("data", 0o755)
            .file("data/root", 0o600, "1")
            .file("data/user", 0o4755, "2")
            .owned_by(33, 44),
    );
    api.import(&recipe.build("owners:1")?.oci_tar()?, "").await?;
    Ok(())
}

/// Owner and change time of all files below a folder.
fn owners(folder: &Path) -> Result<BTreeMap<std::path::PathBuf, (u32, u32, i64, i64)>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                folders.push(path.clone());
            }
            all.insert(path, (meta.uid(), meta.gid(), meta.ctime(), meta.ctime_nsec()));
        }
    }
    Ok(all)
}

async fn says(api: &mut Api, container: &Container, text: &str) -> Result<String> {
    let outcome = api.exec(shell(&container.id, text), &[]).await?;
    Ok(outcome.out() + &outcome.err())
}

fn bind(source: &Path, target: &str) -> Mount {
    Mount {
        source: source.to_string_lossy().into_owned(),
        target: target.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn root_is_nobody_on_the_host_and_files_keep_their_owners() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.api()?;
    owners_image(&mut api).await?;
    let shared = tempfile::tempdir()?;
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755))?;
    fs::write(shared.path().join("roots"), "r")?;
    fs::set_permissions(shared.path().join("roots"), fs::Permissions::from_mode(0o600))?;
    let layers = world.root().join("snapshots/overlay/l");
    let before = owners(&layers)?;
    let spec = ContainerSpec {
        image: "owners:1".into(),
        user_namespace: mapped(),
        mounts: vec![
            bind(shared.path(), "/shared"),
            Mount { options: vec!["noidmap".into()], ..bind(shared.path(), "/as-it-is") },
            Mount {
                r#type: "volume".into(),
                source: "vol".into(),
                target: "/data".into(),
                ..Default::default()
            },
        ],
        ..sleeper()
    };
    let container = api.run(spec).await?;
    let text = "cat /proc/self/uid_map | tr -s ' '; id -u; stat -c '%u %g %a' /data/root /data/user \
                /etc/passwd /etc/hosts /shared/roots /as-it-is/roots; cat /shared/roots; echo new > \
                /shared/new; echo 3 > /data/third; echo x:x:9:9::/: >> /etc/passwd; mkdir /made; chown 7:8 \
                /made; rm /etc/group; echo y >> /etc/hosts; echo out > /dev/stdout; \
                touch /as-it-is/no 2>/dev/null || echo refused; mknod /n c 1 3 2>/dev/null || echo \
                no node";
    let seen = says(&mut api, &container, text).await?;
    let expected = format!(
        " 0 {HOST} 65536\n0\n0 0 600\n33 44 4755\n0 0 644\n0 0 644\n0 0 600\n65534 65534 600\nrout\n\
         refused\nno node\n"
    );
    ensure!(seen == expected, "{seen}");
    // On the host its root is another, and what it wrote belongs to whom the container says.
    let pid = container.incarnation.as_ref().context("no run")?.pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains(&format!("Uid:\t{HOST}\t{HOST}")), "{status}");
    ensure!(fs::metadata(shared.path().join("new"))?.uid() == 0);
    let volume = world.root().join("volumes/default/vol/data/third");
    ensure!(fs::metadata(volume)?.uid() == 0);
    ensure!(owners(&layers)? == before, "a layer was changed");

    // The same after a restart of the supervisor, and of the container.
    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    let text = "id -u; stat -c '%u %g' /made /etc/passwd; ls /etc/group";
    let seen = says(&mut api, &container, text).await?;
    ensure!(seen.starts_with("0\n7 8\n0 0\nls: "), "{seen}");
    let stop = StopContainerRequest { container: container.id.clone(), ..Default::default() };
    api.containers.stop(stop).await?;
    api.start(&container.id).await?;
    ensure!(says(&mut api, &container, text).await?.starts_with("0\n7 8\n0 0\nls: "));
    let as_user = wharf_proto::v1::ExecStart {
        user: "7:8".into(),
        ..shell(
            &container.id,
            "id -u; echo x > /made/x && stat -c %u /made/x; echo e > /dev/stderr",
        )
    };
    let seen = api.exec(as_user, &[]).await?;
    ensure!(seen.out() == "7\n7\n" && seen.err() == "e\n", "{seen:?}");
    let as_stranger =
        wharf_proto::v1::ExecStart { user: "70000".into(), ..shell(&container.id, "id") };
    let error = api.exec(as_stranger, &[]).await.err().context("it ran")?;
    let status = error.downcast_ref::<tonic::Status>().context("no status")?.clone();
    ensure!(blamed_fields(&status) == ["start.user"], "{status:?}");

    // Committed, owners are those of the image's users: seen by a container with the host's.
    let request = CommitContainerRequest {
        container: container.id.clone(),
        name: "mapped:1".into(),
        ..Default::default()
    };
    api.containers.commit(request).await?;
    let mut look = script(
        "stat -c '%u %g' /made /made/x /etc/passwd; ls /etc/group; cat /proc/self/uid_map | tr -s ' '",
    );
    look.image = "mapped:1".into();
    let (_, outcome) = api.run_to_end(look).await?;
    ensure!(outcome.out() == "7 8\n7 8\n0 0\n 0 0 4294967295\n", "{outcome:?}");
    api.delete_all().await?;
    let all = wharf_proto::v1::PruneVolumesRequest { all: true, ..Default::default() };
    api.volumes.prune(all).await?;
    world.finish().await
}

#[tokio::test]
async fn each_automatic_container_has_a_range_of_its_own() -> Result<()> {
    let config = "default_userns = \"auto:size=1000\"\nuserns_range = \"2000000:2500\"\n".into();
    let world = World::with(Options { config, ..Default::default() }).await?;
    let mut api = world.with_busybox().await?;
    let look = || script("cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '");
    let both = |first: u32| format!(" 0 {first} 1000\n 0 {first} 1000\n");
    let (one, seen) = api.run_to_end(look()).await?;
    ensure!(seen.out() == both(2_000_000), "{seen:?}");
    let (two, seen) = api.run_to_end(look()).await?;
    ensure!(seen.out() == both(2_001_000), "{seen:?}");
    let filled = two.spec.as_ref().and_then(|s| s.user_namespace.as_ref()).context("no users")?;
    ensure!(filled.mode == "auto" && filled.uids[0].host_id == 2_001_000, "{filled:?}");
    let status = refused(api.create(look()).await, Code::InvalidArgument)?;
    ensure!(blamed_fields(&status) == ["spec.user_namespace"], "{status:?}");
    api.remove(&one.id).await?;
    let (_, seen) = api.run_to_end(look()).await?;
    ensure!(seen.out() == both(2_000_000), "{seen:?}");

    // The host's users, and what makes no sense.
    let host = Some(UserNamespace { mode: "host".into(), ..Default::default() });
    let (_, seen) = api.run_to_end(ContainerSpec { user_namespace: host, ..look() }).await?;
    ensure!(seen.out().starts_with(" 0 0 4294967295\n"), "{seen:?}");
    let range = |container_id, host_id, size| IdMapping { container_id, host_id, size };
    let wrong = UserNamespace {
        uids: vec![range(0, 5, 10), range(5, 100, 10)],
        gids: vec![range(0, 5, 10)],
        ..Default::default()
    };
    for (spec, field) in [
        (ContainerSpec { user_namespace: Some(wrong), ..look() }, "spec.user_namespace.uids[1]"),
        (ContainerSpec { user: "5000".into(), user_namespace: auto(), ..look() }, "spec.user"),
        (
            ContainerSpec { runtime: "runc".into(), user_namespace: auto(), ..look() },
            "spec.user_namespace",
        ),
    ] {
        let status = refused(api.create(spec).await, Code::InvalidArgument)?;
        ensure!(blamed_fields(&status) == [field], "{status:?}");
    }
    // A file system that can't be mapped is said to be.
    let spec = ContainerSpec {
        mounts: vec![bind(Path::new("/proc/sys"), "/s")],
        user_namespace: mapped(),
        ..look()
    };
    let status = api.run(spec).await.err().context("it ran")?;
    ensure!(status.message().contains("idmap"), "{status:?}");
    api.delete_all().await?;
    world.finish().await
}

fn auto() -> Option<UserNamespace> {
    Some(UserNamespace { mode: "auto".into(), size: 300, ..Default::default() })
}

#[tokio::test]
async fn copies_are_mapped_too() -> Result<()> {
    let config = "snapshotter = \"native\"\n".into();
    let world = World::with(Options { config, ..Default::default() }).await?;
    let mut api = world.api()?;
    owners_image(&mut api).await?;
    let spec = ContainerSpec {
        image: "owners:1".into(),
        user_namespace: mapped(),
        ..script("stat -c '%u %g' /data/user /data/root; touch /made; stat -c %u /made")
    };
    let (container, outcome) = api.run_to_end(spec).await?;
    ensure!(outcome.out() == "33 44\n0 0\n0\n", "{outcome:?}");
    let made = world.root().join("snapshots/overlay/c").join(&container.id).join("fs/made");
    ensure!(fs::metadata(made)?.uid() == 0);
    api.delete_all().await?;
    world.finish().await
}
