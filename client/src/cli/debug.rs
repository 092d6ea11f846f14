//! `--debug`: what the program does, on standard error.

use std::sync::atomic::{AtomicBool, Ordering};

static ON: AtomicBool = AtomicBool::new(false);

pub(crate) fn turn_on() {
    ON.store(true, Ordering::Relaxed);
}

pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

macro_rules! debug {
    ($($args:tt)*) => {
        if $crate::cli::debug::is_on() {
            // Lines end in CR LF: the terminal may be raw.
            $crate::cli::output::complain(&format!("debug: {}\r", format_args!($($args)*)));
        }
    };
}
pub(crate) use debug;
