//! The same where there is no overlay: each container has a copy. (`make test-native` runs all tests
//! so.)

use anyhow::{Context as _, Result, ensure};
use wharf_proto::v1::{CommitContainerRequest, InfoRequest, Mount};
use wharf_tests::{
    api::{script, sleeper},
    image::{self, Layer},
    world::{Options, World},
};

#[tokio::test]
async fn containers_without_overlay() -> Result<()> {
    let config = "snapshotter = \"native\"\n".into();
    let mut world = World::with(Options { config, ..Default::default() }).await?;
    let mut api = world.api()?;
    ensure!(api.system.info(InfoRequest {}).await?.into_inner().snapshotter == "native");
    let mut recipe = image::busybox()?;
    recipe.layers.push(
        Layer::default()
            .folder("data", 0o755)
            .file("data/gone", 0o644, "1")
            .file("data/kept", 0o4711, "2")
            .owned_by(1000, 50)
            .folder("opaque", 0o755)
            .file("opaque/below", 0o644, "3"),
    );
    recipe.layers.push(Layer::default().whiteout("data/gone").opaque("opaque").file(
        "opaque/above",
        0o644,
        "4",
    ));
    api.import(&recipe.build("copied:1")?.oci_tar()?, "").await?;
    let mut wanted = sleeper();
    wanted.image = "copied:1".into();
    wanted.mounts.push(Mount {
        r#type: "volume".into(),
        source: "filled".into(),
        target: "/data".into(),
        ..Default::default()
    });
    let container = api.run(wanted).await?;
    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    let look = crate::exec::shell(
        &container.id,
        "mount | grep -c overlay; ls /data /opaque; stat -c '%a %u %g' /data/kept; echo new > \
         /opaque/new; rm /etc/group; id -u",
    );
    let seen = api.exec(look, &[]).await?;
    let expected = "0\n/data:\nkept\n\n/opaque:\nabove\n4711 1000 50\n0\n";
    ensure!(seen.out() == expected, "{seen:?}");
    let request = CommitContainerRequest {
        container: container.id.clone(),
        name: "made:1".into(),
        ..Default::default()
    };
    let made = api.containers.commit(request).await?.into_inner().image.context("no image")?;
    ensure!(made.size_bytes > 1 << 20, "{made:?}");
    let mut look = script("cat /opaque/*; ls /etc/group /data/gone");
    look.image = "made:1".into();
    let (_, outcome) = api.run_to_end(look).await?;
    ensure!(outcome.out() == "4new\n", "{outcome:?}");
    api.delete_all().await?;
    let all = wharf_proto::v1::PruneVolumesRequest { all: true, ..Default::default() };
    api.volumes.prune(all).await?;
    world.finish().await
}
