//! Pulls from a real registry on loopback.

use anyhow::{Result, ensure};
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
