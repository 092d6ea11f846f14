//! Another OCI runtime's program makes the container, the shim does the rest.

#![allow(clippy::print_stderr, reason = "a test says why it skips")]

mod support;

use support::{Client, Container, World, is_alive, wait_for};
use wharf_proto::shim as wharf;
use wharf_proto::task;

/// Debian's runc.
fn by_runc(mut container: Container) -> Container {
    container.runtime = "runc".into();
    container
}

fn has_runc() -> bool {
    let found = std::process::Command::new("runc").arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIP {}: needs Debian's runc", module_path!());
    }
    found
}

#[test]
fn a_whole_life_by_runc() {
    need_host!();
    if !has_runc() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let mut container = by_runc(Container::sh("read x; echo got $x; echo err >&2; exit 5"));
    container.open_stdin = true;
    let pid = world.run(&mut client, &container);
    assert!(world.bundle.join("runtime").exists(), "runc's own state");
    client.add_exec(&world.id, "e", &["/bin/sh", "-c", "cat; exit 4"], false).expect("added");
    client.start(&world.id, "e").expect("started");
    client.write_stdin("e", b"to and fro").expect("taken");
    client.close_stdin(&world.id, "e").expect("closed");
    assert_eq!(client.wait_exit("e").exit_code, 4);
    assert_eq!(client.read_all("e").0, b"to and fro");
    client.delete(&world.id, "e").expect("deleted");
    pause_and_look(&world, &mut client, pid);
    client.write_stdin("", b"it\n").expect("taken");
    assert_eq!(client.wait_exit("").exit_code, 5);
    let output = String::from_utf8(world.output()).expect("text");
    assert!(output.contains("got it\n") && output.contains("err\n"), "{output}");
    assert_eq!(client.delete(&world.id, "").expect("deleted").exit_status, 5);
    for hierarchy in ["memory", "pids", "devices"] {
        let left = format!("/sys/fs/cgroup/{hierarchy}/wharf-test-{}", world.id);
        assert!(!std::path::Path::new(&left).exists(), "{left}");
    }
    let state = std::fs::read_dir(world.bundle.join("runtime")).expect("folder").count();
    assert_eq!(state, 0, "runc's state is gone");
}

fn pause_and_look(world: &World, client: &mut Client, pid: u32) {
    let id = || world.id.clone();
    client.task::<support::Nothing>("Pause", &task::PauseRequest { id: id() }).expect("paused");
    let state = client.state(&world.id, "").expect("there").status();
    assert_eq!(state, task::Status::Paused);
    client.task::<support::Nothing>("Resume", &task::ResumeRequest { id: id() }).expect("resumed");
    let pids: task::PidsResponse =
        client.task("Pids", &task::PidsRequest { id: id() }).expect("listed");
    assert!(pids.processes.iter().any(|process| process.pid == pid), "{pids:?}");
}

#[test]
fn its_root_is_mounted_where_the_host_does_not_see_it() {
    need_host!();
    if !has_runc() {
        return;
    }
    let world = World::new();
    let root = world.bundle.join("image");
    std::fs::rename(world.bundle.join("rootfs"), &root).expect("renamed");
    std::fs::create_dir(world.bundle.join("rootfs")).expect("folder");
    let mut client = world.client();
    let container = by_runc(Container::sh("echo up; sleep 1000"));
    world.write_config(&container);
    let options = wharf::CreateOptions {
        log: Some(wharf::LogTarget {
            path: world.log_path().display().to_string(),
            ..Default::default()
        }),
        runtime_binary: container.runtime,
        ..Default::default()
    };
    let request = task::CreateTaskRequest {
        id: world.id.clone(),
        bundle: world.bundle.display().to_string(),
        rootfs: vec![task::Mount {
            r#type: "bind".into(),
            source: root.display().to_string(),
            options: vec!["rbind".into()],
            ..Default::default()
        }],
        options: Some(prost_types::Any {
            type_url: wharf::CREATE_OPTIONS_TYPE_URL.into(),
            value: prost::Message::encode_to_vec(&options),
        }),
        ..Default::default()
    };
    client.task::<task::CreateTaskResponse>("Create", &request).expect("created");
    client.start(&world.id, "").expect("started");
    world.wait_for_output("up");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&world.bundle.display().to_string()), "{mounts}");
    client.kill(&world.id, "", 9, false).expect("killed");
    assert_eq!(client.wait_exit("").signal, 9);
    client.delete(&world.id, "").expect("deleted");
}

#[test]
fn a_terminal_by_runc() {
    need_host!();
    if !has_runc() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let mut container = by_runc(Container::sh("stty size; read x; echo got $x"));
    container.terminal = true;
    container.open_stdin = true;
    world.run(&mut client, &container);
    world.wait_for_output("25 80");
    client.write_stdin("", b"it\n").expect("taken");
    assert_eq!(client.wait_exit("").exit_code, 0);
    world.wait_for_output("got it");
}

#[test]
fn what_runc_cannot_start() {
    need_host!();
    if !has_runc() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let absent = by_runc(Container::new(&["/bin/absent"]));
    let error = world.create(&mut client, &absent).expect_err("no such program");
    assert_eq!(error.details.len(), 1, "{}", error.message);
    let mut none = Container::new(&["/bin/true"]);
    none.runtime = "/absent/runtime".into();
    let error = world.create(&mut client, &none).expect_err("no such runtime");
    assert!(error.message.contains("/absent/runtime"), "{}", error.message);
    // The shim is free for another.
    world.run(&mut client, &by_runc(Container::sh("exit 2")));
    assert_eq!(client.wait_exit("").exit_code, 2);
    client.delete(&world.id, "").expect("deleted");
}

#[test]
fn a_shim_that_died_with_a_container_of_runc() {
    need_host!();
    if !has_runc() {
        return;
    }
    let world = World::new();
    let mut client = world.client();
    let pid = world.run(&mut client, &by_runc(Container::new(&["/bin/sleep", "1000"])));
    let info: wharf::InfoResponse = client.wharf("Info", &wharf::InfoRequest {}).expect("answers");
    let shim = nix::unistd::Pid::from_raw(info.shim_pid.try_into().expect("pid"));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("sent");
    wait_for("the shim to go", || std::os::unix::net::UnixStream::connect(&world.socket).is_err());
    assert!(is_alive(pid));
    assert!(world.delete_shim().status.success());
    wait_for("the container to end", || !is_alive(pid));
    let left = format!("/sys/fs/cgroup/devices/wharf-test-{}", world.id);
    assert!(!std::path::Path::new(&left).exists(), "{left}");
}

#[test]
fn a_shim_moves_to_the_cgroup_that_it_is_told() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let container = Container::sh("sleep 1000");
    world.write_config(&container);
    let path = format!("/wharf-test-shim-{}", world.id);
    let options = wharf_proto::containerd::runc::v1::Options {
        shim_cgroup: path.clone(),
        ..Default::default()
    };
    let request = task::CreateTaskRequest {
        id: world.id.clone(),
        bundle: world.bundle.display().to_string(),
        options: Some(prost_types::Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: prost::Message::encode_to_vec(&options),
        }),
        ..Default::default()
    };
    let created: task::CreateTaskResponse = client.task("Create", &request).expect("created");
    let connected: task::ConnectResponse =
        client.task("Connect", &task::ConnectRequest { id: world.id.clone() }).expect("there");
    let places = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("there");
    let of_shim = places(connected.shim_pid);
    assert!(of_shim.lines().all(|line| line.ends_with(&path)), "{of_shim}");
    let of_container = places(created.pid);
    assert!(!of_container.contains(&path), "{of_container}");
    client.kill(&world.id, "", 9, false).expect("killed");
    client.wait_exit("");
    client.delete(&world.id, "").expect("deleted");
    client.farewell(&world.id);
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(point), Some("cgroup" | "cgroup2")) = (words.next(), words.next()) {
            let folder = std::path::PathBuf::from(format!("{point}{path}"));
            wait_for("the shim has left its cgroup", || {
                !folder.exists() || std::fs::remove_dir(&folder).is_ok()
            });
        }
    }
}
