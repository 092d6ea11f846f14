//! Fifty at once.

use anyhow::{Result, ensure};
use tokio::task::JoinSet;
use wharf_proto::v1::ContainerState;
use wharf_tests::{api::script, world::World};

const MANY: usize = 50;

#[tokio::test]
async fn fifty_containers_at_once() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut starts = JoinSet::new();
    for n in 0..MANY {
        let mut api = api.clone();
        starts.spawn(async move {
            let text =
                format!("echo I am {n}; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done");
            let mut spec = script(&text);
            spec.name = format!("many-{n}");
            api.run(spec).await
        });
    }
    while let Some(started) = starts.join_next().await {
        started??;
    }
    let running = |all: &[wharf_proto::v1::Container]| {
        all.iter().filter(|c| c.state() == ContainerState::Running).count()
    };
    ensure!(running(&api.list().await?) == MANY);
    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    ensure!(running(&api.list().await?) == MANY);
    let mut ends = JoinSet::new();
    for n in 0..MANY {
        let mut api = api.clone();
        ends.spawn(async move {
            let name = format!("many-{n}");
            ensure!(api.logs(&name).await?.out() == format!("I am {n}\n"), "{name}");
            Ok(api.remove(&name).await?)
        });
    }
    while let Some(ended) = ends.join_next().await {
        ended??;
    }
    ensure!(api.list().await?.is_empty());
    world.finish().await
}
