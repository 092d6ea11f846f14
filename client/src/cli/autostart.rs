//! `--autostart`: starts `wharfd`, detached, and waits until it answers.
//!
//! The program re-executes itself for that: a child that calls setsid and then becomes wharfd needs
//! no code between fork and exec.

use std::{
    fs::{File, OpenOptions},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use wharf_client::{Client, Error};

use crate::cli::{debug::debug, output};

/// Argument zero of the child that becomes wharfd.
const DAEMON: &str = "wharf-becomes-daemon";
const START_LIMIT: Duration = Duration::from_secs(15);
/// For one that was started by somebody else.
const OTHERS_LIMIT: Duration = Duration::from_secs(1);
const LOGS: [&str; 2] = ["/var/log/wharfd.log", "/run/wharfd.log"];

/// In the child: leaves the caller's session and becomes the program in the arguments. None in
/// every other process.
pub(crate) fn become_daemon() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    if args.next()? != DAEMON {
        return None;
    }
    let program = args.next()?;
    // Fails only for the leader of a process group, which a child just forked is not.
    let _ = rustix::process::setsid();
    let error = Command::new(&program).args(args).exec();
    output::complain(&format!("wharf: start {}: {error}", program.display()));
    Some(ExitCode::FAILURE)
}

/// Starts a supervisor if none answers.
pub(crate) async fn ensure(client: &Client) -> Result<()> {
    match client.version().await {
        Err(Error::Connect { source, .. })
            if source.kind() != std::io::ErrorKind::PermissionDenied => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Ok(()),
    }
    if !rustix::process::geteuid().is_root() {
        bail!("--autostart needs root: wharfd is started as root only");
    }
    let wharfd = find()?;
    let (log_path, log) = open_log()?;
    output::complain(&format!("Starting {} (its log is {})", wharfd.display(), log_path.display()));
    let from = log.metadata().map_or(0, |meta| meta.len());
    let mut child = Command::new("/proc/self/exe")
        .arg0(DAEMON)
        .arg(&wharfd)
        .args(["--address", &client.address().to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start wharfd")?;
    let started_at = Instant::now();
    let mut ended_at = None;
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        match client.version().await {
            Ok(version) => {
                debug!("wharfd {} after {} ms", version.version, started_at.elapsed().as_millis());
                return Ok(());
            }
            Err(Error::Connect { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = child.try_wait()? {
            // Refused because another one was started at the same moment? Then that one answers.
            let ended_at = *ended_at.get_or_insert_with(Instant::now);
            if ended_at.elapsed() < OTHERS_LIMIT {
                continue;
            }
            let said = tail(&log_path, from);
            bail!("wharfd ended at once ({status}); its log says:\n{said}");
        }
        if started_at.elapsed() > START_LIMIT {
            bail!(
                "wharfd (pid {}) does not answer at {} after {} s; see {}",
                child.id(),
                client.address(),
                START_LIMIT.as_secs(),
                log_path.display()
            );
        }
    }
}

/// Beside this program, then in PATH.
fn find() -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("wharfd")));
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&in_path).map(|folder| folder.join("wharfd"));
    match beside.into_iter().chain(in_path).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("wharfd is neither beside the program wharf nor in PATH"),
    }
}

fn open_log() -> Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let mut last = None;
    for path in LOGS {
        match options.open(path) {
            Ok(file) => return Ok((path.into(), file)),
            Err(error) => last = Some((path, error)),
        }
    }
    match last {
        Some((path, error)) => Err(error).with_context(|| format!("open {path} for wharfd's log")),
        None => bail!("no place for wharfd's log"),
    }
}

/// The last lines that were written after an offset.
fn tail(log: &Path, from: u64) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(0).min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[from..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
