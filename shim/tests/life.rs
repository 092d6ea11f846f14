//! The life of a task through the real binary, on the real kernel.

mod support;

use prost::Message as _;
use support::{Container, Nothing, World, is_alive, wait_for};
use wharf_proto::shim::ExitRecord;
use wharf_proto::task;

const NOT_FOUND: i32 = 5;
const PRECONDITION: i32 = 9;

#[test]
fn create_start_exit_delete() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let pid = world.create(&mut client, &Container::sh("echo hello; exit 3")).expect("created");
    assert!(is_alive(pid));
    assert_eq!(world.state_json()["runtime"]["pid"], pid);
    let state = client.state(&world.id, "").expect("there");
    assert_eq!((state.status(), state.pid), (task::Status::Created, pid));

    assert_eq!(client.start(&world.id, "").expect("started"), pid);
    let exit = client.wait_exit("");
    assert_eq!((exit.pid, exit.exit_code, exit.signal, exit.oom_killed), (pid, 3, 0, false));
    assert_eq!(world.output(), b"hello\n");
    assert!(world.bundle.join("exit.json").exists(), "written before it is told");
    assert!(!is_alive(pid));

    let state = client.state(&world.id, "").expect("kept until deleted");
    assert_eq!((state.status(), state.exit_status), (task::Status::Stopped, 3));
    let error = client.kill(&world.id, "", 15, false).expect_err("nothing to signal");
    assert_eq!(error.code, NOT_FOUND, "{}", error.message);

    let deleted = client.delete(&world.id, "").expect("deleted");
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 3));
    for left in ["exit.json", "state.json"] {
        assert!(!world.bundle.join(left).exists(), "{left}");
    }
    assert_eq!(client.state(&world.id, "").expect_err("gone").code, NOT_FOUND);
    client.shutdown(&world.id);
    wait_for("the socket to go", || !world.socket.exists());
}

#[test]
fn waits_stay_open_while_others_are_answered() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let request = task::WaitRequest { id: world.id.clone(), exec_id: String::new() };
    let waits = [0; 3].map(|_| client.send(task::SERVICE_V3, "Wait", &request));
    assert_eq!(client.state(&world.id, "").expect("answered").status(), task::Status::Running);
    let error = client.delete(&world.id, "").expect_err("it runs");
    assert_eq!(error.code, PRECONDITION);
    assert!(error.message.contains("running"), "{}", error.message);
    let killed = client.send(
        task::SERVICE_V2,
        "Kill",
        &task::KillRequest { id: world.id.clone(), signal: 9, ..Default::default() },
    );
    let (stream, result) = client.receive();
    assert_eq!(stream, killed);
    result.expect("killed");
    for wait in waits {
        let (stream, result) = client.receive();
        assert_eq!(stream, wait);
        let answer = task::WaitResponse::decode(&result.expect("ended")[..]).expect("message");
        assert_eq!(answer.exit_status, 137);
    }
    let exit = client.wait_exit("");
    assert_eq!((exit.exit_code, exit.signal), (137, 9));
}

#[test]
fn entrypoints_that_cannot_start() {
    need_host!();
    for (entrypoint, code) in [("/bin/absent", 127), ("absent", 127), ("/bin/plain", 126)] {
        let world = World::new();
        let mut client = world.client();
        let error = match world.create(&mut client, &Container::new(&[entrypoint])) {
            Ok(_) => client.start(&world.id, "").expect_err("no such program"),
            Err(error) => error,
        };
        let detail = error.details.first().unwrap_or_else(|| panic!("{}", error.message));
        assert_eq!(detail.type_url, "wharf.shim.v1.ExitRecord");
        let record = ExitRecord::decode(&detail.value[..]).expect("record");
        assert_eq!(record.exit_code, code, "{}", error.message);
        let _ = client.delete(&world.id, "");
        client.shutdown(&world.id);
        wait_for("the shim to go", || !world.socket.exists());
    }
}

#[test]
fn pause_and_resume() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(
        &mut client,
        &Container::sh("i=0; while true; do echo $i; i=$((i+1)); sleep 0.01; done"),
    );
    world.wait_for_output("5");
    let request = task::PauseRequest { id: world.id.clone() };
    client.task::<Nothing>("Pause", &request).expect("frozen");
    client.task::<Nothing>("Pause", &request).expect("frozen already is fine");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let before = world.output();
    assert_eq!(client.state(&world.id, "").expect("there").status(), task::Status::Paused);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(world.output(), before, "nothing runs");
    client
        .task::<Nothing>("Resume", &task::ResumeRequest { id: world.id.clone() })
        .expect("thawed");
    wait_for("output to go on", || world.output() != before);
    client.task::<Nothing>("Pause", &request).expect("frozen");
    client.kill(&world.id, "", 9, false).expect("killed, and thawed to die");
    assert_eq!(client.wait_exit("").signal, 9);
}

#[test]
fn memory_hog_is_said_to_be_oom_killed() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::sh("tail -c 200m /dev/zero; exit $?");
    container.args = ["/bin/tail", "-c", "200000000", "/dev/zero"].map(str::to_owned).to_vec();
    container.memory = Some(16 << 20);
    world.run(&mut client, &container);
    let exit = client.wait_exit("");
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, 9, true));
}

#[test]
fn figures_of_the_cgroup() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let answer: task::StatsResponse =
        client.task("Stats", &task::StatsRequest { id: world.id.clone() }).expect("figures");
    let any = answer.stats.expect("figures");
    let pids = match any.type_url.as_str() {
        "io.containerd.cgroups.v1.Metrics" => {
            let metrics = wharf_proto::containerd::cgroups::v1::Metrics::decode(&any.value[..]);
            metrics.expect("message").pids.expect("pids").current
        }
        "io.containerd.cgroups.v2.Metrics" => {
            let metrics = wharf_proto::containerd::cgroups::v2::Metrics::decode(&any.value[..]);
            metrics.expect("message").pids.expect("pids").current
        }
        other => panic!("{other}"),
    };
    assert_eq!(pids, 1);
}

#[test]
fn orphans_are_reaped() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::new(&["/bin/sleep", "1000"]);
    container.host_pids = true;
    world.run(&mut client, &container);
    client
        .add_exec(&world.id, "e", &["/bin/sh", "-c", "sleep 0.1 & echo $!"], false)
        .expect("added");
    client.start(&world.id, "e").expect("started");
    assert_eq!(client.wait_exit("e").exit_code, 0);
    let (stdout, _) = client.read_all("e");
    let orphan: u32 = String::from_utf8(stdout).expect("text").trim().parse().expect("pid");
    wait_for("the orphan to be reaped", || {
        !std::path::Path::new(&format!("/proc/{orphan}")).exists()
    });
}

#[test]
fn init_takes_the_rest_along() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::sh("sleep 1000 & echo $!; sleep 0.2");
    container.host_pids = true;
    world.run(&mut client, &container);
    assert_eq!(client.wait_exit("").exit_code, 0);
    let left: u32 = String::from_utf8(world.output()).expect("text").trim().parse().expect("pid");
    wait_for("what was left to be killed", || !is_alive(left));
}

#[test]
fn a_created_container_can_be_deleted() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let pid = world.create(&mut client, &Container::sh("echo never")).expect("created");
    client.delete(&world.id, "").expect("deleted");
    assert!(!is_alive(pid));
    assert!(!world.bundle.join("state.json").exists());
}

#[test]
fn delete_command_finds_what_a_dead_shim_left() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::new(&["/bin/sleep", "1000"]);
    container.host_pids = true;
    let pid = world.run(&mut client, &container);
    let shim = world.state_json()["shim_pid"].as_i64().expect("pid");
    let shim = nix::unistd::Pid::from_raw(i32::try_from(shim).expect("pid"));
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).expect("killed");
    assert!(is_alive(pid), "a container outlives its shim");
    let output = world.delete_shim();
    assert!(output.status.success(), "{output:?}");
    let answer = task::DeleteResponse::decode(&output.stdout[..]).expect("message");
    assert_eq!((answer.pid, answer.exit_status), (pid, 137));
    wait_for("the init to die", || !is_alive(pid));
    assert!(!world.socket.exists());
    assert!(!world.bundle.join("state.json").exists());
    assert!(world.delete_shim().status.success(), "again is fine");
}
