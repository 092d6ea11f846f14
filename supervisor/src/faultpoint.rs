//! Places where a test makes the supervisor die, fail or hang: one between any two effects.
//!
//! Compiled to nothing unless the feature `fault` is on, which only the program `wharfd-fault` has
//! (`make test-faults`). A name says where: `start.bundle.written` is reached when a start's bundle
//! has been written. Names are constants, so that a test finds all of them by running once.
//!
//! | variable | means |
//! | --- | --- |
//! | `WHARF_FAULT` | what happens where: `point:mode[:nth]`, several with commas |
//! | `WHARF_FAULT_FILE` | a file with the same in it, read at each point: a test arms a daemon that runs |
//! | `WHARF_FAULT_TRACE` | a file that each point that is reached is written to: `name<TAB>kind` |
//!
//! Modes: `abort` (SIGKILL, nothing is flushed or undone), `error` (the step fails as the disk would;
//! only where the point can: kind `step`), `delay` or `delay=MILLISECONDS`. `nth` is the visit at
//! which it happens, 1 if not said, counted from when it was armed; `*` is at each.

use std::io;

/// A place that can only die or wait.
#[inline]
pub async fn reach(name: &'static str) {
    #[cfg(feature = "fault")]
    if let Some(active::Fault::Delay(time)) = active::visit(name, "place") {
        tokio::time::sleep(time).await;
    }
    let _ = name;
}

/// [`reach`] on a thread that may block.
#[inline]
pub fn reach_blocking(name: &'static str) {
    #[cfg(feature = "fault")]
    if let Some(active::Fault::Delay(time)) = active::visit(name, "place") {
        std::thread::sleep(time);
    }
    let _ = name;
}

/// The beginning of a step that can fail.
///
/// # Errors
/// When a test says so.
#[inline]
pub async fn step(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "fault")]
    match active::visit(name, "step") {
        None => {}
        Some(active::Fault::Delay(time)) => tokio::time::sleep(time).await,
        Some(active::Fault::Error) => return Err(active::error(name)),
    }
    let _ = name;
    Ok(())
}

/// [`step`] on a thread that may block.
///
/// # Errors
/// As [`step`].
#[inline]
pub fn step_blocking(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "fault")]
    match active::visit(name, "step") {
        None => {}
        Some(active::Fault::Delay(time)) => std::thread::sleep(time),
        Some(active::Fault::Error) => return Err(active::error(name)),
    }
    let _ = name;
    Ok(())
}

#[cfg(feature = "fault")]
mod active {
    use std::{
        collections::HashMap,
        env, fs, io,
        io::Write as _,
        path::PathBuf,
        sync::{Mutex, OnceLock, PoisonError},
        time::Duration,
    };

    const DEFAULT_DELAY: Duration = Duration::from_millis(200);

    pub(super) enum Fault {
        Delay(Duration),
        Error,
    }

    #[derive(Default)]
    struct State {
        armed: String,
        visits: HashMap<&'static str, u64>,
    }

    struct Settings {
        fixed: String,
        file: Option<PathBuf>,
        trace: Option<PathBuf>,
    }

    fn settings() -> &'static Settings {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        SETTINGS.get_or_init(|| Settings {
            fixed: env::var("WHARF_FAULT").unwrap_or_default(),
            file: env::var_os("WHARF_FAULT_FILE").map(Into::into),
            trace: env::var_os("WHARF_FAULT_TRACE").map(Into::into),
        })
    }

    pub(super) fn error(name: &str) -> io::Error {
        io::Error::other(format!("fault point {name}"))
    }

    pub(super) fn visit(name: &'static str, kind: &str) -> Option<Fault> {
        let settings = settings();
        if let Some(trace) = &settings.trace {
            let line = format!("{name}\t{kind}\n");
            // A trace that can't be written fails the test that reads it.
            let _ = fs::File::options()
                .create(true)
                .append(true)
                .open(trace)
                .and_then(|mut file| file.write_all(line.as_bytes()));
        }
        let armed = match &settings.file {
            Some(file) => fs::read_to_string(file).unwrap_or_default(),
            None => settings.fixed.clone(),
        };
        let visits = {
            static STATE: OnceLock<Mutex<State>> = OnceLock::new();
            let mut state =
                STATE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
            if state.armed != armed {
                *state = State { armed: armed.clone(), visits: HashMap::new() };
            }
            let visits = state.visits.entry(name).or_default();
            *visits += 1;
            *visits
        };
        armed.trim().split(',').find_map(|one| fault(one, name, visits))
    }

    fn fault(armed: &str, name: &str, visits: u64) -> Option<Fault> {
        let mut parts = armed.split(':');
        if parts.next() != Some(name) {
            return None;
        }
        let mode = parts.next().unwrap_or("abort");
        let due = match parts.next() {
            None => visits == 1,
            Some("*") => true,
            Some(nth) => nth.parse() == Ok(visits),
        };
        if !due {
            return None;
        }
        tracing::warn!(point = name, mode, "fault point");
        match mode.split_once('=') {
            None if mode == "abort" => die(),
            None if mode == "error" => Some(Fault::Error),
            Some(("delay", ms)) => ms.parse().ok().map(Duration::from_millis).map(Fault::Delay),
            _ => Some(Fault::Delay(DEFAULT_DELAY)),
        }
    }

    /// As a power cut would, as far as a process can: no destructor, no handler.
    fn die() -> ! {
        let me = nix::unistd::Pid::this();
        let _ = nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }
}
