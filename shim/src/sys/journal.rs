//! The shim's own log, `shim.log` in the bundle, through standard error.
//!
//! One line an event: time, level, a fixed message, then fields. Not `tracing`: its subscriber
//! alone would cost a tenth of the shim's memory budget.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use super::clock;
use crate::logic::timestamp::rfc3339;

static DEBUG: AtomicBool = AtomicBool::new(false);

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// A step.
    Debug,
    /// A state changed.
    Info,
    /// Degraded.
    Warn,
    /// Someone must act.
    Error,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Lets debug lines through.
pub(crate) fn enable_debug() {
    DEBUG.store(true, Ordering::Relaxed);
}

/// Are debug lines let through?
pub(crate) fn is_debug() -> bool {
    DEBUG.load(Ordering::Relaxed)
}

/// Writes one line. A full disk loses it: the container matters more.
pub(crate) fn write(level: Level, message: &str, fields: &[(&str, &dyn std::fmt::Display)]) {
    if level == Level::Debug && !DEBUG.load(Ordering::Relaxed) {
        return;
    }
    let time = rfc3339(clock::unix_ns());
    let mut line = String::from_utf8_lossy(&time).into_owned();
    let _ = write!(line, " {} {message}", level.name());
    for (name, value) in fields {
        let value = value.to_string();
        let _ = if value.contains([' ', '"', '\n']) {
            write!(line, " {name}={value:?}")
        } else {
            write!(line, " {name}={value}")
        };
    }
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// An error and its causes in one text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
