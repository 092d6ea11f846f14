//! Cgroups as callers see them: limits, figures, events, processes below.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use super::Runtime;
use super::world::{self, Check};

/// On a hybrid host: a mount namespace that sees nothing of v1, so that the runtime takes the host
/// for one of v2. There are no controllers then, but birth in the cgroup, device rules by BPF,
/// freezing and killing are v2's own.
pub(super) fn cgroup_v2_alone() -> Check {
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

pub(super) fn exec_in_a_cgroup_below() -> Check {
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

pub(super) fn update_in_every_way() -> Check {
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

pub(super) fn events_in_the_form_of_runc() -> Check {
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
    world::until("figures", || Ok(read()?.lines().count() > 1))?;
    let _ =
        r.call(&["exec", "c", "sh", "-c", "head -c 64000000 /dev/zero | tail -n 1 >/dev/null"])?;
    world::until("word of a kill", || Ok(read()?.contains(r#"{"type":"oom","id":"c"}"#)))?;
    r.good(&["delete", "--force", "c"])?;
    r.world.same("ends with the container", events.wait()?.success(), true)
}

pub(super) fn a_cgroup_in_use_is_refused() -> Check {
    let mut r = Runtime::new()?;
    r.world.args(&["sleep", "1000"]);
    r.save()?;
    r.create("c")?;
    r.good(&["start", "c"])?;
    r.world.has(&r.bad(&["run", "d"])?.1, "container's cgroup is not empty")?;
    r.world.same("the first one lives", r.status("c")?.as_str(), "running")
}
