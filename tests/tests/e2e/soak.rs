//! Many lives, with a supervisor that is killed all the time, and without. A few here; `make soak
//! SOAK=lives` and `SOAK=flat` do as many as it takes to find what is rare.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::JoinSet;
use wharf_client::{Client, Error, Kind};
use wharf_proto::v1::{Container, SubscribeRequest};
use wharf_tests::{
    api::script,
    wait::{PATIENCE, soon},
    world::World,
};

const CALLERS: usize = 4;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Until a supervisor answers: one that is away, or was killed under the call, is asked again.
async fn insist<T, F>(what: &str, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(error) if error.is_transient() && tokio::time::Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error).with_context(|| what.to_owned()),
        }
    }
}

/// One whole life over kills; what was done and not answered is found by its name. Gives the id, and
/// how often it was started: a start that was cut off may be done and done once more.
async fn life(client: &Client, name: &str, code: i32) -> Result<(String, u64)> {
    let created = insist("create", async || {
        let mut spec = script(&format!("usleep {}; exit {code}", 1000 * (code % 7)));
        spec.name = name.to_owned();
        match client.create_container(spec).await {
            Err(error) if error.kind() == Kind::AlreadyExists => client.container(name).await,
            other => other,
        }
    })
    .await?;
    let has_begun = |container: &Container| container.incarnation.is_some();
    insist("start", async || {
        let now = client.container(&created.id).await?;
        if has_begun(&now) {
            return Ok(());
        }
        client.start_container(&created.id, None).await.map(drop)
    })
    .await?;
    let exit = insist("wait", async || client.wait_container(&created.id, false).await).await?;
    let exit = exit.context("it never ran")?;
    // A start that was cut off before its process ran is said to be: then it did not run, and may.
    if exit.reason != "start-failed" {
        ensure!(exit.exit_code == code && exit.signal == 0, "{code} was expected: {exit:?}");
    }
    let last = insist("get", async || client.container(&created.id).await).await?;
    let starts = last.incarnation.map_or(0, |incarnation| incarnation.number);
    insist("delete", async || match client.delete_container(&created.id, false, false).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        other => other,
    })
    .await?;
    Ok((created.id, starts))
}

/// `lives` lives while the supervisor is killed at random moments, and its journal afterwards.
async fn lives_under_kills(lives: usize) -> Result<()> {
    let mut world = World::start().await?;
    world.with_busybox().await?;
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let client = wharf_client::connect(&world.address())?;
        let (next, done) = (Arc::clone(&next), Arc::clone(&done));
        callers.spawn(async move {
            let mut ended = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= lives {
                    return anyhow::Ok(ended);
                }
                let code = i32::try_from(n % 120)? + 1;
                let (id, starts) = life(&client, &format!("life-{n}"), code)
                    .await
                    .with_context(|| format!("life {n}"))?;
                ended.push((id, (code, starts)));
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (mut kills, mut seed) = (0_u64, 0x2545_f491_4f6c_dd1d_u64);
    let mut expected: HashMap<String, (i32, u64)> = HashMap::new();
    while !callers.is_empty() {
        // Times without a pattern, the same in each run.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let pause = tokio::time::sleep(Duration::from_millis(30 + seed % 700));
        tokio::select! {
            ended = callers.join_next() => {
                expected.extend(ended.context("no caller")???);
                continue;
            }
            () = pause => {}
        }
        world.kill9()?;
        world.restart().await.with_context(|| format!("after kill {kills}"))?;
        kills += 1;
    }
    // Each exit is in the journal once, with its code.
    let request = SubscribeRequest {
        from_sequence: 1,
        until: Some(std::time::SystemTime::now().into()),
        topics: vec!["container.exit".into()],
        ..Default::default()
    };
    let client = wharf_client::connect(&world.address())?;
    let mut told: HashMap<String, Vec<Option<i32>>> = HashMap::new();
    match client.events(request).await {
        Ok(mut events) => {
            while let Some(event) = soon("an event", events.next()).await? {
                let code = event.attributes.get("exitCode").and_then(|c| c.parse().ok());
                let failed = event.attributes.get("reason").is_some_and(|r| r == "start-failed");
                let code: i32 = code.context("no code")?;
                told.entry(event.id).or_default().push((!failed).then_some(code));
            }
            for (id, (code, starts)) in &expected {
                let found = told.get(id).map(Vec::as_slice).unwrap_or_default();
                let right = found.iter().flatten().all(|found| found == code);
                ensure!(
                    right && found.len() as u64 == *starts,
                    "{id}: {starts} exits with {code} were expected, {found:?} were told"
                );
            }
        }
        // More than the journal keeps: what Wait said has been looked at.
        Err(error) if error.kind() == Kind::OutOfRange => {}
        Err(error) => bail!(error),
    }
    say(&format!("{lives} lives, {} in the journal, {kills} kills", told.len()));
    world.finish().await
}

/// In KiB.
fn rss(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?)
}

/// What the supervisor takes after a tenth of `lives`, and after all of them.
async fn flat(lives: usize) -> Result<()> {
    let world = World::start().await?;
    world.with_busybox().await?;
    let pid = world.daemon_pid()?;
    let mut sizes = Vec::new();
    for tenth in 0..10 {
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let client = wharf_client::connect(&world.address())?;
            let count = lives / 10 / CALLERS;
            callers.spawn(async move {
                for n in 0..count {
                    life(&client, &format!("flat-{tenth}-{caller}-{n}"), 3).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        sizes.push(rss(pid)?);
    }
    let (first, last) = (sizes[0], sizes[9]);
    say(&format!("{lives} lives; RSS after each tenth, in KiB: {sizes:?}"));
    ensure!(last < first + (8 << 10), "it grew: {sizes:?} KiB");
    world.finish().await
}

#[expect(clippy::print_stderr, reason = "figures of a long run")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_exit_is_lost_or_wrong_under_kills() -> Result<()> {
    lives_under_kills(60).await
}

/// `make soak SOAK=lives`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a long run"]
async fn soak_lives() -> Result<()> {
    lives_under_kills(number("WHARF_SOAK_LIVES", 10_000)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_supervisor_does_not_grow() -> Result<()> {
    flat(200).await
}

/// `make soak SOAK=flat`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a long run"]
async fn soak_flat() -> Result<()> {
    flat(number("WHARF_SOAK_LIVES", 100_000)).await
}
