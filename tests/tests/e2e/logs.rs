//! The log: whole, in CRI's format, by tail, time, stream and cursor.

use std::{fs, time::SystemTime};

use anyhow::{Context as _, Result, ensure};
use wharf_proto::v1::{AttachStart, LogConfig, LogEntry, LogsRequest, Stream};
use wharf_tests::{
    api::{Api, script},
    wait::soon,
    world::{Options, World},
};

async fn entries(api: &mut Api, request: LogsRequest) -> Result<Vec<LogEntry>> {
    let mut answers = api.containers.logs(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = soon("an answer", answers.message()).await? {
        all.extend(answer.entries);
    }
    Ok(all)
}

fn text(entries: &[LogEntry]) -> String {
    entries.iter().map(|e| String::from_utf8_lossy(&e.data).into_owned()).collect()
}

#[tokio::test]
async fn tail_time_stream_and_cursor() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let lines = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; sleep 0.05; done";
    let (container, _) = api.run_to_end(script(lines)).await?;
    let of = LogsRequest { container: container.id.clone(), ..Default::default() };

    let all = entries(&mut api, of.clone()).await?;
    ensure!(all.len() == 10, "{all:?}");
    let times: Vec<_> = all.iter().filter_map(|e| SystemTime::try_from(e.time?).ok()).collect();
    ensure!(times.len() == 10 && times.is_sorted(), "{times:?}");

    let out = entries(&mut api, LogsRequest { stdout: true, ..of.clone() }).await?;
    ensure!(text(&out) == "out 1\nout 2\nout 3\nout 4\nout 5\n", "{out:?}");
    let err = entries(&mut api, LogsRequest { stderr: true, ..of.clone() }).await?;
    ensure!(err.len() == 5 && err.iter().all(|e| e.stream() == Stream::Stderr), "{err:?}");

    for (tail, count) in [(0, 0), (3, 3), (100, 10)] {
        let some = entries(&mut api, LogsRequest { tail: Some(tail), ..of.clone() }).await?;
        ensure!(some == all[all.len() - count..], "tail {tail}: {some:?}");
    }
    let middle = &all[4];
    let since = LogsRequest { since: middle.time, ..of.clone() };
    ensure!(entries(&mut api, since).await? == all[4..], "since");
    let after = LogsRequest { cursor: middle.cursor.clone(), ..of.clone() };
    ensure!(entries(&mut api, after).await? == all[5..], "cursor");
    let until = LogsRequest { until: middle.time, ..of };
    let before = entries(&mut api, until).await?;
    ensure!(before == all[..before.len()] && (4..=5).contains(&before.len()), "until: {before:?}");
    world.finish().await
}

#[tokio::test]
async fn following_to_the_end() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let lines = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; usleep 1000; done";
    let container = api.run(script(lines)).await?;
    let follow =
        LogsRequest { container: container.id.clone(), follow: true, ..Default::default() };
    let followed = entries(&mut api, follow).await?;
    ensure!(crate::no_gap(&text(&followed))? == 300);
    world.finish().await
}

#[tokio::test]
async fn long_lines_and_the_format_on_disk() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let long = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo short; printf end";
    let (container, outcome) = api.run_to_end(script(long)).await?;
    let expected = format!("{}\nshort\nend", "x".repeat(100_000));
    ensure!(outcome.out() == expected, "{} bytes", outcome.stdout.len());
    let of = LogsRequest { container: container.id.clone(), ..Default::default() };
    let all = entries(&mut api, of).await?;
    let (last, first) = (all.last().context("none")?, all.first().context("none")?);
    ensure!(first.partial, "{first:?}");
    ensure!(last.data == b"end", "{last:?}");
    // What kubelet and its tools read.
    for line in fs::read_to_string(&container.log_path)?.lines() {
        let mut words = line.splitn(4, ' ');
        let (time, stream, tag) = (words.next(), words.next(), words.next());
        ensure!(time.is_some_and(|t| t.contains('T') && t.len() >= 20), "{line}");
        ensure!(stream == Some("stdout") && matches!(tag, Some("F" | "P")), "{line}");
    }
    world.finish().await
}

#[tokio::test]
async fn a_rotated_log_is_bounded_and_ends_whole() -> Result<()> {
    let options = Options {
        config: "[container_log]\nmax_bytes = 1000000\nmax_files = 2\n".into(),
        ..Default::default()
    };
    let world = World::with(options).await?;
    let mut api = world.with_busybox().await?;
    const LAST: u64 = 900_000;
    let (container, outcome) = api.run_to_end(script(&format!("seq 1 {LAST}"))).await?;
    let text = outcome.out();
    // The first may be the rest of a line whose beginning went with an older file.
    let numbers: Vec<u64> = text.lines().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    ensure!(numbers.last() == Some(&LAST), "the end is missing");
    let gap = numbers.windows(2).find(|w| w[1] != w[0] + 1);
    ensure!(gap.is_none(), "a gap in what is kept: {gap:?}, which begins at {}", numbers[0]);
    ensure!(numbers.len() > 20_000 && numbers[0] > 1, "{} lines kept", numbers.len());
    let folder = std::path::Path::new(&container.log_path).parent().context("no folder")?;
    let mut bytes = 0;
    for path in wharf_tests::leak::tree(folder) {
        bytes += fs::metadata(folder.join(path))?.len();
    }
    // The present one and two rotated. Each may be over the limit by what one read of the pipe
    // becomes: 64 KiB of short lines, each with its time and stream.
    ensure!(bytes < 3 * 1_500_000, "{bytes} bytes on disk");
    world.finish().await
}

fn driver(driver: &str, script_text: &str) -> wharf_proto::v1::ContainerSpec {
    wharf_proto::v1::ContainerSpec {
        log: Some(LogConfig { driver: driver.into(), ..Default::default() }),
        ..script(script_text)
    }
}

#[tokio::test]
async fn a_json_file_is_docker_s_and_is_read_like_another() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let lines =
        "for i in 1 2 3; do echo \"out \\\"$i\"; echo err $i >&2; sleep 0.02; done; printf end";
    let (container, outcome) = api.run_to_end(driver("json-file", lines)).await?;
    ensure!(outcome.out() == "out \"1\nout \"2\nout \"3\nend", "{:?}", outcome.out());
    for line in fs::read_to_string(&container.log_path)?.lines() {
        let line: serde_json::Value = serde_json::from_str(line).context(line.to_owned())?;
        let keys: Vec<_> = line.as_object().context("an object")?.keys().collect();
        ensure!(keys == ["log", "stream", "time"], "{line}");
    }
    let of = LogsRequest { container: container.id.clone(), ..Default::default() };
    let all = entries(&mut api, of.clone()).await?;
    ensure!(all.len() == 7, "{all:?}");
    let tail = entries(&mut api, LogsRequest { tail: Some(2), ..of.clone() }).await?;
    ensure!(tail == all[5..], "{tail:?}");
    let err = entries(&mut api, LogsRequest { stderr: true, ..of.clone() }).await?;
    ensure!(text(&err) == "err 1\nerr 2\nerr 3\n", "{err:?}");
    let since = entries(&mut api, LogsRequest { since: all[2].time, ..of.clone() }).await?;
    ensure!(since == all[2..], "since: {since:?}");
    let after = LogsRequest { cursor: all[3].cursor.clone(), ..of };
    ensure!(entries(&mut api, after).await? == all[4..], "cursor");
    world.finish().await
}

#[tokio::test]
async fn a_json_file_is_rotated_as_the_container_asks_and_followed_across() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let mut spec = driver("json-file", "read x; seq 1 20000");
    spec.open_stdin = true;
    spec.log =
        spec.log.map(|log| LogConfig { max_size_bytes: Some(400_000), max_files: Some(9), ..log });
    let container = api.run(spec).await?;
    let mut following = api.clone();
    let follow =
        LogsRequest { container: container.id.clone(), follow: true, ..Default::default() };
    let followed = tokio::spawn(async move { entries(&mut following, follow).await });
    let start = AttachStart { container: container.id.clone(), stdin: true, ..Default::default() };
    api.attach(start, b"go\n").await?;
    let followed = followed.await??;
    ensure!(crate::no_gap(&text(&followed))? == 20_000);
    let folder = std::path::Path::new(&container.log_path).parent().context("no folder")?;
    let files = wharf_tests::leak::tree(folder).len();
    ensure!((3..=9).contains(&files), "{files} files");
    world.finish().await
}

#[tokio::test]
async fn with_no_log_only_who_is_attached_gets_output() -> Result<()> {
    let world = World::start().await?;
    let mut api = world.with_busybox().await?;
    let spec = wharf_proto::v1::ContainerSpec {
        open_stdin: true,
        ..driver("none", "read x; echo seen $x")
    };
    let container = api.run(spec).await?;
    let start = AttachStart {
        container: container.id.clone(),
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let outcome = api.attach(start, b"it\n").await?;
    ensure!(outcome.out() == "seen it\n", "{:?}", outcome.out());
    let of = LogsRequest { container: container.id, ..Default::default() };
    let refused = api.containers.logs(of).await.err().context("it keeps none")?;
    ensure!(refused.code() == tonic::Code::FailedPrecondition, "{refused}");
    let unknown = api.create(driver("syslog", "true")).await.err().context("unknown")?;
    ensure!(format!("{unknown:#}").contains("spec.log.driver"), "{unknown:#}");
    world.finish().await
}
