//! Room is made on a full disk.

use std::cell::Cell;

use wharf_supervisor::services::images::{Pressure, Relieve};

use crate::world::{Layer, World, docker_save, skip};

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_that_nobody_needs_goes_first() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    for (content, tag) in [("1", "test/a:1"), ("2", "test/a:1"), ("3", "test/c:1")] {
        let layer = Layer::new().file("content", content).finish();
        world.import(&docker_save(&[layer], &[tag]), None).await.expect("import");
    }
    assert_eq!(world.images.count(), 3, "one lost its name to another");
    let pressure = |images| Pressure { images, ..Pressure::default() };
    let full = || Some(90);
    let none = world.images.relieve(pressure(Relieve::None), full).await.expect("relieve");
    assert_eq!((none, world.images.count()), (0, 3));
    let roomy = || Some(80);
    let none = world.images.relieve(pressure(Relieve::Unused), roomy).await.expect("relieve");
    assert_eq!((none, world.images.count()), (0, 3));
    let dangling = world.images.relieve(pressure(Relieve::Dangling), full).await.expect("relieve");
    assert_eq!((dangling, world.images.count()), (1, 2));
    // Only as many as it takes.
    let asked = Cell::new(0);
    let until = || {
        asked.set(asked.get() + 1);
        Some(if asked.get() > 1 { 70 } else { 90 })
    };
    let one = world.images.relieve(pressure(Relieve::Unused), until).await.expect("relieve");
    assert_eq!((one, world.images.count()), (1, 1));
    let left = world.images.list(&crate::world::namespace(), "", 0, "").expect("list").images;
    assert_eq!(left[0].names[0].reference, "docker.io/test/c:1");
    assert_eq!(world.list("snapshots/overlay/l").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_loses_all_its_names_to_one_import() {
    if skip(&[]) {
        return;
    }
    let world = World::new();
    let archive = |content: &str, tags: &[&str]| {
        docker_save(&[Layer::new().file("content", content).finish()], tags)
    };
    let tags = ["test/a:1", "test/a:2", "test/a:3"];
    let old = world.import(&archive("1", &tags), None).await.expect("import")[0].id.clone();
    world.import(&archive("2", &tags[..2]), None).await.expect("import");
    let namespace = crate::world::namespace();
    let left = world.images.get(&namespace, &old.to_string()).expect("it is here").names;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].reference, "docker.io/test/a:3");
    // And that name still means it, with all that it needs.
    let world = world.restart();
    let image = world.images.get(&namespace, "test/a:3").expect("by its last name");
    assert_eq!(image.id, old);
    assert_eq!(world.read(&image, "content").as_deref(), Some("1"));
}
