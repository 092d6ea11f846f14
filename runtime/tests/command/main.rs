//! The command, as callers of runc use it.
#![allow(clippy::print_stdout)]

#[path = "../world/mod.rs"]
mod world;

mod files;
mod limits;
mod runc_flags;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use world::{Check, World};

fn main() {
    world::main(&[
        ("run_gives_output_and_code", run_gives_output_and_code),
        ("a_life_in_single_commands", a_life_in_single_commands),
        ("start_says_why_execve_failed", start_says_why_execve_failed),
        ("exec_with_process_and_flags", exec_with_process_and_flags),
        ("errors_in_the_words_of_runc", errors_in_the_words_of_runc),
        ("cve_2019_5736_the_program_cannot_be_written", files::the_program_cannot_be_written),
        ("half_written_state_is_reported", files::half_written_state_is_reported),
        ("spec_and_features", files::spec_and_features),
        ("hooks_run_in_order", hooks_run_in_order),
        ("bad_configs_are_refused_by_field", files::bad_configs_are_refused_by_field),
        ("an_ordinary_user_runs_containers", an_ordinary_user_runs_containers),
        ("cgroup_v2_alone", limits::cgroup_v2_alone),
        ("help_of_every_command", files::help_of_every_command),
        ("kill_and_delete_without_a_pid_namespace", kill_and_delete_without_a_pid_namespace),
        ("exec_in_a_cgroup_below", limits::exec_in_a_cgroup_below),
        ("update_in_every_way", limits::update_in_every_way),
        ("events_in_the_form_of_runc", limits::events_in_the_form_of_runc),
        ("a_created_container_ends_by_term", a_created_container_ends_by_term),
        ("a_cgroup_in_use_is_refused", limits::a_cgroup_in_use_is_refused),
        ("home_and_process_json", files::home_and_process_json),
        ("every_flag_of_runc_is_taken", runc_flags::every_flag_of_runc_is_taken),
        ("exec_with_more_capabilities", exec_with_more_capabilities),
        ("in_the_hosts_mount_namespace", in_the_hosts_mount_namespace),
        ("lists_and_processes_in_each_form", runc_flags::lists_and_processes_in_each_form),
    ]);
}

struct Runtime {
    world: World,
}

impl Runtime {
    fn new() -> Check<Self> {
        Ok(Self { world: World::new()? })
    }

    fn save(&self) -> Check {
        Ok(std::fs::write(self.world.path("config.json"), self.world.spec.to_string())?)
    }

    fn root(&self) -> PathBuf {
        self.world.path("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf-runtime"));
        command.arg("--root").arg(self.root()).args(args).current_dir(self.world.path(""));
        command.stdin(Stdio::null());
        command
    }

    fn call(&self, args: &[&str]) -> Check<Output> {
        Ok(self.command(args).output()?)
    }

    fn good(&self, args: &[&str]) -> Check<String> {
        let out = self.call(args)?;
        if !out.status.success() {
            return Err(format!("{args:?}: {}", String::from_utf8_lossy(&out.stderr)).into());
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn bad(&self, args: &[&str]) -> Check<(i32, String)> {
        let out = self.call(args)?;
        if out.status.success() {
            return Err(format!("{args:?} worked").into());
        }
        Ok((out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stderr).into_owned()))
    }

    fn status(&self, id: &str) -> Check<String> {
        let state: Value = serde_json::from_str(&self.good(&["state", id])?)?;
        Ok(state["status"].as_str().unwrap_or("").to_owned())
    }

    /// Created without pipes that its init would keep open.
    fn create(&self, id: &str) -> Check {
        self.detached(&["create", "--pid-file", "pid", id])
    }

    /// For what leaves a process behind, which must not hold a pipe that is read to its end.
    fn detached(&self, args: &[&str]) -> Check {
        let mut command = self.command(args);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(format!("{args:?} failed").into()) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", "c"]);
    }
}

fn run_gives_output_and_code() -> Check {
    let mut r = Runtime::new()?;
    r.world.sh("echo out; echo err >&2; exit 7");
    r.save()?;
    let out = r.call(&["run", "c"])?;
    r.world.same("code", out.status.code(), Some(7))?;
    r.world.same("output", &*String::from_utf8_lossy(&out.stdout), "out\n")?;
    r.world.same("errors", &*String::from_utf8_lossy(&out.stderr), "err\n")?;
    r.world.same("left", r.root().join("c").exists() || r.world.cgroup_exists(), false)
}

fn a_life_in_single_commands() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "100"]);
    r.save()?;
    r.create("c")?;
    r.world.same("status", r.status("c")?.as_str(), "created")?;
    let pid = std::fs::read_to_string(r.world.path("pid"))?;
    r.world.has(&r.good(&["state", "c"])?, &format!("\"pid\": {pid}"))?;
    r.good(&["start", "c"])?;
    r.world.same("status", r.status("c")?.as_str(), "running")?;
    r.world.same("ps", r.good(&["ps", "--format", "json", "c"])?.trim(), &format!("[{pid}]"))?;
    r.good(&["pause", "c"])?;
    r.world.same("status", r.status("c")?.as_str(), "paused")?;
    r.good(&["resume", "c"])?;
    r.good(&["update", "--memory", "33554432", "--pids-limit", "9", "c"])?;
    let stats: Value = serde_json::from_str(&r.good(&["events", "--stats", "c"])?)?;
    r.world.same("limit", stats["data"]["memory"]["usage"]["limit"].as_u64(), Some(33_554_432))?;
    r.world.has(&r.good(&["list"])?, "running")?;
    r.world.has(&r.bad(&["delete", "c"])?.1, "not stopped: running")?;
    r.good(&["kill", "c", "KILL"])?;
    world::until("its end", || Ok(r.status("c")? == "stopped"))?;
    r.good(&["delete", "c"])?;
    r.world.same("left", r.root().join("c").exists() || r.world.cgroup_exists(), false)
}

fn start_says_why_execve_failed() -> Check {
    let mut r = Runtime::new()?;
    std::fs::write(r.world.root().join("bad"), "#!/no/such/interpreter\n")?;
    std::process::Command::new("chmod").arg("755").arg(r.world.root().join("bad")).status()?;
    r.world.args(&["/bad"]);
    r.save()?;
    r.create("c")?;
    r.world.has(&r.bad(&["start", "c"])?.1, "no such file")?;
    r.good(&["delete", "--force", "c"]).map(drop)
}

fn exec_with_process_and_flags() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "100"]);
    r.save()?;
    r.create("c")?;
    r.good(&["start", "c"])?;
    let out = r.good(&[
        "exec",
        "-e",
        "A=b",
        "--cwd",
        "/tmp",
        "-u",
        "7:8",
        "c",
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $A",
    ])?;
    r.world.same("by flags", out.as_str(), "7\n8\n/tmp\nb\n")?;
    let process = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sh", "-c", "exit 9"], "env": ["PATH=/bin"]});
    std::fs::write(r.world.path("process.json"), process.to_string())?;
    r.world.same("code", r.bad(&["exec", "--process", "process.json", "c"])?.0, 9)?;
    r.world.same(
        "detached",
        r.good(&["exec", "-d", "--pid-file", "p2", "c", "true"])?.as_str(),
        "",
    )?;
    r.world.same("pid file", r.world.path("p2").exists(), true)?;
    let (code, text) = r.bad(&["exec", "c", "nothing"])?;
    r.world.same("code", code, 255)?;
    r.world.has(&text, "executable file not found in $PATH")
}

fn errors_in_the_words_of_runc() -> Check {
    let mut r = Runtime::new()?;
    r.world.has(&r.bad(&["state", "c"])?.1, "does not exist")?;
    r.good(&["delete", "--force", "c"])?;
    r.world.args(&["sleep", "100"]);
    r.save()?;
    r.create("c")?;
    r.world.has(&r.bad(&["create", "c"])?.1, "already exists")?;
    r.good(&["start", "c"])?;
    r.world.has(&r.bad(&["start", "c"])?.1, "running")?;
    r.good(&["kill", "c", "9"])?;
    world::until("its end", || Ok(r.status("c")? == "stopped"))?;
    r.world.has(&r.bad(&["kill", "c", "9"])?.1, "container not running")?;
    r.world.has(&r.bad(&["exec", "c", "true"])?.1, "stopped")?;
    r.world.has(&r.bad(&["create", "../x"])?.1, "invalid container id")?;
    let log = r.world.path("log.json");
    let _ =
        r.call(&["--log", log.to_str().unwrap_or(""), "--log-format", "json", "state", "nope"])?;
    r.bad(&["--log", "log.json", "--log-format", "json", "state", "nope"])?;
    let line: Value =
        serde_json::from_str(std::fs::read_to_string(&log)?.lines().next().unwrap_or(""))?;
    r.world.same("level", line["level"].as_str(), Some("error"))
}

fn hooks_run_in_order() -> Check {
    let mut r = Runtime::new()?;
    let log = r.world.path("log");
    let hook = |name: &str| {
        json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("sed 's/.*\"status\":\"\\([a-z]*\\)\".*/{name} \\1/' >>{}; echo >>{}", log.display(), log.display())],
            "timeout": 10}])
    };
    r.world.spec["hooks"] = json!({"prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "createContainer": hook("createContainer"), "poststart": hook("poststart"), "poststop": hook("poststop"),
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "touch /in-the-container"]}]});
    r.save()?;
    r.good(&["run", "c"])?;
    let text: Vec<String> = std::fs::read_to_string(&log)?
        .lines()
        .filter(|l| !l.is_empty())
        .map(str::to_owned)
        .collect();
    let want = [
        "prestart creating",
        "createRuntime creating",
        "createContainer creating",
        "poststart running",
        "poststop stopped",
    ];
    r.world.same("order", text.iter().map(String::as_str).collect::<Vec<_>>(), want.to_vec())?;
    r.world.same(
        "startContainer ran inside",
        r.world.root().join("in-the-container").exists(),
        true,
    )?;
    r.world.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    r.save()?;
    r.world.has(&r.bad(&["run", "c"])?.1, "error running createRuntime hook #0")?;
    r.world.spec["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]});
    r.save()?;
    r.world.has(&r.bad(&["run", "c"])?.1, "timeout")?;
    r.world.same("left", r.root().join("c").exists() || r.world.cgroup_exists(), false)
}

fn an_ordinary_user_runs_containers() -> Check {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const USER: u32 = 61_234;
    let r = Runtime::new()?;
    r.world.open_to(USER)?;
    // A copy: the build's own folder may be closed to others.
    let program = r.world.path("wharf-runtime");
    std::fs::copy(env!("CARGO_BIN_EXE_wharf-runtime"), &program)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    std::os::unix::fs::chown(r.world.path(""), Some(USER), Some(USER))?;
    let call = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--root").arg(r.root()).args(args).current_dir(r.world.path(""));
        command.stdin(Stdio::null()).uid(USER).gid(USER).output()
    };
    let made = call(&["spec", "--rootless"])?;
    r.world.has(&format!("{}|", String::from_utf8_lossy(&made.stderr)), "|")?;
    let path = r.world.path("config.json");
    let mut spec: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["sh", "-c", "id -u; echo $$; exit 3"]);
    std::fs::write(&path, spec.to_string())?;
    let out = call(&["run", "c"])?;
    // It may make no cgroup, which is said.
    r.world.has(&String::from_utf8_lossy(&out.stderr), "no permission to make cgroups")?;
    r.world.same("output", &*String::from_utf8_lossy(&out.stdout), "0\n1\n")?;
    r.world.same("code", out.status.code(), Some(3))
}

impl Runtime {
    /// A file of the container's cgroup, by its names on v1 and on v2.
    fn cgroup(&self, controller: &str, v1: &str, v2: &str) -> PathBuf {
        let top = PathBuf::from("/sys/fs/cgroup");
        let below = format!("wharf-test/{}", self.world.id);
        match top.join("cgroup.controllers").exists() {
            true => top.join(below).join(v2),
            false => top.join(controller).join(below).join(v1),
        }
    }

    fn value(&self, controller: &str, v1: &str, v2: &str) -> Check<String> {
        let path = self.cgroup(controller, v1, v2);
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(text.trim().to_owned())
    }
}

/// The init's end takes nobody along: all must be found by the cgroup.
fn kill_and_delete_without_a_pid_namespace() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    let namespaces = r.world.spec["linux"]["namespaces"].as_array_mut().ok_or("no namespaces")?;
    namespaces.retain(|one| one["type"] != "pid");
    r.save()?;
    let procs = |r: &Runtime| r.value("pids", "cgroup.procs", "cgroup.procs");
    for end in [&["kill", "c", "KILL"][..], &["delete", "c"], &["delete", "--force", "c"]] {
        r.create("c")?;
        r.good(&["start", "c"])?;
        let init = std::fs::read_to_string(r.world.path("pid"))?;
        r.detached(&["exec", "-d", "c", "sleep", "1000"])?;
        Command::new("kill").args(["-9", &init]).status()?;
        world::until("the init's end", || Ok(r.status("c")? == "stopped"))?;
        r.world.same("others live", procs(&r)?.lines().count(), 1)?;
        r.good(end)?;
        if end[0] == "kill" {
            world::until("their end", || Ok(procs(&r)?.is_empty()))?;
            r.good(&["delete", "c"])?;
        }
        r.world.same("left", r.root().join("c").exists() || r.world.cgroup_exists(), false)?;
    }
    Ok(())
}

fn a_created_container_ends_by_term() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.save()?;
    r.create("c")?;
    r.good(&["kill", "c"])?;
    world::until("its end", || Ok(r.status("c")? == "stopped"))?;
    r.good(&["delete", "c"]).map(drop)
}

/// Without a mount namespace the root is changed, and the host is left as it was.
fn in_the_hosts_mount_namespace() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    if let Some(all) = r.world.spec["linux"]["namespaces"].as_array_mut() {
        all.retain(|one| one["type"] != "mount");
    }
    r.world.spec["linux"]["maskedPaths"] = json!([]);
    r.world.spec["linux"]["readonlyPaths"] = json!([]);
    r.save()?;
    let own = r.world.path("").display().to_string();
    let mounts = || -> Check<usize> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(text.lines().filter(|line| line.contains(&own)).count())
    };
    let before = mounts()?;
    r.detached(&["run", "-d", "c"])?;
    r.world.same("root", r.good(&["exec", "c", "ls", "/bin/busybox"])?.trim(), "/bin/busybox")?;
    r.world.has(&r.good(&["exec", "c", "cat", "/proc/1/cmdline"])?, "sleep")?;
    r.good(&["delete", "--force", "c"])?;
    r.world.same("mounts left", mounts()?, before)?;
    r.world.spec["process"]["args"] = json!(["/nope"]);
    r.save()?;
    r.bad(&["run", "c"])?;
    r.world.same("mounts left by a failure", mounts()?, before)
}

/// What `--cap` adds joins each set as it was; ambient only what may be inherited.
fn exec_with_more_capabilities() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.world.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SYSLOG"],
        "effective": ["CAP_KILL"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_CHOWN", "CAP_SYSLOG"],
        "ambient": ["CAP_CHOWN"],
    });
    r.save()?;
    r.detached(&["run", "-d", "c"])?;
    let caps = |more: &[&str]| -> Check<String> {
        let words = [&["exec"], more, &["c", "grep", "^Cap", "/proc/self/status"]].concat();
        Ok(r.good(&words)?.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let set = |inherited: u64, permitted: u64, bounding: u64, ambient: u64| {
        format!(
            "CapInh: {inherited:016x} CapPrm: {permitted:016x} CapEff: {permitted:016x} CapBnd: {bounding:016x} CapAmb: {ambient:016x}"
        )
    };
    let (chown, kill, syslog, net_raw) = (1, 1 << 5, 1 << 34, 1 << 13);
    let all = chown | kill | syslog;
    r.world.same("its own", caps(&[])?, set(chown | syslog, chown | kill, all, chown))?;
    r.world.same(
        "one that is inheritable",
        caps(&["--cap", "CAP_SYSLOG"])?,
        set(chown | syslog, all, all, chown | syslog),
    )?;
    r.world.same(
        "one that is not",
        caps(&["--cap", "CAP_NET_RAW"])?,
        set(chown | syslog, chown | kill | net_raw, all | net_raw, chown),
    )
}
