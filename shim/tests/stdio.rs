//! What goes in and comes out of a container, through the real binary.

mod support;

use support::{Container, Nothing, World, wait_for};
use wharf_proto::shim as wharf;
use wharf_proto::task;

#[test]
fn all_output_before_the_exit_is_in_the_log() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let script = "yes 0123456789abcdef | head -c 8388608; echo end >&2; exit 7";
    world.run(&mut client, &Container::sh(script));
    assert_eq!(client.wait_exit("").exit_code, 7);
    let output = world.output();
    assert_eq!(output.len(), 8_388_608 + 4);
    let stdout: Vec<u8> = b"0123456789abcdef\n".repeat(500_000)[..8_388_608].to_vec();
    let rest = String::from_utf8_lossy(&output).replacen("end\n", "", 1);
    assert!(rest.as_bytes() == stdout, "lossless");
}

#[test]
fn stdin_reaches_its_end() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::new(&["/bin/cat"]);
    container.open_stdin = true;
    world.run(&mut client, &container);
    let data = b"all of this\n".repeat(100_000);
    for piece in data.chunks(300_000) {
        client.write_stdin("", piece).expect("taken");
    }
    client.close_stdin(&world.id, "").expect("closed");
    client.close_stdin(&world.id, "").expect("closed already is fine");
    assert_eq!(client.wait_exit("").exit_code, 0);
    assert!(world.output() == data);
    assert_eq!(client.write_stdin("", b"x").expect_err("closed").code, 9);
}

#[test]
fn without_stdin_there_is_none() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/cat"]));
    assert_eq!(client.wait_exit("").exit_code, 0, "/dev/null ends at once");
}

#[test]
fn a_terminal_prompts_and_resizes() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container =
        Container::sh("stty size; printf 'name? '; read name; echo hi $name; read x; stty size");
    container.terminal = true;
    container.open_stdin = true;
    world.run(&mut client, &container);
    world.wait_for_output("25 80");
    world.wait_for_output("name? ");
    client.write_stdin("", b"wharf\n").expect("taken");
    world.wait_for_output("hi wharf");
    let resize = task::ResizePtyRequest {
        id: world.id.clone(),
        exec_id: String::new(),
        width: 132,
        height: 43,
    };
    client.task::<Nothing>("ResizePty", &resize).expect("resized");
    client.write_stdin("", b"\n").expect("taken");
    assert_eq!(client.wait_exit("").exit_code, 0);
    world.wait_for_output("43 132");
}

#[test]
fn an_exec_has_streams_and_a_code_of_its_own() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let script = "cat; echo err >&2; exit 5";
    client.add_exec(&world.id, "e1", &["/bin/sh", "-c", script], false).expect("added");
    let taken = client.add_exec(&world.id, "e1", &["/bin/true"], false).expect_err("taken");
    assert_eq!(taken.code, 6);
    let pid = client.start(&world.id, "e1").expect("started");
    assert!(pid > 0);
    client.write_stdin("e1", b"to and fro\n").expect("taken");
    client.close_stdin(&world.id, "e1").expect("closed");
    let exit = client.wait_exit("e1");
    assert_eq!((exit.pid, exit.exit_code), (pid, 5));
    assert_eq!(client.read_all("e1"), (b"to and fro\n".to_vec(), b"err\n".to_vec()));
    let state = client.state(&world.id, "e1").expect("there");
    assert_eq!((state.status(), state.exit_status), (task::Status::Stopped, 5));
    assert_eq!(client.delete(&world.id, "e1").expect("deleted").exit_status, 5);
    assert_eq!(client.state(&world.id, "e1").expect_err("gone").code, 5);
    assert!(world.output().is_empty(), "an exec's output is not in the log");
    let left = std::fs::read_dir(&world.bundle).expect("bundle").count();
    client.add_exec(&world.id, "e2", &["/bin/true"], false).expect("added");
    client.start(&world.id, "e2").expect("started");
    client.wait_exit("e2");
    client.delete(&world.id, "e2").expect("deleted");
    assert_eq!(std::fs::read_dir(&world.bundle).expect("bundle").count(), left, "no file left");
}

#[test]
fn an_exec_that_nobody_reads_waits_and_loses_nothing() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let script = "yes 0123456789abcdef | head -c 3000000";
    client.add_exec(&world.id, "e", &["/bin/sh", "-c", script], false).expect("added");
    client.start(&world.id, "e").expect("started");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let status = client.state(&world.id, "e").expect("there").status();
    assert_eq!(status, task::Status::Running, "held back by what is not read");
    // A reader whose connection breaks goes on where it was.
    let request =
        wharf::ReadOutputRequest { exec_id: "e".into(), max_bytes: 1000, ..Default::default() };
    let first: wharf::ReadOutputResponse =
        world.client().wharf("ReadOutput", &request).expect("output");
    let again: wharf::ReadOutputResponse = client.wharf("ReadOutput", &request).expect("output");
    assert_eq!(first, again);
    let (stdout, _) = client.read_all("e");
    assert_eq!(stdout.len(), 3_000_000);
    assert_eq!(client.wait_exit("e").exit_code, 0);
}

#[test]
fn held_output_is_released_apart_from_its_reading() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    client.add_exec(&world.id, "e", &["/bin/echo", "0123456789"], false).expect("added");
    client.start(&world.id, "e").expect("started");
    client.wait_exit("e");
    let mut read = |offset, release_below| {
        let request = wharf::ReadOutputRequest {
            exec_id: "e".into(),
            offset,
            release_below,
            ..Default::default()
        };
        client.wharf::<wharf::ReadOutputResponse>("ReadOutput", &request)
    };
    assert_eq!(read(8, Some(0)).expect("held").next_offset, 11);
    assert_eq!(read(2, Some(2)).expect("held still").chunks[0].data, b"23456789\n");
    assert_eq!(read(1, Some(1)).expect_err("released").code, 11);
    let info: wharf::InfoResponse = client.wharf("Info", &wharf::InfoRequest {}).expect("answers");
    assert_eq!(info.exec_ids, ["e"]);
}

#[test]
fn an_exec_on_a_terminal() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    client
        .add_exec(&world.id, "e", &["/bin/sh", "-c", "read x; echo got $x"], true)
        .expect("added");
    client.start(&world.id, "e").expect("started");
    client.write_stdin("e", b"it\n").expect("taken");
    let (stdout, _) = client.read_all("e");
    assert!(String::from_utf8_lossy(&stdout).contains("got it\r\n"), "{stdout:?}");
    assert_eq!(client.wait_exit("e").exit_code, 0);
}

#[test]
fn execs_that_cannot_start() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    client.add_exec(&world.id, "e", &["/bin/absent"], false).expect("added");
    let error = client.start(&world.id, "e").expect_err("no such program");
    assert_eq!(error.details.len(), 1, "{}", error.message);
    assert_eq!(client.wait_exit("e").exit_code, 127);
    client.delete(&world.id, "e").expect("deleted");
}

#[test]
fn logs_rotate_and_lose_nothing() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container =
        Container::sh("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done");
    container.log_max_bytes = 60_000;
    world.run(&mut client, &container);
    assert_eq!(client.wait_exit("").exit_code, 0);
    let path = world.log_path();
    let mut all = Vec::new();
    for number in (1..=3).rev() {
        let rotated = format!("{}.{number}", path.display());
        all.extend(std::fs::read(rotated).unwrap_or_default());
    }
    all.extend(std::fs::read(&path).expect("log"));
    let expected: String = (0..3000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(String::from_utf8(support::decode_cri(&all)).expect("text"), expected);
    assert!(std::fs::metadata(format!("{}.1", path.display())).is_ok(), "it was rotated");
}

#[test]
fn json_file_logs() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::sh("echo one");
    container.format = wharf::log_target::Format::JsonFile;
    world.run(&mut client, &container);
    client.wait_exit("");
    let line: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.log_path()).expect("log")).expect("json");
    assert_eq!((&line["log"], &line["stream"]), (&"one\n".into(), &"stdout".into()));
}

#[test]
fn a_log_is_reopened() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    let mut container = Container::new(&["/bin/cat"]);
    container.open_stdin = true;
    world.run(&mut client, &container);
    client.write_stdin("", b"one\n").expect("taken");
    world.wait_for_output("one");
    let aside = world.log_path().with_extension("aside");
    std::fs::rename(world.log_path(), &aside).expect("renamed");
    client.wharf::<Nothing>("ReopenLog", &wharf::ReopenLogRequest {}).expect("reopened");
    client.write_stdin("", b"two\n").expect("taken");
    wait_for("the new log", || world.output() == b"two\n");
    client.kill(&world.id, "", 9, false).expect("killed");
}

/// A small file system for a log; unmounted on drop.
struct SmallDisk {
    path: std::path::PathBuf,
}

impl SmallDisk {
    fn new(world: &World) -> Self {
        let path = world.bundle.join("disk");
        std::fs::create_dir(&path).expect("folder");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some("size=256k"))
            .expect("mounted");
        Self { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_holds_output_back_and_loses_none() {
    need_host!();
    let world = World::new();
    let disk = SmallDisk::new(&world);
    let mut client = world.client();
    let filler = disk.path.join("filler");
    std::fs::write(&filler, vec![0; 200 << 10]).expect("filled");
    let mut container = Container::sh("yes 0123456789abcdef | head -c 100000; echo end");
    container.log_path = Some(disk.path.join("log"));
    world.run(&mut client, &container);
    std::thread::sleep(std::time::Duration::from_millis(300));
    // Reads go on while the disk is full.
    assert!(client.state(&world.id, "").is_ok());
    let journal = std::fs::read_to_string(world.bundle.join("shim.log")).expect("journal");
    assert!(journal.contains("no room for the log"), "{journal}");
    let log = disk.path.join("log");
    let mut all = std::fs::read(&log).expect("log");
    std::fs::remove_file(&filler).expect("room again");
    // A log of 400 KiB does not fit: read and make room as it comes.
    let expected: Vec<u8> = [&b"0123456789abcdef\n".repeat(6000)[..100_000], b"end\n"].concat();
    let mut seen = all.len();
    wait_for("the rest", || {
        let now = std::fs::read(&log).expect("log");
        all.extend_from_slice(&now[seen.min(now.len())..]);
        seen = now.len();
        support::decode_cri(&all).len() == expected.len() || {
            let file = std::fs::OpenOptions::new().write(true).open(&log).expect("log");
            if seen > 200 << 10 {
                file.set_len(0).expect("emptied");
                seen = 0;
            }
            false
        }
    });
    assert!(support::decode_cri(&all) == expected);
    assert_eq!(client.wait_exit("").exit_code, 0);
}

#[test]
fn a_full_disk_may_drop_whole_lines_and_count_them() {
    need_host!();
    let world = World::new();
    let disk = SmallDisk::new(&world);
    let mut client = world.client();
    let mut container =
        Container::sh("yes 0123456789abcdef | head -c 1700000; echo done >&2; exit 3");
    container.log_path = Some(disk.path.join("log"));
    container.when_full = wharf::log_target::WhenFull::Drop;
    world.run(&mut client, &container);
    assert_eq!(client.wait_exit("").exit_code, 3, "not held up");
    let info: wharf::InfoResponse = client.wharf("Info", &wharf::InfoRequest {}).expect("answers");
    assert!(!info.log_blocked);
    let log = std::fs::read(disk.path.join("log")).expect("log");
    assert_eq!(log.last(), Some(&b'\n'), "no part of a line");
    let kept = support::decode_cri(&log);
    assert!(kept.starts_with(b"0123456789abcdef\n") && kept.len() < 1_700_000);
    // Each line has a head of 40 bytes or so, which counts as well.
    let all = log.len() as u64 + info.log_bytes_dropped;
    let lines = 100_000;
    assert!(all > 1_700_000 + 30 * lines, "{all} bytes are accounted for");
}
