//! Checkpoint and restore by criu. Where criu and the kernel do not agree (criu check), what is
//! tested is that its error comes through and the container goes on.

#![allow(clippy::print_stderr, reason = "a test says why it skips")]

mod support;

use std::path::Path;

use prost::Message as _;
use support::{Client, Container, Nothing, World, is_alive, wait_for};
use wharf_proto::containerd::runc::v1 as runc;
use wharf_proto::{shim as wharf, task};

/// Whether criu can save anything here.
fn has_criu() -> bool {
    let works = std::process::Command::new("criu")
        .arg("check")
        .output()
        .is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("SKIP {}: needs a criu that this kernel agrees with", module_path!());
    }
    works
}

fn checkpoint(
    client: &mut Client,
    world: &World,
    image: &Path,
    options: runc::CheckpointOptions,
) -> Result<(), wharf_proto::google::rpc::Status> {
    let request = task::CheckpointTaskRequest {
        id: world.id.clone(),
        path: image.display().to_string(),
        options: Some(prost_types::Any {
            type_url: "containerd.runc.v1.CheckpointOptions".into(),
            value: options.encode_to_vec(),
        }),
    };
    client.task::<Nothing>("Checkpoint", &request).map(drop).inspect_err(|_| tell(world))
}

/// What criu said, for whoever reads a test's failure.
fn tell(world: &World) {
    for name in ["criu-dump.log", "criu-restore.log"] {
        let log = std::fs::read_to_string(world.bundle.join(name)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(12)..] {
            eprintln!("{name}: {line}");
        }
    }
}

/// Counts, to its output and a file of its root.
fn counter() -> Container {
    Container::sh("n=0; while :; do n=$((n+1)); echo n=$n; echo $n >/n; sleep 0.1; done")
}

fn count(world: &World) -> u64 {
    let text = std::fs::read_to_string(world.bundle.join("rootfs/n")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn restore(client: &mut Client, world: &World, image: &Path) -> u32 {
    let options = wharf::CreateOptions {
        log: Some(wharf::LogTarget {
            path: world.log_path().display().to_string(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = task::CreateTaskRequest {
        id: world.id.clone(),
        bundle: world.bundle.display().to_string(),
        checkpoint: image.display().to_string(),
        options: Some(prost_types::Any {
            type_url: wharf::CREATE_OPTIONS_TYPE_URL.into(),
            value: options.encode_to_vec(),
        }),
        ..Default::default()
    };
    let restored = client.task::<task::CreateTaskResponse>("Create", &request);
    restored.inspect_err(|_| tell(world)).expect("restored").pid
}

#[test]
fn a_container_goes_on_from_its_checkpoint() {
    need_host!();
    if !has_criu() {
        return;
    }
    let world = World::new();
    let image = world.bundle.join("image");
    let mut client = world.client();
    world.run(&mut client, &counter());
    wait_for("it counts", || count(&world) > 2);
    // It goes on after one, and not after the other.
    checkpoint(&mut client, &world, &image, runc::CheckpointOptions::default()).expect("saved");
    let before = count(&world);
    wait_for("it goes on", || count(&world) > before + 2);
    let options = runc::CheckpointOptions { exit: true, ..Default::default() };
    let last = world.bundle.join("last");
    checkpoint(&mut client, &world, &last, options).expect("saved");
    assert_eq!(client.wait_exit("").signal, 9);
    client.delete(&world.id, "").expect("deleted");
    let saved = count(&world);
    let pid = restore(&mut client, &world, &last);
    assert_eq!(client.state(&world.id, "").expect("there").status(), task::Status::Created);
    assert_eq!(client.start(&world.id, "").expect("started"), pid);
    wait_for("it counts on", || count(&world) > saved + 2);
    world.wait_for_output(&format!("n={}\n", saved + 2));
    client.add_exec(&world.id, "e", &["/bin/sh", "-c", "echo in"], false).expect("added");
    client.start(&world.id, "e").expect("started");
    assert_eq!(client.wait_exit("e").exit_code, 0);
    client.delete(&world.id, "e").expect("deleted");
    client.kill(&world.id, "", 9, false).expect("killed");
    assert_eq!(client.wait_exit("").signal, 9);
    assert_eq!(client.delete(&world.id, "").expect("deleted").exit_status, 137);
    let output = String::from_utf8(world.output()).expect("text");
    let first = output.lines().filter(|line| *line == "n=1").count();
    assert_eq!(first, 1, "it did not begin anew");
}

#[test]
fn an_error_of_criu_comes_through_and_the_container_goes_on() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let pid = world.run(&mut client, &Container::sh("echo up; sleep 1000"));
    world.wait_for_output("up");
    // What is no folder holds no image.
    let image = world.bundle.join("config.json/image");
    let error = checkpoint(&mut client, &world, &image, runc::CheckpointOptions::default())
        .expect_err("no folder");
    assert!(error.message.contains("checkpoint"), "{}", error.message);
    assert_eq!(client.state(&world.id, "").expect("there").status(), task::Status::Running);
    assert!(is_alive(pid));
    assert!(!world.bundle.join("runtime").exists(), "nothing is left of the command");
    let relative = checkpoint(&mut client, &world, Path::new("image"), Default::default());
    assert_eq!(relative.expect_err("relative").code, 3);
    client.kill(&world.id, "", 9, false).expect("killed");
    client.wait_exit("");
    let over = checkpoint(&mut client, &world, &world.bundle.join("i"), Default::default());
    assert_eq!(over.expect_err("it has ended").code, 9);
    client.delete(&world.id, "").expect("deleted");
}

#[test]
fn an_image_that_is_none_makes_no_container() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.write_config(&counter());
    let request = task::CreateTaskRequest {
        id: world.id.clone(),
        bundle: world.bundle.display().to_string(),
        checkpoint: world.bundle.join("none").display().to_string(),
        ..Default::default()
    };
    let error = client.task::<task::CreateTaskResponse>("Create", &request).expect_err("no image");
    assert!(error.message.contains("restore"), "{}", error.message);
    // The shim is free for another.
    world.run(&mut client, &Container::sh("exit 3"));
    assert_eq!(client.wait_exit("").exit_code, 3);
}
