//! Figures of the budgets: memory, exec latency, log throughput. Printed, not judged:
//! `WHARF_SHIM=target/release/wharf-shim cargo test -p wharf-shim --test figures -- --ignored --nocapture --test-threads 1`

#![allow(clippy::print_stdout, reason = "figures are what this is for")]

mod support;

use std::time::Instant;

use support::{Client, Container, World};

fn pss_kib(pid: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("rollup");
    let line = text.lines().find(|line| line.starts_with("Pss:")).expect("Pss");
    line.split_ascii_whitespace().nth(1).expect("value").parse().expect("number")
}

fn shim_pid(world: &World) -> u64 {
    world.state_json()["shim_pid"].as_u64().expect("pid")
}

fn exec_once(world: &World, client: &mut Client, name: &str) {
    client.add_exec(&world.id, name, &["/bin/true"], false).expect("added");
    client.start(&world.id, name).expect("started");
    assert_eq!(client.wait_exit(name).exit_code, 0);
    client.delete(&world.id, name).expect("deleted");
}

#[test]
#[ignore = "a measurement: run with --ignored"]
fn memory_of_fifty() {
    need_host!();
    let worlds: Vec<World> = (0..50).map(|_| World::new()).collect();
    let mut clients: Vec<Client> = worlds.iter().map(World::client).collect();
    for (world, client) in worlds.iter().zip(&mut clients) {
        world.run(client, &Container::sh("echo up; exec sleep 1000"));
        world.wait_for_output("up");
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    let mut all: Vec<u64> = worlds.iter().map(|world| pss_kib(shim_pid(world))).collect();
    all.sort_unstable();
    println!("pss of a shim, median of 50: {} KiB", all[25]);
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", shim_pid(&worlds[0])));
    println!("{}", rollup.expect("rollup"));
}

#[test]
#[ignore = "a measurement: run with --ignored"]
fn execs() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "1000"]));
    let count: usize =
        std::env::var("EXECS").ok().and_then(|count| count.parse().ok()).unwrap_or(1000);
    let pid = shim_pid(&world);
    exec_once(&world, &mut client, "first");
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
    let (before, open) = (pss_kib(pid), descriptors());
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let begin = Instant::now();
        exec_once(&world, &mut client, &format!("e{number}"));
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    println!(
        "exec of true, median of {count}: {:?}, p99 {:?}",
        times[count / 2],
        times[count * 99 / 100]
    );
    std::thread::sleep(std::time::Duration::from_secs(1));
    println!("pss before {before} KiB, after {} KiB", pss_kib(pid));
    assert_eq!(descriptors(), open, "descriptors");
}

#[test]
#[ignore = "a measurement: run with --ignored"]
fn log_throughput() {
    need_host!();
    // Made once, then written over and over in large pieces: the writer is not what is measured.
    let lines = |length: usize| {
        let line = format!("yes $(head -c {} /dev/zero | tr '\\0' x)", length - 1);
        format!(
            "{line} | head -c 50000000 > /tmp/l; for i in $(yes 1 | head -n 20); do cat /tmp/l; done"
        )
    };
    for (what, script) in [
        ("lines of 100", lines(100)),
        ("lines of 1000", lines(1000)),
        ("no lines", "dd if=/dev/zero bs=1M count=954 2>/dev/null".to_owned()),
    ] {
        let world = World::new();
        let mut client = world.client();
        client.socket.set_read_timeout(None).expect("no limit");
        let mut container = Container::sh(&script);
        container.log_max_bytes = 64 << 20;
        world.run(&mut client, &container);
        let pid = shim_pid(&world);
        let begin = Instant::now();
        assert_eq!(client.wait_exit("").exit_code, 0);
        let wall = begin.elapsed();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let fields: Vec<&str> = stat[stat.rfind(')').expect("name")..].split(' ').collect();
        let seconds = |field: usize| fields[field].parse::<f64>().expect("ticks") / 100.0;
        let (user, kernel) = (seconds(12), seconds(13));
        println!(
            "{what}: {:.0} MiB/s of wall time, {:.0} MiB/s of the shim's processor time ({:.0} % of it in the kernel)",
            953.7 / wall.as_secs_f64(),
            953.7 / (user + kernel),
            100.0 * kernel / (user + kernel)
        );
    }
}
