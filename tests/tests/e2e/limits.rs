//! Memory, processes, CPU.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use wharf_proto::v1::{Resources, SubscribeRequest};
use wharf_tests::{
    api::{script, sleeper, spec},
    wait::soon,
    world::{Options, World},
};

use crate::isolation::says;

/// The first of these files in a container's cgroup, whatever the hierarchy, without its newline.
pub(crate) fn cgroup_value(world: &World, names: &[&str]) -> Result<String> {
    let parent = &world.mark().cgroup;
    world
        .mark()
        .cgroups()
        .iter()
        .filter(|folder| !folder.ends_with(parent))
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find_map(|file| fs::read_to_string(file).ok())
        .map(|text| text.trim().to_owned())
        .with_context(|| format!("no cgroup has {names:?}"))
}

#[tokio::test]
async fn a_memory_hog_is_killed_and_said_to_be() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut hog = spec(["tail", "/dev/zero"]);
    hog.resources = Some(Resources {
        memory_bytes: Some(24 << 20),
        memory_swap_bytes: Some(24 << 20),
        ..Default::default()
    });
    let (_, outcome) = api.run_to_end(hog).await?;
    let exit = outcome.exit.context("no exit")?;
    ensure!(exit.oom_killed && exit.exit_code == 137 && exit.signal == 9, "{exit:?}");
    ensure!(exit.reason == "oom", "{exit:?}");
    let all = SubscribeRequest {
        from_sequence: 1,
        topics: vec!["container.oom".into(), "container.exit".into()],
        ..Default::default()
    };
    let mut events = api.events.subscribe(all).await?.into_inner();
    for topic in ["container.oom", "container.exit"] {
        let event = soon("an event", events.message()).await?.context("the stream ended")?;
        ensure!(event.topic == topic, "{event:?}");
    }
    world.finish().await
}

#[tokio::test]
async fn a_fork_bomb_stays_under_its_limit() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut bomb = script("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; echo all");
    bomb.resources = Some(Resources { pids_limit: Some(6), ..Default::default() });
    let (_, outcome) = api.run_to_end(bomb).await?;
    ensure!(outcome.err().contains("fork"), "{outcome:?}");
    ensure!(!outcome.out().contains("all"), "{outcome:?}");
    world.finish().await
}

#[tokio::test]
async fn limits_are_in_the_cgroup() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut limited = sleeper();
    limited.resources = Some(Resources {
        memory_bytes: Some(48 << 20),
        nano_cpus: Some(500_000_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(33),
        ..Default::default()
    });
    api.run(limited).await?;
    let read = |names: &[&str]| cgroup_value(&world, names);
    ensure!(read(&["memory.limit_in_bytes", "memory.max"])? == (48 << 20).to_string());
    let quota = read(&["cpu.cfs_quota_us", "cpu.max"])?;
    ensure!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    let shares = read(&["cpu.shares", "cpu.weight"])?;
    // runc's formula: 1 + ((shares - 2) * 9999) / 262142; crun's newer one gives 59.
    ensure!(["512", "20", "59"].contains(&shares.as_str()), "{shares}");
    ensure!(read(&["cpuset.cpus"])? == "0");
    ensure!(read(&["pids.max"])? == "33");
    world.finish().await
}

fn open_files_of_the_daemon(world: &World) -> Result<String> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", world.daemon_pid()?))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let words: Vec<_> = line.context("no such limit")?.split_whitespace().take(2).collect();
    Ok(words.join(" "))
}

#[tokio::test]
async fn containers_have_the_open_files_that_the_daemon_was_given() -> Result<()> {
    let options = Options { open_files: Some((300, 3000)), ..Default::default() };
    let mut world = World::with(options).await?;
    let mut api = world.with_busybox().await?;
    let ask = || script("ulimit -Sn; ulimit -Hn");
    ensure!(open_files_of_the_daemon(&world)? == "3000 3000");
    ensure!(says(&mut api, ask()).await? == "300\n3000\n");
    // The next one starts with what this one raised.
    let pid = nix::unistd::Pid::from_raw(world.daemon_pid()?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP)?;
    world.taken_over().await?;
    let mut api = world.api()?;
    ensure!(open_files_of_the_daemon(&world)? == "3000 3000");
    ensure!(says(&mut api, ask()).await? == "300\n3000\n");
    world.finish().await
}
