//! What the command reads and prints: config.json, process.json, states, help.

use serde_json::{Value, json};

use super::Runtime;
use super::world::{self, Check};

/// The image's program is a script whose interpreter is the runtime itself.
pub(super) fn the_program_cannot_be_written() -> Check {
    let mut r = Runtime::new()?;
    // The container's own eyes: while an exec is on its way, its program is opened, and again for
    // writing when nobody runs it any more.
    r.world.sh("touch /tmp/ready; while true; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; \
        *) case $(readlink $p/exe 2>/dev/null) in *busybox*|'') ;; *) echo seen >>/tmp/seen; \
        { until [ -e /tmp/over ]; do sleep 0.01; done; ( : >>/proc/self/fd/9 ) 2>/dev/null && \
        echo >>/tmp/written; echo >>/tmp/tried; } 9<$p/exe ;; esac;; esac; done; done 2>/dev/null");
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
    std::fs::write(r.world.root().join("tmp/over"), "")?;
    let tried = r.world.root().join("tmp/tried");
    world::until("an open program", || Ok(tried.exists()))?;
    r.world.same("written", r.world.root().join("tmp/written").exists(), false)?;
    r.world.same("length", std::fs::read(env!("CARGO_BIN_EXE_wharf-runtime"))?.len(), before)
}

pub(super) fn half_written_state_is_reported() -> Check {
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

pub(super) fn spec_and_features() -> Check {
    let r = Runtime::new()?;
    r.good(&["spec"])?;
    let spec: Value = serde_json::from_str(&std::fs::read_to_string(r.world.path("config.json"))?)?;
    r.world.same("terminal", spec["process"]["terminal"].as_bool(), Some(true))?;
    r.bad(&["spec"])?;
    let features: Value = serde_json::from_str(&r.good(&["features"])?)?;
    r.world.same("seccomp", features["linux"]["seccomp"]["enabled"].as_bool(), Some(true))
}

pub(super) fn bad_configs_are_refused_by_field() -> Check {
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

pub(super) fn home_and_process_json() -> Check {
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

pub(super) fn help_of_every_command() -> Check {
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
