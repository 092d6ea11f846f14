//! Steps that bring images and take them away.

use std::{future::Future, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use tonic::Status;
use wharf_proto::v1::{DeleteImageRequest, ListImagesRequest};
use wharf_tests::{
    api::{Api, script, under},
    host,
    image::{self, BUSYBOX},
    registry::Registry,
    world::World,
};

use crate::matrix::{Acted, Faults, Step};

/// The busybox image, and a layer of this case alone.
fn recipe(case: &str) -> Result<image::Recipe> {
    let mut recipe = image::busybox()?;
    recipe.layers.push(image::Layer::default().file("case", 0o644, case.to_owned()));
    Ok(recipe)
}

async fn works(api: &mut Api, image: &str, case: &str) -> Result<()> {
    let listed = api.images.list(ListImagesRequest::default()).await?.into_inner().images;
    ensure!(listed.len() == 1, "{listed:?}");
    let mut spec = script("cat /case");
    spec.image = image.into();
    let (container, outcome) = api.run_to_end(spec).await?;
    ensure!(outcome.out() == case, "{outcome:?}");
    Ok(api.remove(&container.id).await?)
}

async fn no_images(api: &mut Api) -> Result<()> {
    api.delete_all().await?;
    for image in api.images.list(ListImagesRequest::default()).await?.into_inner().images {
        delete(api, &image.id, "").await?;
    }
    Ok(())
}

async fn delete(api: &mut Api, image: &str, request: &str) -> Result<(), Status> {
    let message = DeleteImageRequest { image: image.into(), force: true };
    api.images.delete(under(request, message)).await.map(drop)
}

struct Import;

#[derive(Clone)]
struct Archive {
    case: String,
    tar: Arc<Vec<u8>>,
}

impl Step for Import {
    type Ready = Archive;

    async fn ready(&self, _: &mut World, case: &str) -> Result<Archive> {
        let tar = Arc::new(recipe(case)?.build(BUSYBOX)?.oci_tar()?);
        Ok(Archive { case: case.into(), tar })
    }

    fn act(
        &self,
        mut api: Api,
        ready: Archive,
        _: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        async move { api.import(&ready.tar, "").await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, ready: &Archive) -> Result<()> {
        works(api, BUSYBOX, &ready.case).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        no_images(api).await
    }
}

struct Delete;

impl Step for Delete {
    type Ready = String;

    async fn ready(&self, world: &mut World, case: &str) -> Result<String> {
        let tar = recipe(case)?.build(BUSYBOX)?.oci_tar()?;
        world.api()?.import(&tar, "").await?;
        Ok(case.into())
    }

    fn act(
        &self,
        mut api: Api,
        _: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        async move { delete(&mut api, BUSYBOX, &request).await }
    }

    async fn done(&self, _: &World, api: &mut Api, _: &String) -> Result<()> {
        let listed = api.images.list(ListImagesRequest::default()).await?.into_inner().images;
        ensure!(listed.is_empty(), "{listed:?}");
        Ok(())
    }

    async fn settled(&self, world: &World, _: &mut Api, _: &String) -> Result<()> {
        let left = || {
            ["content/blobs/sha256", "snapshots/overlay/l"]
                .map(|folder| wharf_tests::leak::tree(&world.root().join(folder)).len())
        };
        wharf_tests::wait::until_now("blobs and layers are gone", || {
            Ok((left() == [0, 0]).then_some(()))
        })
        .await
        .with_context(|| format!("{:?}", left()))
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        no_images(api).await
    }
}

struct Pull {
    registry: Registry,
}

#[derive(Clone)]
struct Pushed {
    case: String,
    reference: String,
}

impl Step for Pull {
    type Ready = Pushed;

    async fn ready(&self, _: &mut World, case: &str) -> Result<Pushed> {
        self.registry.push(&recipe(case)?.build("pulled:1")?, "some/image", "1")?;
        Ok(Pushed { case: case.into(), reference: self.registry.reference("some/image:1") })
    }

    fn act(
        &self,
        mut api: Api,
        ready: Pushed,
        _: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        async move { api.pull(&ready.reference).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, ready: &Pushed) -> Result<()> {
        works(api, &ready.reference, &ready.case).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        no_images(api).await
    }
}

#[tokio::test]
async fn import() -> Result<()> {
    let mut faults = Faults::start().await?;
    faults.take("import", &Import).await?;
    faults.finish().await
}

#[tokio::test]
async fn image_delete() -> Result<()> {
    let mut faults = Faults::start().await?;
    faults.take("image_delete", &Delete).await?;
    faults.finish().await
}

#[tokio::test]
async fn pull() -> Result<()> {
    if let Some(why) = Registry::missing() {
        return host::skip("pull", why);
    }
    let mut faults = Faults::start().await?;
    faults.take("pull", &Pull { registry: Registry::start().await? }).await?;
    faults.finish().await
}
