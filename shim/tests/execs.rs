//! Many execs in one container: nothing is left of any. A few here; `make soak SOAK=shim` does
//! `EXECS=100000`.

mod support;

use support::{Container, World, wait_for};
use wharf_proto::shim as wharf;

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// Processes whose parent is this one.
fn children(pid: u32) -> usize {
    let path = format!("/proc/{pid}/task/{pid}/children");
    std::fs::read_to_string(path).expect("children").split_whitespace().count()
}

#[test]
fn execs_leave_nothing() {
    need_host!();
    let world = World::new();
    let mut client = world.client();
    world.run(&mut client, &Container::new(&["/bin/sleep", "100000"]));
    let info: wharf::InfoResponse = client.wharf("Info", &wharf::InfoRequest {}).expect("answers");
    let descriptors = || count(&format!("/proc/{}/fd", info.shim_pid));
    let files = || std::fs::read_dir(&world.bundle).expect("bundle").count();
    let before = (descriptors(), files(), children(info.shim_pid));
    for number in 0..number("EXECS", 60) {
        let name = format!("e{number}");
        let (args, is_terminal) = match number % 3 {
            0 => (&["/bin/true"][..], false),
            1 => (&["/bin/echo", "hello"][..], true),
            // Its child outlives it and is the container's orphan for a moment.
            _ => (&["/bin/sh", "-c", "sleep 0.01 & exit 3"][..], false),
        };
        client.add_exec(&world.id, &name, args, is_terminal).expect("added");
        client.start(&world.id, &name).expect("started");
        let exit = client.wait_exit(&name);
        assert_eq!(exit.exit_code, if number % 3 == 2 { 3 } else { 0 });
        client.delete(&world.id, &name).expect("deleted");
    }
    wait_for("all of it to go", || (descriptors(), files(), children(info.shim_pid)) == before);
}
