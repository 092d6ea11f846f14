//! Names, ids and prefixes; filters and pages.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use tonic::{Code, Request, metadata::AsciiMetadataValue};
use wharf_proto::v1::{
    ContainerFilter, ContainerState, GetContainerRequest, LabelSet, ListContainersRequest,
    UpdateContainerRequest,
};
use wharf_tests::{
    api::{Api, resource, sleeper, spec},
    world::World,
};

use crate::refused;

#[tokio::test]
async fn names_ids_and_prefixes() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut named = spec(["true"]);
    named.name = "web.1_a-b".into();
    let named = api.create(named).await?;
    for asked in ["web.1_a-b", named.id.as_str(), &named.id[..12], &named.id[..6]] {
        ensure!(api.get(asked).await?.id == named.id, "{asked}");
    }
    let first = api.create(spec(["true"])).await?;
    let second = api.create(spec(["true"])).await?;
    let name = |c: &wharf_proto::v1::Container| c.spec.clone().unwrap_or_default().name;
    ensure!(!name(&first).is_empty() && name(&first) != name(&second));

    let mut again = spec(["true"]);
    again.name = "web.1_a-b".into();
    let status = refused(api.create(again).await, Code::AlreadyExists)?;
    let (kind, what) = resource(&status).context("no ResourceInfo")?;
    ensure!(kind == "container" && what.contains("web.1_a-b"), "{status:?}");

    let rename = UpdateContainerRequest {
        container: "web.1_a-b".into(),
        name: Some("db".into()),
        ..Default::default()
    };
    api.containers.update(rename).await?;
    ensure!(api.get("db").await?.id == named.id);
    let status = refused(api.get("web.1_a-b").await, Code::NotFound)?;
    ensure!(resource(&status).is_some_and(|(k, n)| k == "container" && n == "web.1_a-b"));
    let mut reused = spec(["true"]);
    reused.name = "web.1_a-b".into();
    api.create(reused).await?;
    world.finish().await
}

#[tokio::test]
async fn a_prefix_of_two_is_no_answer() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut firsts = HashMap::new();
    // With 16 digits, 17 ids have two with the same first one.
    for _ in 0..17 {
        let id = api.create(spec(["true"])).await?.id;
        let digit = id[..1].to_owned();
        if firsts.insert(digit.clone(), id).is_some() {
            let status = refused(api.get(&digit).await, Code::InvalidArgument)?;
            ensure!(status.message().contains("more than one"), "{status:?}");
            break;
        }
    }
    world.finish().await
}

async fn ids(api: &mut Api, filter: ContainerFilter) -> Result<Vec<String>> {
    let request = ListContainersRequest { filter: Some(filter), ..Default::default() };
    let found = api.containers.list(request).await?.into_inner().containers;
    Ok(found.into_iter().map(|c| c.id).collect())
}

#[tokio::test]
async fn filters() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut a = sleeper();
    a.name = "apple".into();
    a.labels = HashMap::from([("tier".into(), "front".into()), ("x".into(), String::new())]);
    let a = api.run(a).await?.id;
    let mut b = spec(["true"]);
    b.name = "pineapple".into();
    b.labels = HashMap::from([("tier".into(), "back".into())]);
    let b = api.create(b).await?.id;
    let both = vec![b.clone(), a.clone()];
    let state =
        |s: ContainerState| ContainerFilter { states: vec![s.into()], ..Default::default() };
    let label = |l: &str| ContainerFilter { labels: vec![l.into()], ..Default::default() };
    let name = |n: &str| ContainerFilter { name: n.into(), ..Default::default() };
    let image = |i: &str| ContainerFilter { image: i.into(), ..Default::default() };
    for (filter, expected) in [
        // Newest first.
        (ContainerFilter::default(), both.clone()),
        (state(ContainerState::Running), vec![a.clone()]),
        (state(ContainerState::Created), vec![b.clone()]),
        (state(ContainerState::Paused), vec![]),
        (label("tier"), both.clone()),
        (label("tier=back"), vec![b.clone()]),
        (label("x"), vec![a.clone()]),
        (name("apple"), both.clone()),
        (name("pine"), vec![b.clone()]),
        (image(wharf_tests::image::BUSYBOX), both.clone()),
        (image("other:1"), vec![]),
        (ContainerFilter { id: a[..10].into(), ..Default::default() }, vec![a.clone()]),
        (ContainerFilter { name: "pine".into(), ..state(ContainerState::Running) }, vec![]),
    ] {
        let found = ids(&mut api, filter.clone()).await?;
        ensure!(found == expected, "{filter:?}: {found:?}");
    }
    let relabel = UpdateContainerRequest {
        container: b.clone(),
        labels: Some(LabelSet { labels: HashMap::from([("new".into(), "1".into())]) }),
        ..Default::default()
    };
    api.containers.update(relabel).await?;
    ensure!(ids(&mut api, label("new=1")).await? == [b]);
    ensure!(ids(&mut api, label("tier=back")).await?.is_empty());
    world.finish().await
}

#[tokio::test]
async fn pages() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(api.create(spec(["true"])).await?.id);
    }
    made.reverse();
    let mut request = ListContainersRequest { page_size: 3, ..Default::default() };
    let mut sizes = Vec::new();
    let mut seen = Vec::new();
    loop {
        let page = api.containers.list(request.clone()).await?.into_inner();
        sizes.push(page.containers.len());
        seen.extend(page.containers.into_iter().map(|c| c.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    ensure!(sizes == [3, 3, 1] && seen == made, "{sizes:?} {seen:?}");
    request.page_token = "no token of ours".into();
    refused(api.containers.list(request).await, Code::InvalidArgument)?;
    world.finish().await
}

#[tokio::test]
async fn an_update_can_ask_for_what_it_has_seen() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let seen = api.create(spec(["true"])).await?;
    let rename = |name: &str, revision| UpdateContainerRequest {
        container: seen.id.clone(),
        name: Some(name.into()),
        if_revision: revision,
        ..Default::default()
    };
    let updated = api.containers.update(rename("first", seen.revision)).await?.into_inner();
    ensure!(updated.container.is_some_and(|c| c.revision > seen.revision));
    refused(api.containers.update(rename("second", seen.revision)).await, Code::Aborted)?;
    ensure!(api.get("first").await?.id == seen.id);
    world.finish().await
}

#[tokio::test]
async fn namespaces_are_apart() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut mine = spec(["true"]);
    mine.name = "same".into();
    let mine = api.create(mine).await?;
    let elsewhere = |message: GetContainerRequest| {
        let mut request = Request::new(message);
        let other = AsciiMetadataValue::from_static("other");
        request.metadata_mut().insert(wharf_proto::v1::NAMESPACE_KEY, other);
        request
    };
    for asked in ["same", mine.id.as_str()] {
        let get = GetContainerRequest {
            container: asked.into(),
            with_oci_spec: false,
            ..Default::default()
        };
        refused(api.containers.get(elsewhere(get)).await, Code::NotFound)?;
    }
    ensure!(api.get("same").await?.namespace == "default");
    world.finish().await
}
