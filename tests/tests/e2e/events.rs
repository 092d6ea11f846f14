//! The journal: in order, with no gap, whoever was away.

use anyhow::{Context as _, Result, ensure};
use wharf_proto::v1::{Event, SubscribeRequest};
use wharf_tests::{
    api::{Api, script},
    image::BUSYBOX,
    wait::soon,
    world::World,
};

async fn collect(api: &mut Api, request: SubscribeRequest, until: &str) -> Result<Vec<Event>> {
    let mut stream = api.events.subscribe(request).await?.into_inner();
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|e| e.topic != until) {
        events.push(soon("an event", stream.message()).await?.context("the stream ended")?);
    }
    Ok(events)
}

fn topics(events: &[Event]) -> Vec<&str> {
    events.iter().map(|e| e.topic.as_str()).collect()
}

#[tokio::test]
async fn replayed_across_a_restart_without_a_gap() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let (one, _) = api.run_to_end(script("exit 3")).await?;
    api.remove(&one.id).await?;
    let from_start = SubscribeRequest { from_sequence: 1, ..Default::default() };
    let before = collect(&mut api, from_start.clone(), "container.delete").await?;
    ensure!(
        topics(&before)
            == [
                "image.import",
                "container.create",
                "container.start",
                "container.exit",
                "container.delete"
            ],
        "{:?}",
        topics(&before)
    );
    let exit = &before[3];
    ensure!(exit.id == one.id && exit.namespace == "default", "{exit:?}");
    ensure!(exit.attributes.get("exitCode").is_some_and(|c| c == "3"), "{exit:?}");
    ensure!(before[1].attributes.get("image").is_some_and(|i| i.contains(BUSYBOX)), "{before:?}");

    world.kill9()?;
    world.restart().await?;
    let mut api = world.api()?;
    let (two, _) = api.run_to_end(script("exit 0")).await?;
    api.remove(&two.id).await?;
    let last = before.last().context("no events")?.sequence;
    let on = SubscribeRequest { from_sequence: last + 1, ..Default::default() };
    let after = collect(&mut api, on, "container.delete").await?;
    let numbers: Vec<_> = before.iter().chain(&after).map(|e| e.sequence).collect();
    ensure!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
    ensure!(after.iter().all(|e| e.id == two.id), "{after:?}");
    let mut whole = collect(&mut api, from_start, "container.delete").await?;
    whole.truncate(before.len());
    ensure!(whole == before, "the replay differs");
    world.finish().await
}

#[tokio::test]
async fn filtered_and_live() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let topic = |t: &str| SubscribeRequest { topics: vec![t.into()], ..Default::default() };
    let mut live = api.events.subscribe(topic("container")).await?.into_inner();
    let mut exits = api.events.subscribe(topic("container.exit")).await?.into_inner();
    let (one, _) = api.run_to_end(script("exit 1")).await?;
    let (two, _) = api.run_to_end(script("exit 2")).await?;
    let first = soon("an event", live.message()).await?.context("the stream ended")?;
    ensure!(first.topic == "container.create" && first.id == one.id, "{first:?}");
    for (id, code) in [(&one.id, "1"), (&two.id, "2")] {
        let event = soon("an event", exits.message()).await?.context("the stream ended")?;
        ensure!(event.topic == "container.exit" && event.id == *id, "{event:?}");
        ensure!(event.attributes.get("exitCode").is_some_and(|c| c == code), "{event:?}");
    }
    let of_two = SubscribeRequest {
        from_sequence: 1,
        container: two.id.clone(),
        until: Some(std::time::SystemTime::now().into()),
        ..Default::default()
    };
    let mut ended = api.events.subscribe(of_two).await?.into_inner();
    let mut seen = Vec::new();
    while let Some(event) = soon("an event or the end", ended.message()).await? {
        ensure!(event.id == two.id, "{event:?}");
        seen.push(event.topic);
    }
    ensure!(seen == ["container.create", "container.start", "container.exit"], "{seen:?}");
    world.finish().await
}
