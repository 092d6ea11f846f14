//! Which system calls a container may make.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use wharf_proto::v1::{ContainerSpec, ExecStart};
use wharf_tests::{
    api::{blamed_fields, script},
    world::World,
};

use crate::isolation::says;

/// A new user namespace is what the kernel gives anybody: only the filter stands against it.
const PROBE: &str = "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null && echo made";
const FILTERED: &str = "Seccomp:\t2\n";
const FREE: &str = "Seccomp:\t0\nmade\n";

fn probe() -> ContainerSpec {
    script(&format!("{PROBE}; true"))
}

#[tokio::test]
async fn the_default_profile() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    ensure!(says(&mut api, probe()).await? == FILTERED);
    let id = api.run_sleeper().await?.id;
    let exec = ExecStart {
        container: id.clone(),
        args: vec!["sh".into(), "-c".into(), format!("{PROBE}; true")],
        ..Default::default()
    };
    let outcome = api.exec(exec, &[]).await?;
    ensure!(outcome.out() == FILTERED, "{outcome:?}");
    api.remove(&id).await?;
    // What a capability is for, its holder may do; all else is as before.
    let mut capable = script(&format!("unshare -m true && echo mounts; {PROBE}"));
    capable.cap_add = vec!["SYS_ADMIN".into()];
    ensure!(says(&mut api, capable).await? == format!("mounts\n{FILTERED}made\n"));
    world.finish().await
}

#[tokio::test]
async fn none_or_ones_own() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut free = probe();
    free.seccomp = "unconfined".into();
    ensure!(says(&mut api, free).await? == FREE);
    // In Docker's form: one entry is for others.
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null},
        ],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122},
            {"names": ["rmdir", "unlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122,
             "excludes": {"caps": ["CAP_CHOWN"]}},
        ],
    });
    let mut own =
        script("mkdir /made 2>&1; touch /file; rm /file && ls -d /made /file 2>/dev/null; true");
    own.seccomp = profile.to_string();
    let said = says(&mut api, own.clone()).await?;
    ensure!(said == "mkdir: can't create directory '/made': Disk quota exceeded\n", "{said}");
    let shown = api.create(own).await?;
    let kept: serde_json::Value = serde_json::from_str(&shown.spec.context("a spec")?.seccomp)?;
    ensure!(kept == profile, "{kept}");
    api.remove(&shown.id).await?;

    let mut bad = probe();
    bad.seccomp = r#"{"defaultAction": 7}"#.into();
    let refused = api.create(bad).await.err().context("a profile that is none was taken")?;
    ensure!(blamed_fields(&refused) == ["spec.seccomp"], "{refused:?}");
    let mut unknown = probe();
    unknown.seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["raed"], "action": "SCMP_ACT_ERRNO"}]})
    .to_string();
    let container = api.create(unknown).await?;
    let refused = api.start(&container.id).await.err().context("an unknown call was taken")?;
    ensure!(refused.message().contains("syscalls[0].names[0]"), "{refused:?}");
    api.remove(&container.id).await?;
    world.finish().await
}

#[tokio::test]
async fn a_privileged_container() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut all = script(&format!(
        "{PROBE}; grep NoNewPrivs /proc/self/status; ls /dev/kmsg; mount -t tmpfs x /tmp && echo mounted; \
         test -w /proc/sys/kernel/domainname && echo writable; head -c1 /dev/kmsg >/dev/null && echo read"
    ));
    all.privileged = true;
    let said = says(&mut api, all).await?;
    let lines = "NoNewPrivs:\t0\n/dev/kmsg\nmounted\nwritable\nread\n";
    ensure!(said == format!("{FREE}{lines}"), "{said}");
    let mut guarded = script("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status");
    guarded.privileged = true;
    guarded.no_new_privileges = Some(true);
    guarded.seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW"}).to_string();
    ensure!(says(&mut api, guarded).await? == "NoNewPrivs:\t1\nSeccomp:\t2\n");
    world.finish().await
}
