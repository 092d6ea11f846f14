//! What is not needed goes, what is in use stays.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use wharf_proto::v1::{
    DeleteImageRequest, DiskUsageRequest, GetImageRequest, ListContainersRequest,
    ListImagesRequest, PruneContainersRequest, PruneImagesRequest, TagImageRequest,
};
use wharf_tests::{
    api::{Api, script, sleeper},
    image::{self, BUSYBOX, Layer},
    world::World,
};

use crate::refused;

async fn images(api: &mut Api) -> Result<Vec<Vec<String>>> {
    let listed = api.images.list(ListImagesRequest::default()).await?.into_inner().images;
    Ok(listed.into_iter().map(|image| image.names).collect())
}

fn get(image: &str) -> GetImageRequest {
    GetImageRequest { image: image.into() }
}

fn delete(image: &str, force: bool) -> DeleteImageRequest {
    DeleteImageRequest { image: image.into(), force }
}

/// busybox with one more file, under a name.
async fn import(api: &mut Api, name: &str, content: &str) -> Result<String> {
    let mut recipe = image::busybox()?;
    recipe.layers.push(Layer::default().file("content", 0o644, content));
    Ok(api.import(&recipe.build(name)?.oci_tar()?, "").await?[0].id.clone())
}

#[tokio::test]
async fn images_that_nobody_needs() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let old = import(&mut api, "app:1", "old").await?;
    // The name moves on: the old one dangles.
    import(&mut api, "app:1", "new").await?;
    import(&mut api, "used:1", "used").await?;
    let mut spec = script("true");
    spec.image = "used:1".into();
    let container = api.create(spec).await?;
    let gone = api.images.prune(PruneImagesRequest::default()).await?.into_inner();
    ensure!(gone.deleted.contains(&old) && gone.untagged.is_empty(), "{gone:?}");
    ensure!(gone.reclaimed_bytes > 0, "{gone:?}");
    ensure!(images(&mut api).await?.len() == 2);
    let all = PruneImagesRequest { all: true, ..Default::default() };
    let gone = api.images.prune(all.clone()).await?.into_inner();
    ensure!(gone.untagged == ["docker.io/library/app:1"], "{gone:?}");
    ensure!(images(&mut api).await? == [["docker.io/library/used:1"]]);
    // Its layers are shared with what went, and are whole.
    let started = api.containers.start(wharf_proto::v1::StartContainerRequest {
        container: container.id.clone(),
        window: None,
    });
    started.await?;
    api.wait(&container.id).await?;
    api.remove(&container.id).await?;
    let gone = api.images.prune(all).await?.into_inner();
    ensure!(gone.reclaimed_bytes > 1 << 20, "{gone:?}");
    ensure!(images(&mut api).await?.is_empty());
    let blobs = wharf_tests::leak::tree(&world.root().join("content/blobs/sha256"));
    ensure!(blobs.is_empty(), "{blobs:?}");
    world.finish().await
}

#[tokio::test]
async fn forced_as_docker_forces() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let tag = TagImageRequest { image: BUSYBOX.into(), name: "second:1".into() };
    let id = api.images.tag(tag).await?.into_inner().image.context("no image")?.id;
    refused(api.images.delete(delete(&id, false)).await, Code::FailedPrecondition)?;
    let container = api.run(sleeper()).await?;
    let gone = api.images.delete(delete("second:1", false)).await?.into_inner();
    ensure!(gone.untagged == ["docker.io/library/second:1"] && gone.deleted.is_empty());
    refused(api.images.delete(delete(BUSYBOX, false)).await, Code::FailedPrecondition)?;
    // By its id it can't be forced while a container runs; by its name it loses that.
    refused(api.images.delete(delete(&id, true)).await, Code::FailedPrecondition)?;
    let gone = api.images.delete(delete(BUSYBOX, true)).await?.into_inner();
    ensure!(gone.untagged.len() == 1 && gone.deleted.is_empty(), "{gone:?}");
    ensure!(images(&mut api).await? == [Vec::<String>::new()]);
    let kept = api.images.prune(PruneImagesRequest::default()).await?.into_inner();
    ensure!(kept.deleted.is_empty(), "{kept:?}");
    // Once it has stopped, force is enough.
    api.containers
        .stop(wharf_proto::v1::StopContainerRequest {
            container: container.id.clone(),
            ..Default::default()
        })
        .await?;
    refused(api.images.delete(delete(&id, false)).await, Code::FailedPrecondition)?;
    api.images.delete(delete(&id, true)).await?;
    refused(api.images.get(get(&id)).await, Code::NotFound)?;
    let started = api.containers.start(wharf_proto::v1::StartContainerRequest {
        container: container.id.clone(),
        window: None,
    });
    started.await.context("it keeps the layers that it runs on")?;
    world.finish().await
}

#[tokio::test]
async fn containers_that_do_not_run() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let running = api.run(sleeper()).await?;
    let (stopped, _) = api.run_to_end(script("dd if=/dev/zero of=/big bs=1M count=3")).await?;
    let mut kept = script("true");
    kept.labels = [("keep".to_owned(), String::new())].into();
    let kept = api.create(kept).await?;
    let sizes = ListContainersRequest { with_sizes: true, ..Default::default() };
    let listed = api.containers.list(sizes).await?.into_inner().containers;
    let big = listed.iter().find(|c| c.id == stopped.id).context("not listed")?;
    ensure!(big.size_rw_bytes.is_some_and(|n| n >= 3 << 20), "{big:?}");
    ensure!(big.size_root_bytes > big.size_rw_bytes, "{big:?}");
    let usage = api.system.disk_usage(DiskUsageRequest {}).await?.into_inner();
    ensure!(usage.containers.len() == 3 && usage.images.len() == 1, "{usage:?}");
    ensure!(usage.images[0].in_use && usage.images_reclaimable_bytes == 0, "{usage:?}");
    let filter =
        wharf_proto::v1::PruneFilter { labels_not: vec!["keep".into()], ..Default::default() };
    let request = PruneContainersRequest { filter: Some(filter) };
    let gone = api.containers.prune(request).await?.into_inner();
    ensure!(gone.deleted == [stopped.id] && gone.reclaimed_bytes >= 3 << 20, "{gone:?}");
    let gone = api.containers.prune(PruneContainersRequest::default()).await?.into_inner();
    ensure!(gone.deleted == [kept.id], "{gone:?}");
    let exec = crate::exec::shell(&running.id, "echo on");
    ensure!(api.exec(exec, &[]).await?.out() == "on\n");
    world.finish().await
}

/// Images are pruned as fast as they are imported and containers made of them: whatever is answered
/// with success works.
#[tokio::test]
async fn beside_imports_and_creations() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.api()?;
    let mut recipe = image::busybox()?;
    recipe.layers.push(Layer::default().file("content", 0o644, "x"));
    let archive = recipe.build(BUSYBOX)?.oci_tar()?;
    let mut pruner = world.api()?;
    let pruning = tokio::spawn(async move {
        let all = PruneImagesRequest { all: true, ..Default::default() };
        loop {
            if pruner.images.prune(all.clone()).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let mut made = 0;
    for _ in 0..8 {
        api.import(&archive, "").await?;
        match api.run_to_end(script("cat /content /bin/busybox | wc -c")).await {
            Ok((container, outcome)) => {
                ensure!(outcome.code() == 0, "{outcome:?}");
                made += 1;
                api.remove(&container.id).await?;
            }
            // Gone before it was asked for: that is a prune's right.
            Err(error) => {
                let status = error.downcast_ref::<tonic::Status>().context("no status")?;
                ensure!(status.code() == Code::NotFound, "{status:?}");
            }
        }
    }
    pruning.abort();
    // A prune may still be on its way.
    api.import(&archive, "").await?;
    ensure!(made <= 8);
    world.finish().await
}
