//! The command, as callers of runc use it.
#![allow(clippy::print_stdout)]

mod world;

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
        ("cve_2019_5736_the_program_cannot_be_written", the_program_cannot_be_written),
        ("half_written_state_is_reported", half_written_state_is_reported),
        ("spec_and_features", spec_and_features),
        ("hooks_run_in_order", hooks_run_in_order),
        ("bad_configs_are_refused_by_field", bad_configs_are_refused_by_field),
        ("an_ordinary_user_runs_containers", an_ordinary_user_runs_containers),
        ("cgroup_v2_alone", cgroup_v2_alone),
        ("help_of_every_command", help_of_every_command),
        ("kill_and_delete_without_a_pid_namespace", kill_and_delete_without_a_pid_namespace),
        ("exec_in_a_cgroup_below", exec_in_a_cgroup_below),
        ("update_in_every_way", update_in_every_way),
        ("events_in_the_form_of_runc", events_in_the_form_of_runc),
        ("a_created_container_ends_by_term", a_created_container_ends_by_term),
        ("a_cgroup_in_use_is_refused", a_cgroup_in_use_is_refused),
        ("home_and_process_json", home_and_process_json),
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

/// The image's program is a script whose interpreter is the runtime itself.
fn the_program_cannot_be_written() -> Check {
    let mut r = Runtime::new()?;
    // The container's own eyes: while an exec is on its way, its program is opened for writing.
    r.world.sh("touch /tmp/ready; while true; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; \
        *) case $(readlink $p/exe 2>/dev/null) in *busybox*|'') ;; *) echo seen >>/tmp/seen; \
        ( : >>$p/exe ) 2>/dev/null && echo written >>/tmp/written ;; esac;; esac; done; done 2>/dev/null");
    r.world.spec["process"]["capabilities"]["effective"] =
        json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
    r.world.spec["process"]["capabilities"]["permitted"] =
        json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
    r.world.spec["process"]["capabilities"]["bounding"] =
        json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
    r.save()?;
    let before = std::fs::read(env!("CARGO_BIN_EXE_wharf-runtime"))?.len();
    r.create("c")?;
    r.good(&["start", "c"])?;
    let ready = r.world.root().join("tmp/ready");
    world::until("the script", || Ok(ready.exists()))?;
    std::fs::write(r.world.root().join("tmp/evil"), "#!/proc/self/exe\n")?;
    std::process::Command::new("chmod").arg("755").arg(r.world.root().join("tmp/evil")).status()?;
    for _ in 0..10 {
        let _ = r.call(&["exec", "c", "/tmp/evil"])?;
    }
    println!("        seen {}", r.world.root().join("tmp/seen").exists());
    r.world.same("written", r.world.root().join("tmp/written").exists(), false)?;
    r.world.same("length", std::fs::read(env!("CARGO_BIN_EXE_wharf-runtime"))?.len(), before)
}

fn half_written_state_is_reported() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "100"]);
    r.save()?;
    r.create("c")?;
    let path = r.root().join("c/state.json");
    let whole = std::fs::read_to_string(&path)?;
    std::fs::write(&path, &whole[..whole.len() / 2])?;
    r.world.has(&r.bad(&["state", "c"])?.1, "state.json")?;
    let mut other: Value = serde_json::from_str(&whole)?;
    other["version"] = json!(99);
    std::fs::write(&path, other.to_string())?;
    r.world.has(&r.bad(&["state", "c"])?.1, "version 99")?;
    // Another one beside it is listed all the same.
    r.good(&["list"])?;
    std::fs::write(&path, whole)?;
    Ok(())
}

fn spec_and_features() -> Check {
    let r = Runtime::new()?;
    r.good(&["spec"])?;
    let spec: Value = serde_json::from_str(&std::fs::read_to_string(r.world.path("config.json"))?)?;
    r.world.same("terminal", spec["process"]["terminal"].as_bool(), Some(true))?;
    r.bad(&["spec"])?;
    let features: Value = serde_json::from_str(&r.good(&["features"])?)?;
    r.world.same("seccomp", features["linux"]["seccomp"]["enabled"].as_bool(), Some(true))
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

fn bad_configs_are_refused_by_field() -> Check {
    let cases: [(&str, Value, &str); 8] = [
        ("/ociVersion", json!("9.0"), "ociVersion"),
        ("/process/capabilities/bounding", json!(["CAP_NOPE"]), "process.capabilities.bounding[0]"),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "nope"}]),
            "linux.namespaces[1].type",
        ),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "linux.namespaces[1]"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOPE", "soft": 1, "hard": 1}]),
            "process.rlimits[0].type",
        ),
        (
            "/mounts",
            json!([{"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}]),
            "mounts[0]",
        ),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["nope"], "action": "SCMP_ACT_ERRNO"}]}),
            "linux.seccomp.syscalls[0].names[0]",
        ),
        ("/root", Value::Null, "root"),
    ];
    for (at, value, field) in cases {
        let mut r = Runtime::new()?;
        // Some of these are not in the default spec.
        r.world.spec["process"]["rlimits"] = json!([]);
        r.world.spec["linux"]["seccomp"] = json!(null);
        *r.world.spec.pointer_mut(at).ok_or("no such field")? = value;
        r.save()?;
        r.world.has(&r.bad(&["run", "c"])?.1, field)?;
        r.world.same("left", r.root().join("c").exists() || r.world.cgroup_exists(), false)?;
    }
    Ok(())
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

/// On a hybrid host: a mount namespace that sees nothing of v1, so that the runtime takes the host
/// for one of v2. There are no controllers then, but birth in the cgroup, device rules by BPF,
/// freezing and killing are v2's own.
fn cgroup_v2_alone() -> Check {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let Some(unified) =
        mounts.lines().filter(|l| l.contains(" cgroup2 ")).find_map(|l| l.split(' ').nth(1))
    else {
        println!("        skipped: no cgroup2 is mounted");
        return Ok(());
    };
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "100"]);
    r.save()?;
    let script = format!(
        "set -e; mount -t tmpfs x /mnt; mkdir /mnt/u; mount --bind {unified} /mnt/u
        if [ {unified} != /sys/fs/cgroup ]; then umount -R /sys/fs/cgroup; mount --move /mnt/u /sys/fs/cgroup; fi
        w=$0; $w --root state run --detach c >/dev/null 2>&1 </dev/null
        grep ^0:: /proc/$($w --root state ps --format json c | tr -d '[]')/cgroup
        $w --root state exec c sh -c 'grep ^0:: /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.procs; echo x >/dev/null && echo null
            mknod /tmp/b b 8 0 && head -c 1 /tmp/b 2>&1 | grep -o permitted'
        $w --root state pause c; $w --root state state c | grep -o paused; $w --root state resume c
        $w --root state update --pids-limit 5 c 2>&1 | grep -o 'controller pids' || true
        $w --root state delete --force c; ls -d /sys/fs/cgroup/wharf-test/{id} 2>/dev/null || echo gone",
        id = r.world.id
    );
    let out = Command::new("unshare")
        .args(["-m", "bash", "-c", &script, env!("CARGO_BIN_EXE_wharf-runtime")])
        .current_dir(r.world.path(""))
        .stdin(Stdio::null())
        .output()?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let own = format!(
        "0::/wharf-test/{}\n0::/\n/sys/fs/cgroup/cgroup.procs\nnull\npermitted\npaused\n",
        r.world.id
    );
    r.world.has(&text, &own)?;
    r.world.has(&text, "gone\n")
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

fn help_of_every_command() -> Check {
    let r = Runtime::new()?;
    let all = r.good(&["--help"])?;
    for name in [
        "checkpoint",
        "create",
        "delete",
        "events",
        "exec",
        "features",
        "kill",
        "list",
        "pause",
        "ps",
        "restore",
        "resume",
        "run",
        "spec",
        "start",
        "state",
        "update",
    ] {
        r.world.has(&all, &format!("\n   {name} "))?;
        r.world.has(&r.good(&[name, "--help"])?, &format!("wharf-runtime {name} - "))?;
    }
    r.world.has(&r.bad(&["state"])?.1, "requires exactly 1 argument")?;
    r.world.has(&r.bad(&["nope"])?.1, "No help topic for 'nope'")?;
    r.world.has(&r.bad(&["state", "--nope", "c"])?.1, "flag provided but not defined: -nope")?;
    r.world.has(&r.good(&["--version"])?, "spec: 1.")
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

fn exec_in_a_cgroup_below() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.save()?;
    r.create("c")?;
    r.good(&["start", "c"])?;
    let v2 = PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
    let place = if v2 { "sub" } else { "pids:sub" };
    r.world.has(&r.bad(&["exec", "--cgroup", "..", "c", "true"])?.1, "bad sub cgroup path")?;
    r.world.has(&r.bad(&["exec", "--cgroup", place, "c", "true"])?.1, "no such file")?;
    r.world.has(&r.bad(&["exec", "--cgroup", "nope:/", "c", "true"])?.1, "unknown controller")?;
    let dir = r.cgroup("pids", "sub", "sub");
    std::fs::create_dir(&dir)?;
    r.detached(&["exec", "-d", "--pid-file", "p2", "--cgroup", place, "c", "sleep", "1000"])?;
    let pid = std::fs::read_to_string(r.world.path("p2"))?;
    let inside = std::fs::read_to_string(dir.join("cgroup.procs"))?;
    r.world.same("pid", inside.trim(), pid.trim())?;
    r.good(&["exec", "--cgroup", "/", "c", "true"])?;
    r.good(&["delete", "--force", "c"])?;
    r.world.same("left", r.root().join("c").exists() || r.world.cgroup_exists(), false)
}

fn update_in_every_way() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.world.spec["linux"]["resources"]["memory"] = json!({"limit": 33_554_432});
    r.world.spec["linux"]["resources"]["cpu"] =
        json!({"quota": 50_000, "period": 100_000, "shares": 1024});
    r.world.spec["linux"]["resources"]["pids"] = json!({"limit": 20});
    r.save()?;
    r.create("c")?;
    r.good(&["start", "c"])?;
    let v2 = PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists();
    let memory = |r: &Runtime| r.value("memory", "memory.limit_in_bytes", "memory.max");
    let pids = |r: &Runtime| r.value("pids", "pids.max", "pids.max");
    let cpu = |r: &Runtime| -> Check<String> {
        if v2 {
            return r.value("cpu", "", "cpu.max");
        }
        let quota = r.value("cpu", "cpu.cfs_quota_us", "")?.replace("-1", "max");
        Ok(format!("{quota} {}", r.value("cpu", "cpu.cfs_period_us", "")?))
    };
    r.world.same("at first", (memory(&r)?, pids(&r)?), ("33554432".into(), "20".into()))?;
    r.world.same(
        "shares",
        r.value("cpu", "cpu.shares", "cpu.weight")?,
        if v2 { "100" } else { "1024" }.into(),
    )?;
    // Flags may follow the id.
    r.good(&["update", "c", "--memory", "50M", "--pids-limit", "0"])?;
    r.world.same("a unit, and 0", (memory(&r)?, pids(&r)?), ("52428800".into(), "1".into()))?;
    r.good(&["update", "--pids-limit", "-1", "c"])?;
    r.world.same("no limit", pids(&r)?.as_str(), "max")?;
    r.good(&["update", "--cpu-period", "50000", "c"])?;
    r.world.same("period alone", cpu(&r)?.as_str(), "50000 50000")?;
    r.good(&["update", "--cpu-quota", "20000", "c"])?;
    r.world.same("quota alone", cpu(&r)?.as_str(), "20000 50000")?;
    r.good(&["update", "--cpu-quota", "-1", "c"])?;
    r.world.same("no quota", cpu(&r)?.as_str(), "max 50000")?;
    r.good(&["update", "--memory", "-1", "c"])?;
    r.world.same("no limit of memory", memory(&r)? == "52428800", false)?;
    let file = r.world.path("r.json");
    std::fs::write(&file, r#"{"memory": {"limit": 41943040}, "pids": {"limit": 7}}"#)?;
    r.good(&["update", "--resources", "r.json", "c"])?;
    r.world.same("a file", (memory(&r)?, pids(&r)?), ("41943040".into(), "7".into()))?;
    r.world.has(&r.bad(&["update", "--memory", "lots", "c"])?.1, "invalid value for memory")?;
    std::fs::write(&file, r#"{"memory": {"limit": "x"}}"#)?;
    r.world.has(&r.bad(&["update", "-r", "r.json", "c"])?.1, "memory.limit")?;
    if v2 {
        std::fs::write(&file, r#"{"memory": {"limit": 1024, "checkBeforeUpdate": true}}"#)?;
        r.world.has(&r.bad(&["update", "-r", "r.json", "c"])?.1, "rejecting memory limit")?;
        std::fs::write(&file, r#"{"unified": {"memory.high": "20971520"}}"#)?;
        r.good(&["update", "-r", "r.json", "c"])?;
        r.world.same("unified", r.value("", "", "memory.high")?.as_str(), "20971520")?;
    }
    r.world.same("status", r.status("c")?.as_str(), "running")
}

fn events_in_the_form_of_runc() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.world.spec["linux"]["resources"]["memory"] = json!({"limit": 16_777_216, "swap": 16_777_216});
    r.save()?;
    r.create("c")?;
    r.good(&["start", "c"])?;
    let text = r.good(&["events", "--stats", "c"])?;
    r.world.same("order", text.starts_with(r#"{"type":"stats","id":"c","data":{"#), true)?;
    let log = std::fs::File::create(r.world.path("events"))?;
    let mut events = r.command(&["events", "--interval", "100ms", "c"]).stdout(log).spawn()?;
    let read = || std::fs::read_to_string(r.world.path("events"));
    patiently("figures", || Ok(read()?.lines().count() > 1))?;
    let _ =
        r.call(&["exec", "c", "sh", "-c", "head -c 64000000 /dev/zero | tail -n 1 >/dev/null"])?;
    patiently("word of a kill", || Ok(read()?.contains(r#"{"type":"oom","id":"c"}"#)))?;
    r.good(&["delete", "--force", "c"])?;
    r.world.same("ends with the container", events.wait()?.success(), true)
}

/// Longer than the others wait: a machine under load starts programs slowly.
fn patiently(what: &str, mut done: impl FnMut() -> Check<bool>) -> Check {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done()? {
        if std::time::Instant::now() > end {
            return Err(format!("waited in vain for {what}").into());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}

fn a_created_container_ends_by_term() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.save()?;
    r.create("c")?;
    r.good(&["kill", "c"])?;
    patiently("its end", || Ok(r.status("c")? == "stopped"))?;
    r.good(&["delete", "c"]).map(drop)
}

fn a_cgroup_in_use_is_refused() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.save()?;
    r.create("c")?;
    r.good(&["start", "c"])?;
    r.world.has(&r.bad(&["run", "d"])?.1, "container's cgroup is not empty")?;
    r.world.same("the first one lives", r.status("c")?.as_str(), "running")
}

fn home_and_process_json() -> Check {
    let mut r = Runtime::new()?;
    std::fs::create_dir_all(r.world.root().join("etc"))?;
    std::fs::write(r.world.root().join("etc/passwd"), "u:x:7:7::/home/u:/bin/sh\n")?;
    r.world.args(&["sleep", "1000"]);
    r.world.spec["process"]["env"] = json!(["PATH=/bin", "A=1", "A=2"]);
    r.save()?;
    r.create("c")?;
    r.good(&["start", "c"])?;
    let env = |r: &Runtime, user: &str| r.good(&["exec", "-u", user, "c", "env"]);
    let text = env(&r, "7")?;
    r.world.has(&text, "HOME=/home/u\n")?;
    r.world.same("twice", (text.contains("A=1"), text.contains("A=2")), (false, true))?;
    r.world.has(&env(&r, "8")?, "HOME=/\n")?;
    // Capabilities and no_new_privs are the container's where the file says nothing.
    let process = json!({"cwd": "/", "env": ["PATH=/bin", "HOME="], "args": ["sh", "-c",
        "echo $HOME; grep -E 'NoNewPrivs|CapBnd' /proc/self/status"]});
    std::fs::write(r.world.path("p.json"), process.to_string())?;
    let text = r.good(&["exec", "--process", "p.json", "c"])?;
    r.world.has(&text, "/\n")?;
    r.world.has(&text, "NoNewPrivs:\t1")?;
    r.world.has(&text, "CapBnd:\t0000000008000020")
}
