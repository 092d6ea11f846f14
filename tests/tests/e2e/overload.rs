//! Too much at once, and what does not answer.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use nix::{sys::signal::Signal, unistd::Pid};
use tonic::{Code, Request};
use wharf_proto::v1::{
    ContainerState, ExecStart, GetContainerRequest, KillContainerRequest, LogsRequest,
    WaitContainerRequest,
};
use wharf_tests::{
    api::{Api, reason, script, sleeper},
    wait::{self, soon},
    world::{Options, World},
};

use crate::refused;

/// A shim that is stopped for as long as this lives.
struct Stopped(Pid);

impl Stopped {
    /// The parent of a container's process is its shim.
    fn of(container: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{container}/status"))?;
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).context("no parent")?;
        let pid = Pid::from_raw(parent.trim().parse()?);
        nix::sys::signal::kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, Signal::SIGCONT);
    }
}

#[tokio::test]
async fn a_stopped_shim_holds_up_only_its_own_container() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let stuck = api.run(sleeper()).await?;
    let other = api.run(sleeper()).await?.id;
    let id = stuck.id.clone();
    let stopped = Stopped::of(stuck.incarnation.context("none")?.pid)?;

    let kill = KillContainerRequest { container: id.clone(), signal: "USR1".into() };
    let mut call = api.containers.clone();
    let hanging = tokio::spawn(async move { call.kill(kill).await });
    // Meanwhile: what asks nobody, and what asks another.
    ensure!(api.list().await?.len() == 2);
    ensure!(api.state(&id).await? == ContainerState::Running);
    let exec = |container: &str| ExecStart {
        container: container.into(),
        args: vec!["true".into()],
        ..Default::default()
    };
    ensure!(api.exec(exec(&other), b"").await?.code() == 0);
    ensure!(!hanging.is_finished(), "a stopped shim answered");
    refused(
        soon("the deadline", async { anyhow::Ok(hanging.await?) }).await?,
        Code::DeadlineExceeded,
    )?;
    // The caller's own deadline, if it is shorter.
    let mut short =
        Request::new(KillContainerRequest { container: id.clone(), signal: "USR1".into() });
    short.set_timeout(Duration::from_millis(200));
    let status = refused(api.containers.kill(short).await, Code::DeadlineExceeded)
        .or_else(|_| anyhow::Ok(tonic::Status::cancelled("by the client itself")))?;
    drop(status);

    drop(stopped);
    api.remove(&id).await?;
    api.remove(&other).await?;
    world.finish().await
}

#[tokio::test]
async fn a_thousand_calls_at_once_are_answered_or_refused() -> Result<()> {
    let config = "[limits]\ncalls = 20\nstreams = 20\n".to_owned();
    let world = World::with(Options { config, ..Default::default() }).await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let calls = (0..1000).map(|_| {
        let (mut api, id) = (api.clone(), id.clone());
        async move {
            let request =
                GetContainerRequest { container: id, with_oci_spec: true, ..Default::default() };
            api.containers.get(request).await.map(drop)
        }
    });
    let mut answered = 0;
    for result in soon("all answers", async { anyhow::Ok(join_all(calls).await) }).await? {
        match result {
            Ok(()) => answered += 1,
            Err(status) => {
                ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
                ensure!(reason(&status) == "OVERLOADED", "{status:?}");
            }
        }
    }
    ensure!(answered > 0, "nobody was answered");

    // Calls that wait are bounded too, and leave room for the others.
    let waits: Vec<_> = (0..40)
        .map(|_| {
            let (mut api, id) = (api.clone(), id.clone());
            tokio::spawn(async move {
                let request = WaitContainerRequest { container: id, until_removed: false };
                api.containers.wait(request).await.map(drop)
            })
        })
        .collect();
    wait::until_now("those that are too many are refused", || {
        Ok((waits.iter().filter(|wait| wait.is_finished()).count() == 20).then_some(()))
    })
    .await?;
    ensure!(api.state(&id).await? == ContainerState::Running);
    api.remove(&id).await?;
    for result in join_all(waits).await {
        if let Err(status) = result? {
            ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
        }
    }
    world.finish().await
}

/// Bytes that the process has read so far, from files and sockets.
fn bytes_read(pid: i32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|l| l.strip_prefix("rchar:")).context("no rchar")?;
    Ok(line.trim().parse()?)
}

async fn written(api: &Api, id: &str, least: u64) -> Result<()> {
    let mut api = api.clone();
    let log = api.get(id).await?.log_path;
    wait::until_now("output", || {
        let rotated = fs::metadata(format!("{log}.1")).map_or(0, |m| m.len());
        Ok((fs::metadata(&log)?.len() + rotated > least).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_client_that_never_reads_costs_a_bounded_buffer() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(script("while :; do cat /bin/busybox; done")).await?.id;
    written(&api, &id, 2 << 20).await?;
    let daemon = world.daemon_pid()?;
    let before = bytes_read(daemon)?;
    let mut held = Vec::new();
    for _ in 0..4 {
        let request = LogsRequest { container: id.clone(), follow: true, ..Default::default() };
        let mut own = world.api()?;
        held.push((own.containers.logs(request).await?.into_inner(), own));
    }
    written(&api, &id, 40 << 20).await?;
    // Of 4 times 40 MiB, what is not sent is not even read from the log.
    let unread = bytes_read(daemon)? - before;
    ensure!(unread < 16 << 20, "{unread} bytes were read for clients that do not read");
    // One that reads after all gets it, and then it is read.
    let (stream, _) = &mut held[0];
    let mut got = 0;
    while got < 8 << 20 {
        let answer = soon("more output", async { anyhow::Ok(stream.message().await?) }).await?;
        got += answer.context("an end")?.entries.iter().map(|e| e.data.len()).sum::<usize>();
    }
    ensure!(bytes_read(daemon)? - before > 8 << 20, "reads are not seen");
    drop(held);
    api.remove(&id).await?;
    world.finish().await
}
