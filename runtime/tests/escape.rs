//! Hostile images and specs, one for each published way out. Each check fails on a naive runtime.
#![allow(clippy::print_stdout)]

mod world;

use std::os::unix::fs::symlink;

use serde_json::json;
use wharf_runtime::spec::Process;
use wharf_runtime::{ErrorKind, Stdio};
use world::{Check, Ended, World};

fn main() {
    world::main(&[
        ("cve_2021_30465_targets_stay_inside", targets_stay_inside),
        ("cve_2019_16884_nothing_over_proc", nothing_over_proc),
        ("cve_2019_19921_proc_through_a_link", proc_through_a_link),
        ("cve_2023_27561_proc_through_a_volume", proc_through_a_volume),
        ("cve_2024_21626_no_directory_as_a_stream", no_directory_as_a_stream),
        ("cve_2025_31133_a_mask_through_a_link", a_mask_through_a_link),
        ("cve_2024_21626_cwd_through_a_descriptor", cwd_through_a_descriptor),
        ("cve_2024_45310_targets_are_made_inside", targets_are_made_inside),
        ("cve_2025_31133_null_that_is_a_link", null_that_is_a_link),
        ("cve_2025_52565_console_that_is_a_link", console_that_is_a_link),
        ("cve_2025_52881_parameters_reach_the_kernel", parameters_reach_the_kernel),
        ("cve_2016_9962_exec_shows_no_descriptor", exec_shows_no_descriptor),
        ("cve_2022_29162_no_inheritable_capabilities", no_inheritable_capabilities),
    ]);
}

/// Links of the image at a mount's target end inside the root, whatever they point at.
fn targets_stay_inside() -> Check {
    let mut w = World::new()?;
    let outside = w.path("outside");
    std::fs::create_dir_all(&outside)?;
    let text = outside.display().to_string();
    let up = format!("../../../../../../../..{text}");
    symlink(&outside, w.root().join("absolute"))?;
    symlink(&up, w.root().join("up"))?;
    for (n, name) in ["absolute", "up"].iter().enumerate() {
        std::fs::create_dir_all(w.root().join(text.trim_start_matches('/')))?;
        w.mount(
            json!({"destination": format!("/{name}/made{n}"), "type": "tmpfs", "source": "tmpfs"}),
        );
    }
    w.sh(&format!("mount | grep -c {text}/made"));
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(0))?;
    w.same("both inside", out.trim(), "2")?;
    w.same("nothing made outside", std::fs::read_dir(&outside)?.count(), 0)
}

/// The same when the way has still to be made.
fn targets_are_made_inside() -> Check {
    let mut w = World::new()?;
    let outside = w.path("outside");
    symlink(&outside, w.root().join("dangling"))?;
    w.mount(json!({"destination": "/dangling/deep/er", "type": "tmpfs", "source": "tmpfs"}));
    // Refused or made inside: both are safe. Outside nothing may be.
    let outcome = w.run();
    w.same("nothing made outside", outside.exists(), false)?;
    if let Ok((_, ended)) = outcome {
        w.same("end", ended, Ended::Code(0))?;
    }
    Ok(())
}

fn nothing_over_proc() -> Check {
    for destination in ["/proc", "/proc/sys", "/link"] {
        let mut w = World::new()?;
        symlink("/proc/self", w.root().join("link"))?;
        w.mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}));
        let error = w.refused()?;
        let known = [ErrorKind::Invalid, ErrorKind::Internal].contains(&error.kind());
        w.same(&format!("{destination}: {error}"), known, true)?;
    }
    Ok(())
}

/// `/proc` as a link to a folder of the image's, where files lie in wait for what is written.
fn proc_through_a_link() -> Check {
    let w = World::new()?;
    std::fs::create_dir_all(w.root().join("decoy"))?;
    symlink("decoy", w.root().join("proc"))?;
    let error = w.refused()?;
    w.same("kind", error.kind(), ErrorKind::Invalid)?;
    w.has(&error.to_string(), "not a link")
}

/// The same by way of a volume, which another container could change meanwhile: a link in the image
/// leads to it, and a decoy for `/proc/self/attr` and `/proc/sys` is in there.
fn proc_through_a_volume() -> Check {
    let mut w = World::new()?;
    let volume = w.path("volume");
    std::fs::create_dir_all(volume.join("proc/sys/net/ipv4"))?;
    std::fs::write(volume.join("proc/sys/net/ipv4/ip_forward"), "decoy")?;
    symlink("volume/proc", w.root().join("proc"))?;
    if let Some(mounts) = w.spec["mounts"].as_array_mut() {
        let bind = json!({"destination": "/volume", "source": volume, "options": ["rbind"]});
        mounts.insert(0, bind);
    }
    w.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    let error = w.refused()?;
    w.same("kind", error.kind(), ErrorKind::Invalid)?;
    let decoy = std::fs::read_to_string(volume.join("proc/sys/net/ipv4/ip_forward"))?;
    w.same("the decoy", decoy.as_str(), "decoy")
}

/// A standard stream that is open on a directory of the host's would be a door to it.
fn no_directory_as_a_stream() -> Check {
    let mut w = World::new()?;
    w.sh("ls /proc/self/fd/0/../etc/debian_version");
    let (_, stdout) = std::io::pipe()?;
    let stdio = Stdio::Fds {
        stdin: std::fs::File::open("/usr")?.into(),
        stdout: stdout.try_clone()?.into(),
        stderr: stdout.into(),
    };
    let mut created = w.create(None, stdio)?;
    let started = created.start();
    created.task.destroy()?;
    match started {
        Err(error) => w.same("kind", error.kind(), ErrorKind::Denied),
        Ok(()) => Err("it started".into()),
    }
}

/// A masked path that the image makes a link to elsewhere: what is covered is inside the root, and
/// the file of the host's that it names is as it was.
fn a_mask_through_a_link() -> Check {
    let mut w = World::new()?;
    let outside = w.path("outside");
    std::fs::write(&outside, "untouched")?;
    symlink(&outside, w.root().join("secret"))?;
    std::fs::write(w.root().join("plain"), "hidden")?;
    symlink("plain", w.root().join("link"))?;
    w.spec["linux"]["maskedPaths"] = json!(["/secret", "/link", "/proc/timer_list"]);
    w.sh("wc -c <plain; wc -c </proc/timer_list; cat /secret 2>/dev/null || echo nothing");
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(0))?;
    w.same("covered", out.as_str(), "0\n0\nnothing\n")?;
    w.same("outside", std::fs::read_to_string(&outside)?.as_str(), "untouched")
}

fn cwd_through_a_descriptor() -> Check {
    // A descriptor on a folder of the host's that is not close-on-exec, as a careless caller leaves.
    let leak = std::fs::File::open("/")?;
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    for n in 3..24 {
        for cwd in [format!("/proc/self/fd/{n}"), format!("/link{n}")] {
            let mut w = World::new()?;
            symlink(format!("/proc/self/fd/{n}/"), w.root().join(format!("link{n}")))?;
            w.spec["process"]["cwd"] = json!(cwd);
            w.sh("ls -d etc/debian_version usr/sbin/chroot 2>/dev/null; ls /proc/self/fd | wc -l");
            if let Ok((out, _)) = w.run() {
                w.same("no descriptor and no file of the host", out.trim(), "4")?;
            }
        }
    }
    Ok(())
}

/// An image whose `/dev/null` is a link to what masking would then uncover or overwrite.
fn null_that_is_a_link() -> Check {
    let mut w = World::new()?;
    // Without a /dev of the spec's own, the image's is used.
    if let Some(mounts) = w.spec["mounts"].as_array_mut() {
        mounts.retain(|m| !m["destination"].as_str().unwrap_or("").starts_with("/dev"));
    }
    std::fs::create_dir_all(w.root().join("dev"))?;
    symlink("/proc/sysrq-trigger", w.root().join("dev/null"))?;
    w.sh("stat -c %t:%T /dev/null; wc -c </proc/timer_list");
    let (out, ended) = w.run()?;
    w.same("end", ended, Ended::Code(0))?;
    w.same("the null device, and masked by it", out.as_str(), "1:3\n0\n")
}

fn console_that_is_a_link() -> Check {
    let mut w = World::new()?;
    if let Some(mounts) = w.spec["mounts"].as_array_mut() {
        mounts.retain(|m| m["destination"] != "/dev");
    }
    std::fs::create_dir_all(w.root().join("dev/pts"))?;
    symlink("/proc/sys/kernel/core_pattern", w.root().join("dev/console"))?;
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    w.sh("echo '|/evil' >/dev/console");
    let outcome = w.create(None, Stdio::Terminal { size: None });
    if let Ok(mut created) = outcome {
        let _ = created.start();
        world::reap(&created.task)?;
        created.task.destroy()?;
        return Err("a console through a link was taken".into());
    }
    w.same(
        "the host's parameter",
        std::fs::read_to_string("/proc/sys/kernel/core_pattern")?,
        before,
    )
}

/// A parameter's file covered by the image's own goes to the kernel all the same.
fn parameters_reach_the_kernel() -> Check {
    let mut w = World::new()?;
    w.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    std::fs::create_dir_all(w.root().join("decoy/ipv4"))?;
    std::fs::write(w.root().join("decoy/ipv4/ip_forward"), "")?;
    w.mount(json!({"destination": "/proc/sys/net", "type": "bind", "source": w.root().join("decoy"), "options": ["bind"]}));
    let error = w.refused()?;
    w.same("kind", error.kind(), ErrorKind::Invalid)?;
    w.same(
        "the decoy",
        std::fs::read_to_string(w.root().join("decoy/ipv4/ip_forward"))?.as_str(),
        "",
    )
}

/// A process of the container's that looks into every newcomer's descriptors finds none.
fn exec_shows_no_descriptor() -> Check {
    let mut w = World::new()?;
    w.sh("touch /tmp/ready; while true; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; \
          *) ls $p/fd/ 2>/dev/null | grep -qE '^([3-9]|..)$' && [ \"$(cat $p/comm)\" != ls ] && \
          readlink $p/fd/* | grep -E 'socket|cgroup' >>/tmp/leak;; esac; done; done 2>/dev/null");
    let created = w.start()?;
    let ready = w.root().join("tmp/ready");
    world::until("the script", || Ok(ready.exists()))?;
    // Looked for in forty thousand places, the program is long in coming: that is when a process which
    // has given its capabilities up already could be looked into.
    let path = format!("{}/bin", "/n:".repeat(40_000));
    let process: Process =
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
        "args": ["true"], "env": [format!("PATH={path}")]}))?;
    for _ in 0..20 {
        let exec = created.task.exec(&process, world::pipes()?.0)?;
        world::reap_fd(&exec.pidfd)?;
    }
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    let leak = std::fs::read_to_string(w.root().join("tmp/leak")).unwrap_or_default();
    w.same("seen", leak.as_str(), "")
}

/// Exec gives what its process asks for and nothing inherited.
fn no_inheritable_capabilities() -> Check {
    let mut w = World::new()?;
    w.args(&["sleep", "100"]);
    let created = w.start()?;
    let process: Process = serde_json::from_value(
        json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
        "args": ["grep", "CapInh", "/proc/self/status"], "env": ["PATH=/bin"],
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]}}),
    )?;
    let (stdio, out) = world::pipes()?;
    let exec = created.task.exec(&process, stdio)?;
    let out = world::read_to_end(out)?;
    world::reap_fd(&exec.pidfd)?;
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    w.has(&out, "CapInh:\t0000000000000000")
}
