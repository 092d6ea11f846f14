//! One program becomes another in the same process: nobody else notices.

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use support::{Client, Container, Nothing, World, is_alive};
use wharf_proto::shim as wharf;
use wharf_proto::task;

/// The shim's program under another name: the next version.
fn next_version(world: &World) -> PathBuf {
    let path = world.bundle.join("wharf-shim-next");
    std::fs::copy(env!("CARGO_BIN_EXE_wharf-shim"), &path).expect("copied");
    path
}

fn upgrade(
    client: &mut Client,
    binary: &Path,
) -> Result<Nothing, wharf_proto::google::rpc::Status> {
    let request = wharf::UpgradeRequest { binary: binary.display().to_string() };
    client.wharf("Upgrade", &request)
}

fn info(client: &mut Client) -> wharf::InfoResponse {
    client.wharf("Info", &wharf::InfoRequest {}).expect("answers")
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count()
}

#[test]
fn streams_and_waits_go_on() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container =
        Container::sh("i=0; while read line; do echo $i $line; i=$((i+1)); done; exit 3");
    container.open_stdin = true;
    let pid = world.run(&mut client, &container);
    let next = next_version(&world);
    let shim = info(&mut client).shim_pid;

    client.add_exec(&world.id, "e", &["/bin/cat"], false).expect("added");
    client.start(&world.id, "e").expect("started");
    client.write_stdin("e", b"before ").expect("taken");
    client.write_stdin("", b"one\n").expect("taken");
    let mut waiter = world.client();
    waiter.send(
        task::SERVICE_V3,
        "Wait",
        &task::WaitRequest { id: world.id.clone(), exec_id: String::new() },
    );
    let wait = wharf::WaitExitRequest { exec_id: "e".into() };
    waiter.send(wharf::SERVICE, "WaitExit", &wait);
    // One more caller, so that the one before it has been read.
    let mut probe = world.client();
    info(&mut probe);
    let open = descriptors(shim);

    for _ in 0..3 {
        upgrade(&mut client, &next).expect("upgraded");
    }
    let journal = std::fs::read_to_string(world.bundle.join("shim.log")).expect("journal");
    assert_eq!(journal.matches("shim was upgraded").count(), 3, "{journal}");
    let after = info(&mut client);
    assert_eq!((after.shim_pid, after.init_pid, after.exec_ids), (shim, pid, vec!["e".to_owned()]));
    assert_eq!(descriptors(shim), open, "descriptors");
    let name = std::fs::read(format!("/proc/{shim}/cmdline")).expect("cmdline");
    assert!(name.starts_with(format!("wharf-shim: {}", world.id).as_bytes()));

    client.write_stdin("e", b"and after").expect("taken");
    client.close_stdin(&world.id, "e").expect("closed");
    assert_eq!(client.read_all("e").0, b"before and after");
    let (_, result) = waiter.receive();
    let exit = wharf::ExitRecord::decode(&result.expect("ended")[..]).expect("message");
    assert_eq!(exit.exit_code, 0, "the exec's wait went on");

    client.write_stdin("", b"two\n").expect("taken");
    client.close_stdin(&world.id, "").expect("closed");
    let (_, result) = waiter.receive();
    let exit = task::WaitResponse::decode(&result.expect("ended")[..]).expect("message");
    assert_eq!(exit.exit_status, 3, "the init's wait went on");
    assert_eq!(world.output(), b"0 one\n1 two\n");
    assert_eq!(client.delete(&world.id, "").expect("deleted").exit_status, 3);
}

#[test]
fn output_under_way_is_not_lost() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done";
    world.run(&mut client, &Container::sh(script));
    let next = next_version(&world);
    for _ in 0..5 {
        let _ = upgrade(&mut client, &next);
    }
    assert_eq!(client.wait_exit("").exit_code, 0);
    let expected: String = (0..30_000).map(|i| format!("line {i}\n")).collect();
    assert!(world.output() == expected.as_bytes());
}

#[test]
fn a_program_that_does_not_begin_is_rolled_back() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let pid = world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let hangs = world.bundle.join("hangs");
    std::fs::write(
        &hangs,
        "#!/bin/sh\n[ -z \"$WHARF_DUMP\" ] || cat > $WHARF_DUMP\nexec sleep 100\n",
    )
    .expect("program");
    std::fs::set_permissions(&hangs, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let mut waiter = world.client();
    waiter.send(
        task::SERVICE_V3,
        "Wait",
        &task::WaitRequest { id: world.id.clone(), exec_id: String::new() },
    );
    let shim = info(&mut client).shim_pid;
    for binary in [Path::new("/bin/false"), Path::new("/absent"), &hangs] {
        upgrade(&mut client, binary).expect_err("not a shim");
        assert_eq!(info(&mut client).shim_pid, shim);
    }
    assert_eq!(upgrade(&mut client, Path::new("relative")).expect_err("refused").code, 3);
    assert!(is_alive(pid));
    client.kill(&world.id, "", 9, false).expect("killed");
    assert!(waiter.receive().1.is_ok(), "the wait went on");
}

#[test]
fn a_container_that_waits_for_its_start_is_not_handed_over() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.create(&mut client, &Container::sh("exit 0")).expect("created");
    let error = upgrade(&mut client, &next_version(&world)).expect_err("refused");
    assert_eq!(error.code, 9, "{}", error.message);
    client.start(&world.id, "").expect("started");
    assert_eq!(client.wait_exit("").exit_code, 0);
}
