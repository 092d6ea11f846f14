//! Many lives, one after the other: nothing is left of any. A few here; `make soak SOAK=shim` does
//! `ROUNDS=1000`. Alone in its file: it counts the descriptors of the test itself.

mod support;

use support::{Container, World, wait_for};

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn shims_of_this_test() -> usize {
    let ours = format!("wharf-shim: t{}-", std::process::id());
    let processes = std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok);
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| line.starts_with(ours.as_bytes()))
        .count()
}

#[test]
fn nothing_is_left() {
    need_host!();
    let rounds = number("ROUNDS", 30);
    let mounts = || std::fs::read_to_string("/proc/self/mounts").expect("mounts").lines().count();
    let (mounted, descriptors) = (mounts(), count("/proc/self/fd"));
    for round in 0..rounds {
        let world = World::new();
        let mut client = world.client();
        let terminal = round % 2 == 1;
        let mut container = Container::sh("echo hello; exit 4");
        container.terminal = terminal;
        world.run(&mut client, &container);
        assert_eq!(client.wait_exit("").exit_code, 4);
        assert_eq!(world.output(), if terminal { &b"hello\r\n"[..] } else { b"hello\n" });
        client.delete(&world.id, "").expect("deleted");
        client.shutdown(&world.id);
        wait_for("the socket to go", || !world.socket.exists());
        for hierarchy in ["memory", "pids", "unified"] {
            let left = format!("/sys/fs/cgroup/{hierarchy}/wharf-test-{}", world.id);
            assert!(!std::path::Path::new(&left).exists(), "{left}");
        }
    }
    wait_for("all shims to go", || shims_of_this_test() == 0);
    assert_eq!((mounts(), count("/proc/self/fd")), (mounted, descriptors));
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}
