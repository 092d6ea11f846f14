//! Hostile images and specs, one for each published way out. Each check fails on a naive runtime.
#![allow(clippy::print_stdout)]

mod world;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use wharf_runtime::spec::Process;
use wharf_runtime::{ErrorKind, Stdio, Task};
use world::{Check, Ended, World};

fn main() {
    if let Some(ended) = as_helper() {
        std::process::exit(i32::from(ended.is_err()));
    }
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
        ("cve_2016_9962_an_exec_looked_into", an_exec_looked_into),
        ("cve_2024_21626_cwd_of_an_exec", cwd_of_an_exec),
        ("cve_2021_30465_targets_that_are_exchanged", targets_that_are_exchanged),
        ("cve_2022_29162_no_inheritable_capabilities", no_inheritable_capabilities),
    ]);
}

/// With a hook before pivot_root, mounts are made while the host's root is still there to be reached.
fn add_hook(w: &mut World) {
    w.spec["hooks"] = json!({"createContainer": [{"path": "/bin/true"}]});
}

/// Links of the image at a mount's target end inside the root, whatever they point at.
fn targets_stay_inside() -> Check {
    for with_hook in [false, true] {
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
        if with_hook {
            add_hook(&mut w);
        }
        w.sh(&format!("mount | grep -c {text}/made"));
        let (out, ended) = w.run()?;
        w.same("end", ended, Ended::Code(0))?;
        w.same("both inside", out.trim(), "2")?;
        w.same("nothing made outside", std::fs::read_dir(&outside)?.count(), 0)?;
    }
    Ok(())
}

/// The same when the way has still to be made.
fn targets_are_made_inside() -> Check {
    for with_hook in [false, true] {
        let mut w = World::new()?;
        let outside = w.path("outside");
        std::fs::create_dir(&outside)?;
        symlink(&outside, w.root().join("dangling"))?;
        w.mount(json!({"destination": "/dangling/deep/er", "type": "tmpfs", "source": "tmpfs"}));
        if with_hook {
            add_hook(&mut w);
        }
        // Refused or made inside: both are safe. Outside nothing may be.
        let outcome = w.run();
        w.same("made outside", std::fs::read_dir(&outside)?.count(), 0)?;
        if let Ok((_, ended)) = outcome {
            w.same("end", ended, Ended::Code(0))?;
        }
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
    let _leak = leak()?;
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

/// A process that enters a container is stopped when it has given its capabilities up and has not
/// become the program yet; then a neighbour looks into it. One without capabilities sees nothing; one
/// that may trace everybody sees nothing of the host's.
fn an_exec_looked_into() -> Check {
    // What a caller has open beside the container's business.
    let _leak = std::fs::File::open("/")?;
    for (capabilities, seen) in [(json!([]), "denied"), (json!(["CAP_SYS_PTRACE"]), "nothing")] {
        let mut w = World::new()?;
        let sets =
            json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
        w.spec["process"]["capabilities"] = sets;
        let marker = w.path("marker");
        std::fs::write(&marker, "the host's")?;
        w.sh(&format!(
            "echo >/tmp/ready; while :; do until [ -s /tmp/look ]; do sleep 0.01; done; read p </tmp/look;              if busybox readlink /proc/$p/fd/0 >/dev/null 2>&1; then s=nothing; else s=denied; fi;              for d in /proc/$p/fd/* /proc/$p/root /proc/$p/cwd; do [ -e $d{0} ] && s=host; done;              busybox rm /tmp/look; echo $s >/tmp/new; busybox mv /tmp/new /tmp/seen; done",
            marker.display()
        ));
        slow_path(&w)?;
        let created = w.start()?;
        let (ready, found) = (w.root().join("tmp/ready"), w.root().join("tmp/seen"));
        world::until("the script", || Ok(ready.exists()))?;
        let mut watcher = helper(WATCH, &[&w.root().join("tmp").display().to_string()])?;
        let ended = exec_until(&created.task, &found);
        watcher.kill()?;
        watcher.wait()?;
        created.task.signal_all(9)?;
        world::reap(&created.task)?;
        created.task.destroy()?;
        ended?;
        w.same("seen", std::fs::read_to_string(found)?.trim(), seen)?;
    }
    Ok(())
}

/// `/l` is a link over many others to nothing: to look for a program there takes long.
fn slow_path(w: &World) -> Check {
    let name = |n: usize| if n == 0 { "l".to_owned() } else { format!("l{n}") };
    (0..39).try_for_each(|n| symlink(name(n + 1), w.root().join(name(n))))?;
    Ok(())
}

/// Has a program looked for in forty thousand places, again and again, until the watcher has caught
/// one of the processes that look.
fn exec_until(task: &Task, found: &Path) -> Check {
    let path = format!("{}/bin", "/l:".repeat(40_000));
    let process: Process =
        serde_json::from_value(json!({"user": {"uid": 0, "gid": 0}, "cwd": "/",
        "args": ["true"], "env": [format!("PATH={path}")]}))?;
    for _ in 0..200 {
        let exec = task.exec(&process, world::pipes()?.0)?;
        world::reap_fd(&exec.pidfd)?;
        if found.exists() {
            return Ok(());
        }
    }
    Err("no process was caught on its way".into())
}

/// The watcher: stops children of our parent's that have no capabilities and are still the parent's
/// program, has the container look into them, and lets them go on.
fn watch(folder: &Path) -> Check {
    let parent = nix::unistd::getppid();
    let text = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    let program = std::fs::read_link(format!("/proc/{parent}/exe"))?;
    let (look, seen) = (folder.join("look"), folder.join("seen"));
    loop {
        for child in text(format!("/proc/{parent}/task/{parent}/children")).split_whitespace() {
            let status = text(format!("/proc/{child}/status"));
            let is_bare = status.lines().any(|line| line == "CapPrm:\t0000000000000000");
            let exe = format!("/proc/{child}/exe");
            let Ok(pid) = child.parse().map(Pid::from_raw) else { continue };
            if !is_bare || std::fs::read_link(&exe).ok().as_ref() != Some(&program) || seen.exists()
            {
                continue;
            }
            // It may have got on meanwhile: that is looked at when it stands still.
            if kill(pid, Signal::SIGSTOP).is_err() {
                continue;
            }
            let stands = || text(format!("/proc/{child}/status")).contains("State:\tT");
            let end = Instant::now() + Duration::from_secs(60);
            while !stands() && Path::new(&exe).exists() && Instant::now() < end {
                std::thread::yield_now();
            }
            if std::fs::read_link(&exe).ok().as_ref() == Some(&program) && stands() {
                let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
                let inner = inner.and_then(|all| all.split_whitespace().last()).unwrap_or("0");
                std::fs::write(folder.join("look.new"), inner)?;
                std::fs::rename(folder.join("look.new"), &look)?;
                while !seen.exists() && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            let _ = kill(pid, Signal::SIGCONT);
        }
    }
}

/// The working folder of one more process, by a descriptor that a careless caller has left open.
fn cwd_of_an_exec() -> Check {
    let leak = leak()?;
    let mut w = World::new()?;
    w.args(&["sleep", "1000"]);
    for n in 3..24 {
        symlink(format!("/proc/self/fd/{n}/"), w.root().join(format!("link{n}")))?;
    }
    let created = w.start()?;
    let mut all = String::new();
    for cwd in (3..24).flat_map(|n| [format!("/proc/self/fd/{n}"), format!("/link{n}")]) {
        let process: Process = serde_json::from_value(
            json!({"user": {"uid": 0, "gid": 0}, "cwd": cwd,
            "args": ["/bin/sh", "-c", "[ -e etc/debian_version ] && echo the host; echo got in"], "env": []}),
        )?;
        let (stdio, out) = world::pipes()?;
        if let Ok(exec) = created.task.exec(&process, stdio) {
            all += &world::read_to_end(out)?;
            world::reap_fd(&exec.pidfd)?;
        }
    }
    drop(leak);
    created.task.signal_all(9)?;
    world::reap(&created.task)?;
    created.task.destroy()?;
    w.same("through descriptors", all.as_str(), "")
}

/// A descriptor on the host's root that is not close-on-exec.
fn leak() -> Check<std::fs::File> {
    let leak = std::fs::File::open("/")?;
    nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(leak)
}

/// A mount's target in a volume, where somebody else exchanges a folder and a link to the host's all
/// the time. With a hook before pivot_root the host's root is still there to be reached.
fn targets_that_are_exchanged() -> Check {
    for with_hook in [true, false] {
        let mut w = World::new()?;
        let (outside, volume, source) = (w.path("outside"), w.path("volume"), w.path("source"));
        for folder in [outside.join("in"), volume.join("way/in"), source.clone()] {
            std::fs::create_dir_all(folder)?;
        }
        symlink(&outside, volume.join("way.other"))?;
        std::fs::write(source.join("marker"), "")?;
        if let Some(mounts) = w.spec["mounts"].as_array_mut() {
            mounts.insert(
                0,
                json!({"destination": "/volume", "source": volume, "options": ["rbind"]}),
            );
        }
        w.mount(json!({"destination": "/volume/way/in", "source": source, "options": ["bind"]}));
        w.mount(json!({"destination": "/volume/way/new/deep", "type": "tmpfs", "source": "tmpfs"}));
        if with_hook {
            add_hook(&mut w);
        }
        w.sh("grep -c -E ' /volume/[^ ]*(in|deep) | /[^ ]*/outside[^ ]* ' /proc/self/mountinfo; true");
        let mut swapper = helper(SWAP, &[&volume.display().to_string()])?;
        let (mut made, mut wrong) = (0, Vec::new());
        for _ in 0..60 {
            // An error is as good: the way was gone for a moment.
            if let Ok((out, _)) = w.run() {
                made += 1;
                if out.trim() != "2" {
                    wrong.push(out);
                }
            }
        }
        swapper.kill()?;
        swapper.wait()?;
        w.same("both are inside", wrong.as_slice(), &[])?;
        let left: Vec<_> = std::fs::read_dir(&outside)?.filter_map(Result::ok).collect();
        w.same("made outside", left.len(), 1)?;
        println!("        made {made} of 60");
    }
    Ok(())
}

/// Exchanges `way` and `way.other` until it is killed.
fn swap(folder: &Path) -> Check {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    let (one, other) = (folder.join("way"), folder.join("way.other"));
    let parent = nix::unistd::getppid();
    while nix::unistd::getppid() == parent {
        renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE)?;
    }
    Ok(())
}

const WATCH: &str = "WHARF_TEST_WATCH";
const SWAP: &str = "WHARF_TEST_SWAP";

/// This program as another process, as the runtime's caller may have one thread only.
fn helper(role: &str, args: &[&str]) -> Check<std::process::Child> {
    let me = std::env::current_exe()?;
    Ok(std::process::Command::new(me).args(args).env(role, "1").spawn()?)
}

fn as_helper() -> Option<Check> {
    let folder = std::env::args().nth(1);
    let folder = Path::new(folder.as_deref().unwrap_or("/nowhere"));
    if std::env::var_os(WATCH).is_some() {
        return Some(watch(folder));
    }
    std::env::var_os(SWAP).map(|_| swap(folder))
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
