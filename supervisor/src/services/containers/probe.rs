//! Asks a container how it is: its health check's command, executed in it now and then.
//!
//! A prober is a task beside a container's own, there only while that runs and is not frozen. It
//! sleeps, executes, reports to the container's queue, and is told there how long to sleep next. A
//! probe is no exec of a user's: nothing of it is in the journal, and nobody can resume it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};

use super::{
    Error, ExecRequest, Tools,
    driver::Command,
    exec::exec_process,
    health::{HealthCheck, MAX_OUTPUT, Probed},
    machine::State,
    record::Record,
    table::View,
};
use crate::{
    drivers::{
        host,
        shims::{Shim, ShimError},
    },
    fault,
    ids::random_hex,
    services::events::now_unix_ns,
};

/// Ids of execs that are probes begin so.
const PREFIX: &str = "health-";
/// A probe that is just being started keeps others from it for so long at most.
const TURN_LIMIT: Duration = Duration::from_secs(1);
/// What a probe that was killed may take to be gone before the next is thought of.
const DYING: Duration = Duration::from_secs(5);
/// For output that was written before the end.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// Exit code of a probe that has none.
const NO_CODE: i32 = -1;

/// Whether an exec is a probe.
pub(super) fn is_probe(exec_id: &str) -> bool {
    exec_id.starts_with(PREFIX)
}

/// A prober; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Prober {
    /// The start of the container that it asks.
    pub(super) number: u64,
    _wanted: oneshot::Sender<()>,
}

/// What a prober works with.
pub(super) struct Asked {
    pub(super) tools: Arc<Tools>,
    pub(super) view: watch::Receiver<View>,
    pub(super) shim: watch::Receiver<Option<Shim>>,
    pub(super) queue: mpsc::WeakSender<Command>,
}

impl Prober {
    /// Asks after `pause` for the first time.
    pub(super) fn start(number: u64, pause: Duration, asked: Asked) -> Self {
        let (wanted, dropped) = oneshot::channel();
        // Ends with the prober, or with the container's task.
        tokio::spawn(asked.run(number, pause, dropped));
        Self { number, _wanted: wanted }
    }
}

impl Asked {
    async fn run(mut self, number: u64, mut pause: Duration, mut dropped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut dropped => return,
                () = tokio::time::sleep(pause) => {}
            }
            // Between probes, which is nearly always, the task is small.
            match Box::pin(self.once(number, &mut dropped)).await {
                Some(next) => pause = next,
                None => return,
            }
        }
    }

    /// One probe; how long to wait until the next. `None`: there is none.
    async fn once(&mut self, number: u64, dropped: &mut oneshot::Receiver<()>) -> Option<Duration> {
        let record = Arc::clone(&self.view.borrow().record);
        let State::Running(run) = &record.state else { return None };
        let check = record.spec.health.as_ref().filter(|_| run.number == number)?;
        let shim = self.shim.borrow().clone()?;
        let exec_id = format!("{PREFIX}{}", random_hex::<8>().ok()?);
        let turns = Arc::clone(&self.tools.probe_turns);
        let turn = tokio::select! {
            _ = &mut *dropped => return None,
            turn = turns.acquire_owned() => turn.ok()?,
        };
        let ran = run_for(&record);
        let probe = Probe { shim: &shim, record: &record, exec_id: &exec_id, check };
        let probed = tokio::select! {
            _ = &mut *dropped => {
                drop(put_away(&shim, &exec_id));
                return None;
            }
            probed = probe.run(turn) => probed,
        };
        let Some(probed) = probed else {
            // Its shim went away, and the container's task sees to that; it says when to go on.
            return Some(check.time_limit());
        };
        let (reply, next) = oneshot::channel();
        let command = Command::Probed { number, ran, probed: Box::new(probed), reply };
        self.queue.upgrade()?.send(command).await.ok()?;
        tokio::select! {
            _ = &mut *dropped => None,
            next = next => next.ok().flatten(),
        }
    }
}

/// How long a container has run, by the host's own clock.
pub(super) fn run_for(record: &Record) -> Duration {
    host::uptime().saturating_sub(Duration::from_millis(record.restarts.started_uptime_ms))
}

/// One probe.
struct Probe<'a> {
    shim: &'a Shim,
    record: &'a Arc<Record>,
    exec_id: &'a str,
    check: &'a HealthCheck,
}

impl Probe<'_> {
    /// Executes it, to its end or for as long as it may take. `None`: nobody can know, as its shim
    /// went away.
    async fn run<T>(&self, turn: T) -> Option<Probed> {
        let (started_unix_ns, began) = (now_unix_ns(), Instant::now());
        let limit = self.check.time_limit();
        let mut output = Output::default();
        let asked = timeout(limit, self.ask(turn, &mut output)).await;
        let is_over = matches!(asked, Ok(Ok(_)));
        let (exit_code, said) = match asked {
            Ok(Ok(code)) => (code, output.text()),
            Ok(Err(Error::Shim { source, .. })) if source.is_lost() => return None,
            Ok(Err(error)) => (NO_CODE, cut(&fault::chain(&error))),
            Err(_) => {
                let text = output.text();
                let more = if text.is_empty() { String::new() } else { format!(": {text}") };
                (NO_CODE, format!("Health check exceeded timeout ({}){more}", shown(limit)))
            }
        };
        if !is_over || self.shim.delete(self.exec_id).await.is_err() {
            // One that does not die is gone with the container.
            let _ = timeout(DYING, put_away(self.shim, self.exec_id)).await;
        }
        let took = i64::try_from(began.elapsed().as_nanos()).unwrap_or(0);
        let ended_unix_ns = started_unix_ns.saturating_add(took);
        Some(Probed { started_unix_ns, ended_unix_ns, exit_code, output: said })
    }

    async fn ask<T>(&self, turn: T, output: &mut Output) -> Result<i32, Error> {
        let name = || self.record.name.clone();
        let failed = |source| Error::Shim { name: name(), source };
        let args = self.check.command().unwrap_or_default();
        let request = ExecRequest { args, ..ExecRequest::default() };
        let start = async {
            let json = exec_process(self.record, &request).await?;
            self.shim.exec(self.exec_id, json, false, false, true).await.map_err(failed)?;
            self.shim.start(self.exec_id).await.map_err(|source| match source.is_lost() {
                true => Error::Shim { name: name(), source },
                false => Error::Exec { name: name(), source },
            })
        };
        with_turn(turn, start).await?;
        let read = async {
            let mut offset = 0;
            loop {
                let answer = self.shim.read_output(self.exec_id, offset, None).await?;
                answer.chunks.iter().for_each(|chunk| output.take(&chunk.data));
                offset = answer.next_offset;
                if answer.eof {
                    return Ok::<(), ShimError>(());
                }
            }
        };
        let mut read = std::pin::pin!(read);
        let mut exit = std::pin::pin!(self.shim.wait_exit(self.exec_id));
        let record = tokio::select! {
            exit = &mut exit => {
                // Something that it left behind may hold the pipe open: that is not waited for.
                let _ = timeout(DRAIN_LIMIT, &mut read).await;
                exit
            }
            _ = &mut read => exit.await,
        };
        let record = record.map_err(failed)?;
        Ok(i32::try_from(record.exit_code).unwrap_or(NO_CODE))
    }
}

/// Does `work`; the turn is given back after it, or when it takes too long.
async fn with_turn<T, R>(turn: T, work: impl Future<Output = R>) -> R {
    let mut work = std::pin::pin!(work);
    match timeout(TURN_LIMIT, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            drop(turn);
            work.await
        }
    }
}

/// Kills a probe, with all that it started in its session, and takes it away, in a task of its own.
pub(super) fn put_away(shim: &Shim, exec_id: &str) -> tokio::task::JoinHandle<()> {
    let (shim, exec_id) = (shim.clone(), exec_id.to_owned());
    // Ends with the probe, or with the shim's connection.
    tokio::spawn(async move {
        // One that has ended can't be killed.
        let _ = shim.kill_session(&exec_id, libc::SIGKILL).await;
        if shim.exec_state(&exec_id).await.is_ok_and(|state| state.pid != 0) {
            let _ = shim.wait_exit(&exec_id).await;
        }
        if let Err(error) = shim.delete(&exec_id).await {
            tracing::debug!(exec = exec_id, error = fault::chain(&error), "probe is gone");
        }
    })
}

/// The beginning of what a probe writes; the rest is read and thrown away.
#[derive(Debug, Default)]
struct Output {
    kept: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn take(&mut self, data: &[u8]) {
        let room = MAX_OUTPUT - self.kept.len();
        self.kept.extend_from_slice(&data[..data.len().min(room)]);
        self.is_cut |= data.len() > room;
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        if self.is_cut { format!("{text}...") } else { text.into_owned() }
    }
}

fn cut(text: &str) -> String {
    let mut output = Output::default();
    output.take(text.as_bytes());
    output.text()
}

/// As Go writes it, for round times: "1m30s", "500ms".
fn shown(time: Duration) -> String {
    let (minutes, seconds) = (time.as_secs() / 60, time.as_secs() % 60);
    match (minutes, seconds, time.subsec_millis()) {
        (0, 0, ms) => format!("{ms}ms"),
        (0, s, 0) => format!("{s}s"),
        (0, s, ms) => format!("{s}.{ms:03}s"),
        (m, s, _) if m < 60 => format!("{m}m{s}s"),
        (m, s, _) => format!("{}h{}m{s}s", m / 60, m % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MAX_OUTPUT, Output, is_probe, shown};

    #[test]
    fn output_is_bounded() {
        let mut output = Output::default();
        output.take(&[b'a'; MAX_OUTPUT - 1]);
        output.take(b"b");
        assert_eq!(output.text().len(), MAX_OUTPUT);
        for _ in 0..1000 {
            output.take(&[b'c'; 1 << 16]);
        }
        assert_eq!(output.text(), format!("{}b...", "a".repeat(MAX_OUTPUT - 1)));
        assert!(is_probe("health-00") && !is_probe("00"));
    }

    #[test]
    fn times_as_go_writes_them() {
        for (ms, text) in [
            (30_000, "30s"),
            (500, "500ms"),
            (1500, "1.500s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(shown(Duration::from_millis(ms)), text);
        }
    }
}
