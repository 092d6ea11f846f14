//! The supervisor replaced while everybody talks to it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::{JoinHandle, JoinSet};
use wharf_client::{Client, Input, SessionEvent, UpgradeEvent};
use wharf_proto::v1::{
    AttachStart, ContainerFilter, CreateVolumeRequest, ExecStart, GetContainerRequest, LogsRequest,
    SubscribeRequest, UpgradeDone, attach_start,
};
use wharf_tests::{
    api::{script, sleeper},
    host,
    wait::{self, soon},
    world::{Options, World},
};

use crate::{exec::shell, no_gap};

/// Counts, slowly enough to go on for a while.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; usleep 3000; done";

async fn upgraded(client: &Client, binary: &str) -> Result<UpgradeDone> {
    let mut upgrade = client.upgrade(binary).await?;
    while let Some(event) = soon("a step of the upgrade", upgrade.next()).await? {
        if let UpgradeEvent::Done(done) = event {
            return Ok(done);
        }
    }
    bail!("the upgrade ended without a word")
}

fn client(world: &World) -> Result<Client> {
    Ok(wharf_client::connect(&world.address())?)
}

#[tokio::test]
async fn by_call_and_by_signal() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let container = api.run(sleeper()).await?;
    let pid = container.incarnation.context("no incarnation")?.pid;
    let client = client(&world)?;
    let old = world.daemon_pid()?;
    let done = upgraded(&client, "").await?;
    let new = world.taken_over().await?;
    ensure!((i32::try_from(done.old_pid)?, i32::try_from(done.pid)?) == (old, new), "{done:?}");
    ensure!(i32::try_from(client.info().await?.pid)? == new);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(new), nix::sys::signal::Signal::SIGHUP)?;
    let newest = world.taken_over().await?;
    ensure!(i32::try_from(client.info().await?.pid)? == newest && newest != new);
    let after = client.container(&container.id).await?.incarnation.context("no incarnation")?;
    ensure!(after.pid == pid && after.exit.is_none(), "{after:?}");
    // It is one that a second is refused by, and that ends as any other.
    let output = world.daemon_command()?.output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && text.contains(&newest.to_string()), "{text}");
    world.finish().await
}

/// What clients do meanwhile, and what they see of it.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    calls: AtomicU64,
    failed: std::sync::Mutex<Vec<String>>,
}

impl Seen {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn call<T, E: std::fmt::Display>(&self, what: &str, result: Result<T, E>) -> Option<T> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.failed.lock().expect("no panics").push(format!("{what}: {error}"));
                None
            }
        }
    }
}

/// Calls of all kinds, one after the other, with `pause` between two.
async fn caller(client: Client, seen: Arc<Seen>, id: String, pause: Duration) {
    let mut number = 0_u64;
    let mut tick = tokio::time::interval(pause);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !seen.over() {
        tick.tick().await;
        number += 1;
        match number % 8 {
            1 | 5 => {
                let listed = client.list_containers(ContainerFilter::default()).await;
                if let Some(listed) = seen.call("list", listed)
                    && !listed.iter().any(|c| c.id == id)
                {
                    seen.failed.lock().expect("no panics").push("a list without it".into());
                }
            }
            2 => drop(seen.call("version", client.version().await)),
            3 => drop(seen.call("images", client.list_images("").await)),
            4 => {
                if let Some(made) = seen.call("create", client.create_container(sleeper()).await) {
                    seen.call("delete", client.delete_container(&made.id, true, false).await);
                }
            }
            6 => {
                let request = CreateVolumeRequest::default();
                if let Some(made) = seen.call("create volume", client.create_volume(request).await)
                {
                    seen.call("delete volume", client.delete_volume(&made.name).await);
                }
            }
            _ => drop(seen.call("get", client.container(&id).await)),
        }
    }
}

/// Output of a session until `seen` is over and `enough` has come since, or its end.
async fn watch(
    mut session: wharf_client::Session,
    seen: Arc<Seen>,
) -> Result<(Vec<u8>, u64, Option<i32>)> {
    let (mut out, mut resumed) = (Vec::new(), 0);
    loop {
        match soon("output", session.next()).await? {
            Some(SessionEvent::Output { data, .. }) => out.extend(data),
            Some(SessionEvent::Resumed { input_lost, .. }) => {
                ensure!(!input_lost, "input was lost");
                resumed += 1;
            }
            Some(SessionEvent::Exit(exit)) => return Ok((out, resumed, Some(exit.exit_code))),
            Some(_) => {}
            None => return Ok((out, resumed, None)),
        }
        if seen.over() && out.ends_with(b"\n") && session.input().is_none() {
            return Ok((out, resumed, None));
        }
    }
}

fn task<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> JoinHandle<Result<T>> {
    tokio::spawn(work)
}

/// `rounds` upgrades under a load of `callers`, each with a pause of `pause` between its calls.
async fn under_load(rounds: usize, callers: usize, pause: Duration) -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let counter = api.run(script(COUNTER)).await?.id;
    let ends = {
        let folder = world.folder().join("t");
        fs::create_dir_all(&folder)?;
        let mut ends = script("while [ ! -e /t/go ]; do usleep 20000; done; exit 7");
        ends.mounts = vec![wharf_proto::v1::Mount {
            source: folder.display().to_string(),
            target: "/t".into(),
            ..Default::default()
        }];
        api.run(ends).await?.id
    };
    let stubborn = api.run(script("trap '' TERM; while :; do sleep 1; done")).await?.id;
    let seen = Arc::new(Seen::default());
    let mut load = JoinSet::new();
    for _ in 0..callers {
        load.spawn(caller(client(&world)?, Arc::clone(&seen), counter.clone(), pause));
    }

    let own = client(&world)?;
    let start = AttachStart {
        container: counter.clone(),
        stdout: true,
        from: Some(attach_start::From::HistoryLines(-1)),
        ..Default::default()
    };
    let mut attached = own.attach(start).await?;
    attached.without_input();
    let attached = task(watch(attached, Arc::clone(&seen)));
    let mut counting = own.exec(shell(&counter, COUNTER)).await?;
    counting.without_input();
    let counting = task(watch(counting, Arc::clone(&seen)));
    let echo = own.exec(ExecStart { open_stdin: true, ..shell(&counter, "cat; exit 3") }).await?;
    let typing = task({
        let (input, seen) = (echo.input().context("no input")?, Arc::clone(&seen));
        async move {
            let mut number = 0_u64;
            while !seen.over() {
                number += 1;
                input.send(Input::Stdin(format!("{number}\n").into_bytes())).await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            input.send(Input::CloseStdin).await?;
            Ok(number)
        }
    });
    let echoed = task(watch(echo, Arc::clone(&seen)));
    let request = LogsRequest {
        container: counter.clone(),
        follow: true,
        stdout: true,
        ..Default::default()
    };
    let mut logs = own.logs(request).await?;
    let followed = task({
        let seen = Arc::clone(&seen);
        async move {
            let mut out = Vec::new();
            while let Some(entries) = soon("a log entry", logs.next()).await? {
                entries.iter().for_each(|entry| out.extend(&entry.data));
                if seen.over() {
                    break;
                }
            }
            Ok(out)
        }
    });
    let mut events =
        own.events(SubscribeRequest { from_sequence: 1, ..Default::default() }).await?;
    let told = task({
        let seen = Arc::clone(&seen);
        async move {
            let mut last = 0;
            while let Some(event) = soon("an event", events.next()).await? {
                ensure!(event.sequence == last + 1, "{} follows {last}", event.sequence);
                last = event.sequence;
                if seen.over() {
                    break;
                }
            }
            Ok(last)
        }
    });
    let waited = task({
        let (own, ends) = (own.clone(), ends.clone());
        async move { Ok(own.wait_container(&ends, false).await?) }
    });

    let stopped = task({
        let own = own.clone();
        async move { Ok(own.stop_container(&stubborn, Some(Duration::from_secs(2)), "").await?) }
    });

    for round in 0..rounds {
        let calls = seen.calls.load(Ordering::Relaxed);
        let done = upgraded(&own, "").await.with_context(|| format!("upgrade {round}"))?;
        let pid = world.taken_over().await.with_context(|| format!("upgrade {round}"))?;
        ensure!(u32::try_from(pid)? == done.pid, "{done:?}");
        // Some calls to each.
        let enough = calls + 20 * callers as u64;
        wait::until_now("calls go through", || {
            Ok((seen.calls.load(Ordering::Relaxed) > enough).then_some(()))
        })
        .await?;
    }
    fs::write(world.folder().join("t/go"), "")?;
    ensure!(waited.await??.context("no exit")?.exit_code == 7);
    let after_stop = stopped.await??.incarnation.and_then(|i| i.exit).context("no exit")?;
    ensure!(after_stop.exit_code == 137, "{after_stop:?}");
    seen.over.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended?;
    }
    let (out, resumed, _) = attached.await??;
    ensure!(no_gap(std::str::from_utf8(&out)?)? > 0 && resumed as usize == rounds, "{resumed}");
    let (out, resumed, _) = counting.await??;
    ensure!(no_gap(std::str::from_utf8(&out)?)? > 0 && resumed as usize == rounds, "{resumed}");
    let typed = typing.await??;
    let (out, _, code) = echoed.await??;
    ensure!(code == Some(3), "{code:?}");
    let echoed = no_gap(std::str::from_utf8(&out)?)?;
    ensure!(echoed == typed, "{typed} lines typed, {echoed} came back");
    no_gap(std::str::from_utf8(&followed.await??)?)?;
    // The next thing that happens is told to the one who waits for it.
    api = world.api()?;
    api.remove(&counter).await?;
    ensure!(told.await?? > 0);
    let calls = seen.calls.load(Ordering::Relaxed);
    let failed = std::mem::take(&mut *seen.failed.lock().expect("no panics"));
    ensure!(
        failed.is_empty(),
        "{} of {calls} calls failed: {:#?}",
        failed.len(),
        &failed[..failed.len().min(10)]
    );
    say(&format!("{rounds} upgrades, {calls} calls, none failed; {typed} lines through stdin"));
    world.finish().await
}

#[expect(clippy::print_stderr, reason = "figures of a long run")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_and_no_byte_is_missing() -> Result<()> {
    under_load(3, 4, Duration::from_millis(20)).await
}

/// `make soak SOAK=upgrades`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a long run"]
async fn soak_upgrades() -> Result<()> {
    let rounds = std::env::var("WHARF_SOAK_ROUNDS").ok().and_then(|n| n.parse().ok());
    // 200 calls a second.
    under_load(rounds.unwrap_or(100), 8, Duration::from_millis(40)).await
}

/// Clients that are nobody's but gRPC's own.
#[tokio::test]
async fn plain_grpc_clients_are_not_turned_away() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let over = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for _ in 0..3 {
        let (mut api, id, over) = (world.api()?, id.clone(), Arc::clone(&over));
        load.spawn(async move {
            let mut calls = 0_u64;
            while !over.load(Ordering::Relaxed) {
                let request = GetContainerRequest { container: id.clone(), ..Default::default() };
                // As a client of gRPC's is told to do with UNAVAILABLE, and no more than once: not
                // every library repeats by itself what was never sent.
                let answer = match api.containers.get(request.clone()).await {
                    Err(status) if is_transport(&status) => api.containers.get(request).await,
                    other => other,
                };
                answer.with_context(|| format!("call {calls}"))?;
                calls += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(calls)
        });
    }
    let client = client(&world)?;
    for _ in 0..3 {
        upgraded(&client, "").await?;
        world.taken_over().await?;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(calls) = load.join_next().await {
        ensure!(calls?? > 0);
    }
    world.finish().await
}

fn is_transport(status: &tonic::Status) -> bool {
    use std::error::Error as _;
    status.code() == tonic::Code::Unavailable || status.source().is_some()
}

fn program(world: &World, name: &str, text: &str) -> Result<PathBuf> {
    let path = world.folder().join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Answers the question what it is as the real one, and then does something else.
fn pretender(world: &World, name: &str, then: &str) -> Result<PathBuf> {
    let real = host::binary("wharfd")?;
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in --handover-version) exec {} --handover-version;; esac\n{then}\n",
        real.display()
    );
    program(world, name, &text)
}

async fn serves_on(world: &World, client: &Client, pid: i32, id: &str) -> Result<()> {
    ensure!(i32::try_from(client.info().await?.pid)? == pid, "another one serves");
    ensure!(world.daemon_pid()? == pid);
    let outcome = world.api()?.exec(shell(id, "echo here"), &[]).await?;
    ensure!(outcome.out() == "here\n", "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_no_good_is_refused() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let client = client(&world)?;
    let pid = world.daemon_pid()?;
    let real = fs::read(host::binary("wharfd")?)?;
    let truncated = program(&world, "truncated", "")?;
    fs::write(&truncated, &real[..real.len() / 3])?;
    let older = program(
        &world,
        "older",
        "#!/bin/sh\necho '{\"program\":\"wharfd\",\"version\":\"0.0.9\",\"handover\":1,\"schema\":0}'\n",
    )?;
    let crashes = pretender(&world, "crashes", "exit 3")?;
    let folder = world.folder().to_owned();
    for (path, word) in [
        (PathBuf::from("/bin/true"), "no wharfd"),
        (PathBuf::from("/nowhere/wharfd"), "No such file"),
        (PathBuf::from("wharfd"), "absolute"),
        (folder, "not an executable file"),
        (truncated, "truncated can't be"),
        (older, "does not understand the metadata"),
        (crashes, "exit status: 3"),
    ] {
        let error = upgraded(&client, &path.display().to_string()).await;
        let text = format!("{:#}", error.err().context("it was taken")?);
        ensure!(text.contains(word), "{}: {text}", path.display());
        serves_on(&world, &client, pid, &id).await?;
    }
    world.finish().await
}

/// Says hello as a new wharfd does, and then does as it is told.
const LIAR: &str = r#"
import json, os, socket, sys, time
line = socket.socket(fileno=0)
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
hello = {"version": "9", "schema": SCHEMA, "root": args["--root"], "state": args["--state"]}
line.send(json.dumps({"hello": hello}).encode())
message, fds, _, _ = socket.recv_fds(line, 65536, 8)
assert len(fds) == 3, fds
if sys.argv[0].endswith("hangs"): time.sleep(1000)
if sys.argv[0].endswith("lies"):
    line.send(b'"serving"')
    time.sleep(1000)
os._exit(5)
"#;

#[tokio::test]
async fn one_that_does_not_come_up_leaves_the_old_one() -> Result<()> {
    let Some(python) = host::tool("python3") else {
        let name = "one_that_does_not_come_up_leaves_the_old_one";
        return host::skip(name, "no python3 here");
    };
    let options = Options { config: "upgrade_timeout_seconds = 1\n".into(), ..Options::default() };
    let mut world = World::with(options).await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(script(COUNTER)).await?.id;
    let client = client(&world)?;
    let pid = world.daemon_pid()?;
    let real = host::binary("wharfd")?;
    let start = AttachStart {
        container: id.clone(),
        stdout: true,
        from: Some(attach_start::From::HistoryLines(-1)),
        ..Default::default()
    };
    let mut session = client.attach(start).await?;
    session.without_input();
    let seen = Arc::new(Seen::default());
    let attached = task(watch(session, Arc::clone(&seen)));
    // A newer schema makes the old one keep a copy of its metadata, and put it back.
    for (name, schema, word) in [
        ("dies", 2, "exit status: 5"),
        ("hangs", 2, "nothing within"),
        ("lies", 99, "answer calls"),
    ] {
        let text = format!(
            "#!{}\nimport subprocess, sys\n\
             if sys.argv[1:] == ['--handover-version']:\n    \
             print(subprocess.run(['{}', '--handover-version'], capture_output=True, text=True)\
             .stdout.replace('\"schema\":2', '\"schema\":{schema}'))\n    sys.exit()\n{}",
            python.display(),
            real.display(),
            LIAR.replace("SCHEMA", &schema.to_string())
        );
        let path = program(&world, name, &text)?;
        let error = upgraded(&client, &path.display().to_string()).await;
        let text = format!("{:#}", error.err().context("it was taken")?);
        ensure!(text.contains(word) && text.contains("serves on"), "{name}: {text}");
        serves_on(&world, &client, pid, &id).await.context(name)?;
    }
    // And it can still be replaced by one that is well.
    upgraded(&client, "").await?;
    world.taken_over().await?;
    seen.over.store(true, Ordering::Relaxed);
    let (out, resumed, _) = attached.await??;
    ensure!(no_gap(std::str::from_utf8(&out)?)? > 0 && resumed == 4, "{resumed}");
    world.finish().await
}

#[tokio::test]
async fn killed_during_an_upgrade() -> Result<()> {
    let mut world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let id = api.run(sleeper()).await?.id;
    let pid = api.get(&id).await?.incarnation.context("no incarnation")?.pid;
    for round in 0..4_u64 {
        let old = world.daemon_pid()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(old), nix::sys::signal::Signal::SIGHUP)?;
        tokio::time::sleep(Duration::from_millis(round * 25)).await;
        // The old one, wherever it is in it: either the new one has all by then, or it ends too.
        world.kill9()?;
        let lock = world.state().join("wharfd.lock");
        wait::until_now("all supervisors but the one that serves are gone", || {
            let own: Vec<i32> = wharfds(&world)?;
            let serving = fs::read_to_string(&lock)?.trim().parse::<i32>().ok();
            Ok((own.is_empty() || own == serving.into_iter().collect::<Vec<_>>()).then_some(()))
        })
        .await?;
        match wharfds(&world)?.first() {
            Some(pid) => world.adopt(*pid),
            None => world.restart().await?,
        }
        let mut api = world.api()?;
        let now = wait::until("it answers", || {
            let (mut api, id) = (api.clone(), id.clone());
            async move { Ok(api.get(&id).await.ok()) }
        })
        .await?;
        ensure!(now.incarnation.context("no incarnation")?.pid == pid, "round {round}");
        let outcome = api.exec(shell(&id, "echo here"), &[]).await?;
        ensure!(outcome.out() == "here\n", "{outcome:?}");
    }
    world.finish().await
}

/// The supervisors of this world.
fn wharfds(world: &World) -> Result<Vec<i32>> {
    let state = world.state().display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split('\0');
        let is_wharfd = words.next().is_some_and(|name| name.ends_with("wharfd"));
        if is_wharfd && words.any(|word| word == state) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// As systemd starts a service: the socket is there already, and the pid is known.
const ACTIVATE: &str = r#"
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(64)
if listener.fileno() != 3: os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[tokio::test]
async fn as_a_service_of_systemd() -> Result<()> {
    let Some(python) = host::tool("python3") else {
        return host::skip("as_a_service_of_systemd", "no python3 here");
    };
    let mut world = World::cold(Options::default())?;
    let notify = world.folder().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&notify)?;
    socket.set_read_timeout(Some(wait::PATIENCE))?;
    let said = || -> Result<String> {
        let mut text = [0; 4096];
        let count = socket.recv(&mut text).context("nothing was said")?;
        Ok(String::from_utf8_lossy(&text[..count]).into_owned())
    };
    let address = world.address();
    let path = PathBuf::from(address.trim_start_matches("unix:"));
    let plain = world.daemon_command()?;
    let mut command = std::process::Command::new(python);
    command.args(["-c", ACTIVATE]).arg(&path).arg(plain.get_program()).args(plain.get_args());
    command.env("NOTIFY_SOCKET", &notify);
    world.spawn_as(command)?;
    let first = said()?;
    let pid = world.daemon_pid()?;
    ensure!(first.contains("READY=1") && first.contains(&format!("MAINPID={pid}")), "{first}");
    let client = client(&world)?;
    ensure!(i32::try_from(client.info().await?.pid)? == pid);
    let done = upgraded(&client, "").await?;
    let new = world.taken_over().await?;
    ensure!(i32::try_from(done.pid)? == new, "{done:?}");
    ensure!(said()?.contains("RELOADING=1"));
    let words = [said()?, said()?].concat();
    ensure!(words.matches(&format!("MAINPID={new}\n")).count() == 2, "{words}");
    world.shutdown().await?;
    ensure!(said()?.contains("STOPPING=1"));
    drop(socket);
    fs::remove_file(&notify)?;
    ensure!(path.exists(), "it has removed the socket of somebody else");
    world.restart().await?;
    world.finish().await
}
