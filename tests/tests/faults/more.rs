//! Steps on what containers are made of and leave: commits, names, volumes, and what is pruned.

use std::future::Future;

use anyhow::{Context as _, Result, bail, ensure};
use tonic::Code;
use wharf_proto::v1::{
    CommitContainerRequest, ContainerState, CreateVolumeRequest, DeleteContainerRequest,
    DeleteVolumeRequest, GetVolumeRequest, LabelSet, ListImagesRequest, ListVolumesRequest,
    PruneContainersRequest, PruneImagesRequest, PruneVolumesRequest, TagImageRequest,
    UpdateContainerRequest,
};
use wharf_tests::{
    api::{Api, script, sleeper, under},
    image::{self, BUSYBOX},
    leak, wait,
    world::World,
};

use crate::matrix::{Acted, Faults, Step};

/// Everything but the image that all share.
async fn tidy(api: &mut Api) -> Result<()> {
    api.delete_all().await?;
    let request = PruneVolumesRequest { all: true, filter: None };
    api.volumes.prune(request).await?;
    for image in api.images.list(ListImagesRequest::default()).await?.into_inner().images {
        for name in image.names.iter().filter(|name| !name.ends_with(BUSYBOX)) {
            let message = wharf_proto::v1::DeleteImageRequest { image: name.clone(), force: true };
            api.images.delete(message).await?;
        }
    }
    Ok(())
}

/// The name of a case as an image.
fn name_of(case: &str) -> String {
    format!("case:{}", case.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

struct Commit;

impl Step for Commit {
    type Ready = (String, String);

    async fn ready(&self, world: &mut World, case: &str) -> Result<Self::Ready> {
        let mut api = world.api()?;
        let text = format!(
            "echo {case} >/made; trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done"
        );
        let id = api.run(script(&text)).await?.id;
        wait::until("it has written", || {
            let (mut api, id) = (api.clone(), id.clone());
            async move { Ok((api.logs(&id).await?.out() == "ready\n").then_some(())) }
        })
        .await?;
        Ok((id, case.to_owned()))
    }

    fn act(
        &self,
        mut api: Api,
        (container, case): Self::Ready,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message =
            CommitContainerRequest { container, name: name_of(&case), ..Default::default() };
        async move { api.containers.commit(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, (id, case): &Self::Ready) -> Result<()> {
        let mut spec = script("cat /made");
        spec.image = name_of(case);
        let (made, outcome) = api.run_to_end(spec).await?;
        ensure!(outcome.out() == format!("{case}\n"), "{outcome:?}");
        api.remove(&made.id).await?;
        self.goes_on(api, id).await
    }

    async fn settled(&self, _: &World, api: &mut Api, (id, _): &Self::Ready) -> Result<()> {
        self.goes_on(api, id).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

impl Commit {
    /// It stood still for the commit, and does so no more.
    async fn goes_on(&self, api: &Api, id: &str) -> Result<()> {
        crate::matrix::wait_state(api, id, ContainerState::Running).await
    }
}

struct Tag;

impl Step for Tag {
    type Ready = String;

    async fn ready(&self, _: &mut World, case: &str) -> Result<String> {
        Ok(name_of(case))
    }

    fn act(
        &self,
        mut api: Api,
        name: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = TagImageRequest { image: BUSYBOX.into(), name };
        async move { api.images.tag(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, name: &String) -> Result<()> {
        let images = api.images.list(ListImagesRequest::default()).await?.into_inner().images;
        ensure!(images.len() == 1, "{images:?}");
        let has = |end: &str| images[0].names.iter().any(|name| name.ends_with(end));
        ensure!(has(name) && has(BUSYBOX), "{images:?}");
        Ok(())
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct Update;

impl Step for Update {
    type Ready = (String, String);

    async fn ready(&self, world: &mut World, case: &str) -> Result<Self::Ready> {
        Ok((world.api()?.create(sleeper()).await?.id, case.to_owned()))
    }

    fn act(
        &self,
        mut api: Api,
        (container, case): Self::Ready,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let labels = Some(LabelSet { labels: [("case".to_owned(), case.clone())].into() });
        let name = Some(format!("new-{case}"));
        let message = UpdateContainerRequest { container, name, labels, ..Default::default() };
        async move { api.containers.update(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, (id, case): &Self::Ready) -> Result<()> {
        let found = api.get(&format!("new-{case}")).await?;
        ensure!(found.id == *id, "{found:?}");
        let spec = found.spec.context("no spec")?;
        ensure!(spec.labels.get("case") == Some(case), "{spec:?}");
        Ok(())
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct Prune;

impl Step for Prune {
    type Ready = ();

    async fn ready(&self, world: &mut World, case: &str) -> Result<()> {
        let mut recipe = image::busybox()?;
        recipe.layers.push(image::Layer::default().file("case", 0o644, case.to_owned()));
        world.api()?.import(&recipe.build(&name_of(case))?.oci_tar()?, "").await?;
        Ok(())
    }

    fn act(
        &self,
        mut api: Api,
        (): (),
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = PruneImagesRequest { all: true, filter: None };
        async move { api.images.prune(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, (): &()) -> Result<()> {
        let images = api.images.list(ListImagesRequest::default()).await?.into_inner().images;
        ensure!(images.is_empty(), "{images:?}");
        Ok(())
    }

    async fn settled(&self, world: &World, _: &mut Api, (): &()) -> Result<()> {
        let left = || {
            ["content/blobs/sha256", "snapshots/overlay/l"]
                .map(|folder| leak::tree(&world.root().join(folder)).len())
        };
        wait::until_now("blobs and layers are gone", || Ok((left() == [0, 0]).then_some(())))
            .await
            .with_context(|| format!("{:?}", left()))
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        api.delete_all().await?;
        Ok(())
    }
}

struct PruneContainers;

impl Step for PruneContainers {
    type Ready = ();

    async fn ready(&self, world: &mut World, _: &str) -> Result<()> {
        let mut api = world.api()?;
        api.create(sleeper()).await?;
        let ended = api.run(script("exit 3")).await?.id;
        ensure!(api.wait(&ended).await?.exit_code == 3);
        let bundle = world.state().join("c").join(&ended[..12]);
        wait::until_now("the bundle is gone", || Ok((!bundle.exists()).then_some(()))).await
    }

    fn act(
        &self,
        mut api: Api,
        (): (),
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = PruneContainersRequest { filter: None };
        async move { api.containers.prune(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, _: &World, api: &mut Api, (): &()) -> Result<()> {
        // A removal that was under way is finished beside the answer.
        wait::until("none is left", || {
            let mut api = api.clone();
            async move { Ok(api.list().await?.is_empty().then_some(())) }
        })
        .await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct VolumeCreate;

impl Step for VolumeCreate {
    type Ready = String;

    async fn ready(&self, _: &mut World, case: &str) -> Result<String> {
        Ok(format!("v-{case}"))
    }

    fn act(
        &self,
        mut api: Api,
        name: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = CreateVolumeRequest { name, ..Default::default() };
        async move { api.volumes.create(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, world: &World, api: &mut Api, name: &String) -> Result<()> {
        let all = api.volumes.list(ListVolumesRequest::default()).await?.into_inner().volumes;
        ensure!(all.len() == 1 && all[0].name == *name, "{all:?}");
        ensure!(world.root().join("volumes/default").join(name).join("data").is_dir());
        Ok(())
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

struct VolumeDelete;

impl Step for VolumeDelete {
    type Ready = String;

    async fn ready(&self, world: &mut World, case: &str) -> Result<String> {
        let name = format!("v-{case}");
        let message = CreateVolumeRequest { name: name.clone(), ..Default::default() };
        world.api()?.volumes.create(message).await?;
        std::fs::write(world.root().join("volumes/default").join(&name).join("data/f"), "f")?;
        Ok(name)
    }

    fn act(
        &self,
        mut api: Api,
        volume: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        async move {
            match api.volumes.delete(under(&request, DeleteVolumeRequest { volume })).await {
                // It was gone before that was written down.
                Err(status) if status.code() == Code::NotFound => Ok(()),
                other => other.map(drop),
            }
        }
    }

    async fn done(&self, world: &World, api: &mut Api, name: &String) -> Result<()> {
        match api.volumes.get(GetVolumeRequest { volume: name.clone() }).await {
            Err(status) if status.code() == Code::NotFound => {}
            other => bail!("{other:?}"),
        }
        let folder = world.root().join("volumes/default").join(name);
        wait::until_now("its folder is gone", || Ok((!folder.exists()).then_some(()))).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

/// A container that goes with its volume, which is filled from the image.
struct WithVolume;

impl Step for WithVolume {
    type Ready = String;

    async fn ready(&self, world: &mut World, _: &str) -> Result<String> {
        let mut spec = script("exit 0");
        spec.mounts = vec![wharf_proto::v1::Mount {
            r#type: "volume".into(),
            target: "/bin".into(),
            ..Default::default()
        }];
        let mut api = world.api()?;
        let id = api.run(spec).await?.id;
        ensure!(api.wait(&id).await?.exit_code == 0);
        let bundle = world.state().join("c").join(&id[..12]);
        wait::until_now("the bundle is gone", || Ok((!bundle.exists()).then_some(()))).await?;
        Ok(id)
    }

    fn act(
        &self,
        mut api: Api,
        container: String,
        request: String,
    ) -> impl Future<Output = Acted> + Send + 'static {
        let message = DeleteContainerRequest { container, force: false, volumes: true };
        async move { api.containers.delete(under(&request, message)).await.map(drop) }
    }

    async fn done(&self, world: &World, api: &mut Api, _: &String) -> Result<()> {
        let all = api.list().await?;
        ensure!(all.is_empty(), "{all:?}");
        let volumes = api.volumes.list(ListVolumesRequest::default()).await?.into_inner().volumes;
        ensure!(volumes.is_empty(), "{volumes:?}");
        let left = || leak::tree(&world.root().join("volumes/default"));
        wait::until_now("its folder is gone", || Ok(left().is_empty().then_some(()))).await
    }

    async fn tidy(&self, api: &mut Api) -> Result<()> {
        tidy(api).await
    }
}

macro_rules! matrix {
    ($($test:ident: $step:expr),* $(,)?) => {$(
        #[tokio::test]
        async fn $test() -> Result<()> {
            let mut faults = Faults::start().await?;
            drop(faults.world().with_busybox().await?);
            faults.take(stringify!($test), &$step).await?;
            faults.finish().await
        }
    )*};
}

matrix! {
    commit: Commit,
    tag: Tag,
    update: Update,
    prune_containers: PruneContainers,
    volume_create: VolumeCreate,
    volume_delete: VolumeDelete,
    container_with_volume: WithVolume,
}

#[tokio::test]
async fn prune_images() -> Result<()> {
    let mut faults = Faults::start().await?;
    faults.take("prune_images", &Prune).await?;
    faults.finish().await
}
