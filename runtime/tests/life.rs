//! A container's life on the real kernel, through the library. Needs root and Debian's
//! busybox-static; says so and passes where they are missing.
#![allow(clippy::print_stdout)]

mod world;

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde_json::json;
use wharf_runtime::spec::{LinuxResources, Process};
use wharf_runtime::{Error, ErrorKind, RootfsMount, Stdio, Task};
use world::{Check, Ended, World};

fn main() {
    world::main(&[
        ("run_and_exit_code", run_and_exit_code),
        ("output_and_private_namespaces", output_and_private_namespaces),
        ("entrypoint_missing_is_127", entrypoint_missing_is_127),
        ("entrypoint_not_executable_is_126", entrypoint_not_executable_is_126),
        ("overlay_root_is_seen_by_nobody_else", overlay_root_is_seen_by_nobody_else),
        ("mounts_devices_and_masks", mounts_devices_and_masks),
        ("bind_mounts", bind_mounts),
        ("terminal", terminal),
        ("user_capabilities_and_limits", user_capabilities_and_limits),
        ("exec_in_a_running_container", exec_in_a_running_container),
        ("kill_all_pids_pause_update", kill_all_pids_pause_update),
        ("oom_is_counted", oom_is_counted),
        ("state_and_load", state_and_load),
        ("failures_leave_nothing", failures_leave_nothing),
        ("many_layers", many_layers),
        ("seccomp_filters", seccomp_filters),
        ("user_namespace", user_namespace),
        ("priorities_and_personality", priorities_and_personality),
        ("labels_that_the_host_lacks_are_an_error", labels_that_the_host_lacks_are_an_error),
    ]);
}

fn run_and_exit_code() -> Check {
    let mut w = World::new()?;
    w.args(&["/bin/sh", "-c", "exit 42"]);
    let (out, ended) = w.run()?;
    w.same("output", out.as_str(), "")?;
    w.same("end", ended, Ended::Code(42))?;
    w.args(&["/bin/sh", "-c", "kill -9 $$"]);
    // A pid namespace's init ignores its own signals.
    w.same("end", w.run()?.1, Ended::Code(0))
}

fn output_and_private_namespaces() -> Check {
    let mut w = World::new()?;
    w.sh("hostname; echo $$; cat /proc/net/dev | grep -c :; cat /proc/self/cgroup | grep -c wharf; ls /proc/self/fd | wc -l; ip addr show lo | grep -c UP");
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(1).or_zero(ended))?;
    let lines: Vec<&str> = out.lines().collect();
    w.same("hostname", lines[0], "inside")?;
    w.same("pid", lines[1], "1")?;
    w.same("cgroups are relative to the namespace", lines[3], "0")?;
    // 0, 1, 2 and the one that ls itself has open.
    w.same("descriptors", lines[4], "4")
}

fn entrypoint_missing_is_127() -> Check {
    let mut w = World::new()?;
    for args in [&["nothing-like-it"][..], &["/no/such"][..]] {
        w.args(args);
        let error = w.refused()?;
        w.same("kind", error.kind(), ErrorKind::NotFound)?;
        w.same("code", error.exit_code(), 127)?;
    }
    Ok(())
}

fn entrypoint_not_executable_is_126() -> Check {
    let mut w = World::new()?;
    std::fs::write(w.root().join("text"), "x")?;
    for args in [&["/text"][..], &["/bin"][..]] {
        w.args(args);
        let error = w.refused()?;
        w.same("code", error.exit_code(), 126)?;
    }
    Ok(())
}

fn overlay_root_is_seen_by_nobody_else() -> Check {
    let mut w = World::new()?;
    w.sh("echo new >/file; cat /file; mount | head -1");
    let parts = w.overlay(1)?;
    let (out, ended) = w.run_with(Some(&parts))?;
    w.same("end", ended, Ended::Code(0))?;
    w.has(&out, "new\n")?;
    w.has(&out, "overlay on / type overlay")?;
    w.same("the lower layer is as it was", w.root().join("file").exists(), false)?;
    w.same("written to the upper one", w.path("upper/file").exists(), true)
}

fn many_layers() -> Check {
    let mut w = World::new()?;
    w.sh("cat /layer-79");
    // Relative to their folder they fit into a page, for kernels before 6.7.
    let parts = w.overlay(80)?;
    let long: usize = parts[0].options.iter().map(String::len).sum();
    w.same("longer than a page", long > 4096, true)?;
    let (out, ended) = w.run_with(Some(&parts))?;
    w.same("end", ended, Ended::Code(0))?;
    w.same("output", out.as_str(), "79")
}

fn mounts_devices_and_masks() -> Check {
    let mut w = World::new()?;
    w.sh("echo x >/dev/null; head -c 3 /dev/zero | wc -c; ls -l /dev/fd | sed 's/.*-> //'; \
          wc -c </proc/timer_list; ls /sys/firmware | wc -l; echo 1 2>/dev/null >/proc/sys/kernel/panic || echo ro; \
          echo x 2>/dev/null >/ro || echo ro-root; echo x >/dev/shm/x && cat /dev/shm/x; \
          cat /proc/sys/net/ipv4/ip_forward; mknod /tmp/sda b 8 0 2>/dev/null; umask; ls /sys/fs/cgroup | grep -c .");
    w.spec["root"]["readonly"] = json!(true);
    w.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(0))?;
    let lines: Vec<&str> = out.lines().collect();
    w.same(
        "lines",
        &lines[..9],
        &["3", "/proc/self/fd", "0", "0", "ro", "ro-root", "x", "1", "0022"],
    )
}

fn bind_mounts() -> Check {
    let mut w = World::new()?;
    std::fs::create_dir_all(w.path("src/deep"))?;
    std::fs::write(w.path("src/deep/f"), "from the host")?;
    let src = w.path("src");
    w.mount(json!({"destination": "/data/new", "type": "bind", "source": src, "options": ["rbind", "ro"]}));
    w.mount(json!({"destination": "/one/file", "type": "bind", "source": w.path("src/deep/f"), "options": ["bind"]}));
    w.sh("cat /data/new/deep/f; echo; echo x 2>/dev/null >/data/new/y || echo ro; echo changed >/one/file; mount | grep -c ' /data/new '");
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(0))?;
    w.same("output", out.as_str(), "from the host\nro\n1\n")?;
    w.same("written through", std::fs::read_to_string(w.path("src/deep/f"))?.as_str(), "changed\n")
}

fn terminal() -> Check {
    let mut w = World::new()?;
    w.sh("tty; stty size; echo console >/dev/console; tty </dev/console >/dev/null && echo same; read line; echo got $line");
    let mut created = w.create(None, Stdio::Terminal { size: Some((91, 33)) })?;
    created.start()?;
    let pty = created.pty.take().ok_or("no pty")?;
    world::write_all(&pty, b"hello\n")?;
    let out = world::read_to_end(pty)?;
    let ended = world::reap(&created.task)?;
    created.task.destroy()?;
    w.same("end", ended, Ended::Code(0))?;
    for expected in ["/dev/pts/0", "33 91", "console", "same", "got hello"] {
        w.has(&out, expected)?;
    }
    Ok(())
}

fn user_capabilities_and_limits() -> Check {
    let mut w = World::new()?;
    w.sh("id -u; id -g; id -G; umask; ulimit -n; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|SigIgn|SigBlk' /proc/self/status; pwd; echo $A; echo x >/dev/stdout");
    w.spec["process"]["user"] =
        json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027});
    w.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]);
    w.spec["process"]["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"],
        "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    w.spec["process"]["cwd"] = json!("/made/here");
    w.spec["process"]["env"] = json!(["PATH=/bin", "A=b c"]);
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(0))?;
    for expected in [
        "1000\n1001\n1001 5 6\n0027\n64\n",
        "CapBnd:\t0000000000000021",
        "CapEff:\t0000000000000020",
        "CapAmb:\t0000000000000020",
        "NoNewPrivs:\t1",
        "SigIgn:\t0000000000000000",
        "/made/here\nb c\nx\n",
    ] {
        w.has(&out, expected)?;
    }
    Ok(())
}

fn exec_in_a_running_container() -> Check {
    let mut w = World::new()?;
    w.args(&["sleep", "100"]);
    let created = w.start()?;
    let process: Process = serde_json::from_value(
        json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
        "args": ["sh", "-c", "hostname; cat /proc/self/cgroup | grep -vc ':/$'; exit 7"], "env": ["PATH=/bin"]}),
    )?;
    let (stdio, out) = world::pipes()?;
    let exec = created.task.exec(&process, stdio)?;
    let out = world::read_to_end(out)?;
    w.same("output", out.as_str(), "inside\n0\n")?;
    w.same("end", world::reap_fd(&exec.pidfd)?, Ended::Code(7))?;
    let children = std::fs::read_link(format!("/proc/{}/ns/pid_for_children", std::process::id()))?;
    w.same("our own namespace", children, std::fs::read_link("/proc/self/ns/pid")?)?;

    let mut bad = process.clone();
    bad.set_args(Some(vec!["nothing".into()]));
    let (stdio, _out) = world::pipes()?;
    match created.task.exec(&bad, stdio) {
        Err(error) => w.same("code", error.exit_code(), 127)?,
        Ok(_) => return Err("an exec of nothing worked".into()),
    }
    let tty = created.task.exec(&process, Stdio::Terminal { size: None })?;
    let out = world::read_to_end(tty.pty.ok_or("no pty")?)?;
    w.has(&out, "inside\r\n")?;
    w.same("end", world::reap_fd(&tty.pidfd)?, Ended::Code(7))?;
    end(&created.task)
}

fn end(task: &Task) -> Check {
    task.signal_all(9)?;
    world::reap(task)?;
    task.destroy()?;
    task.destroy()?;
    Ok(())
}

fn kill_all_pids_pause_update() -> Check {
    let mut w = World::new()?;
    w.sh("sleep 100 & sleep 100 & wait");
    let created = w.start()?;
    let task = &created.task;
    world::until("three processes", || Ok(task.pids()?.len() == 3))?;
    task.pause()?;
    w.same("paused", task.is_paused(), true)?;
    let process: Process =
        serde_json::from_value(json!({"user": {}, "cwd": "/", "args": ["true"]}))?;
    match task.exec(&process, Stdio::Inherit) {
        Err(error) => w.same("kind", error.kind(), ErrorKind::Precondition)?,
        Ok(_) => return Err("an exec in a paused container".into()),
    }
    task.resume()?;
    w.same("paused", task.is_paused(), false)?;
    let more: LinuxResources =
        serde_json::from_value(json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000}}))?;
    task.update(&more)?;
    task.update(&serde_json::from_value(
        json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}}),
    )?)?;
    task.update(&serde_json::from_value(
        json!({"memory": {"limit": 128 << 20, "swap": 128 << 20}}),
    )?)?;
    end(task)?;
    w.same("pids of a gone container", task.pids()?, Vec::new())?;
    match task.signal(9) {
        Err(Error::Gone { .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn oom_is_counted() -> Check {
    let mut w = World::new()?;
    w.sh("a=x; while true; do a=$a$a; done");
    w.spec["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    let created = w.start()?;
    let ended = world::reap(&created.task)?;
    let kills = created.task.oom_kills()?;
    created.task.destroy()?;
    w.same("end", ended, Ended::Signal(9))?;
    w.same("kills", kills, 1)
}

fn state_and_load() -> Check {
    let mut w = World::new()?;
    w.args(&["sleep", "100"]);
    let created = w.start()?;
    let text = serde_json::to_string(&created.task.state())?;
    let again = Task::load(serde_json::from_str(&text)?)?;
    w.same("pid", again.pid, created.task.pid)?;
    w.same("pids", again.pids()?, created.task.pids()?)?;
    end(&again)?;
    match Task::load(serde_json::from_str(&text)?) {
        Err(Error::Gone { .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn failures_leave_nothing() -> Check {
    let mut w = World::new()?;
    w.mount(json!({"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}));
    let error = w.refused()?;
    w.same("kind", error.kind(), ErrorKind::NotFound)?;
    w.has(&error.to_string(), "/no/such/source")?;
    w.same("no cgroup", w.cgroup_exists(), false)?;
    let mut w = World::new()?;
    w.spec["linux"]["resources"]["memory"] = json!({"limit": 100});
    w.refused()?;
    w.same("no cgroup", w.cgroup_exists(), false)?;
    let mut w = World::new()?;
    w.args(&["sleep", "100"]);
    let created = w.create(None, Stdio::Inherit)?;
    let task = created.task.state();
    let pidfd: OwnedFd = created.task.pidfd.try_clone()?;
    drop(created);
    std::thread::sleep(Duration::from_millis(1));
    w.same("a dropped one ends", world::reap_fd(&pidfd)?, Ended::Code(1))?;
    task.destroy()?;
    let _ = RootfsMount::default();
    Ok(())
}

fn seccomp_filters() -> Check {
    for no_new_privileges in [true, false] {
        let mut w = World::new()?;
        w.sh("mkdir /tmp/x 2>&1; grep -E 'Seccomp:|CapEff' /proc/self/status; touch /tmp/ready; sleep 100");
        w.spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        w.spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]});
        let (stdio, out) = world::pipes()?;
        let mut created = w.create(None, stdio)?;
        created.start()?;
        let process: Process = serde_json::from_value(
            json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
            "args": ["mkdir", "/tmp/y"], "env": ["PATH=/bin"], "noNewPrivileges": no_new_privileges}),
        )?;
        let ready = w.root().join("tmp/ready");
        world::until("the script", || Ok(ready.exists()))?;
        let (stdio, err) = world::pipes()?;
        let exec = created.task.exec(&process, stdio)?;
        let err = world::read_to_end(err)?;
        world::reap_fd(&exec.pidfd)?;
        end(&created.task)?;
        let out = world::read_to_end(out)?;
        w.has(&err, "quota exceeded")?;
        w.has(&out, "quota exceeded")?;
        w.has(&out, "Seccomp:\t2")?;
        w.has(&out, "CapEff:\t0000000008000020")?;
    }
    Ok(())
}

fn user_namespace() -> Check {
    let mut w = World::new()?;
    w.spec["linux"]["namespaces"].as_array_mut().ok_or("no list")?.push(json!({"type": "user"}));
    for map in ["uidMappings", "gidMappings"] {
        w.spec["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    }
    w.spec["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [9]});
    w.open_to(100_000)?;
    w.sh("id -u; id -G; echo x >/dev/null && echo null; grep -o 100000 /proc/self/uid_map; touch /tmp/ready; sleep 100");
    let (stdio, out) = world::pipes()?;
    let mut created = w.create(None, stdio)?;
    created.start()?;
    let ready = w.root().join("tmp/ready");
    world::until("the script", || Ok(ready.exists()))?;
    let process: Process =
        serde_json::from_value(json!({"user": {"uid": 5, "gid": 6, "additionalGids": [7]},
        "cwd": "/", "args": ["sh", "-c", "id -u; id -G"], "env": ["PATH=/bin"]}))?;
    let (stdio, text) = world::pipes()?;
    let exec = created.task.exec(&process, stdio)?;
    let text = world::read_to_end(text)?;
    world::reap_fd(&exec.pidfd)?;
    end(&created.task)?;
    w.same("exec", text.as_str(), "5\n6 7\n")?;
    w.same("output", world::read_to_end(out)?.as_str(), "0\n0 9\nnull\n100000\n")
}

fn labels_that_the_host_lacks_are_an_error() -> Check {
    if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
        println!("        skipped: this host has AppArmor");
        return Ok(());
    }
    let mut w = World::new()?;
    w.spec["process"]["apparmorProfile"] = json!("docker-default");
    let error = w.refused()?;
    w.has(&error.to_string(), "process.apparmorProfile")
}

fn priorities_and_personality() -> Check {
    let mut w = World::new()?;
    w.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    w.spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    w.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    w.sh("uname -m; busybox ionice -p $$; cut -d' ' -f19,41 /proc/self/stat");
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(0))?;
    for expected in ["i686\n", "idle", "7 3\n"] {
        w.has(&out, expected)?;
    }
    Ok(())
}
