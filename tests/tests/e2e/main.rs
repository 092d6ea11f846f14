//! End to end: the real binaries, driven through the API and the command line.
//!
//! One file a subject, one program for all, so that it is linked once. Every test has a world of its
//! own and ends with `World::finish`, which checks that nothing is left behind.

#![forbid(unsafe_code)]

mod adopt;
mod care;
mod cli;
mod cli_terminal;
mod commit;
mod daemon;
mod errors;
mod events;
mod exec;
mod figures;
mod files;
mod foreign;
mod freeze;
mod harness;
mod health;
mod image_spec;
mod images;
mod isolation;
mod life;
mod limits;
mod listing;
mod logs;
mod native;
mod overload;
mod prune;
mod python;
mod registry;
mod requests;
mod restart;
mod restarts;
mod scale;
mod seccomp;
mod shutdown;
mod soak;
mod stdio;
mod tls;
mod upgrade;
mod user_namespace;
mod volumes;

use anyhow::{Result, bail};
use tonic::{Code, Status};

/// The refusal that a call must end with.
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code) -> Result<Status> {
    match result {
        Err(status) if status.code() == code => Ok(status),
        other => bail!("{code:?} was expected: {other:?}"),
    }
}

/// The numbers of a counter's lines must go from 1 up with none missing and none twice.
fn no_gap(text: &str) -> Result<u64> {
    let mut last = 0;
    for line in text.lines() {
        let number: u64 = line.parse().map_err(|_| anyhow::anyhow!("not a number: {line:?}"))?;
        if number != last + 1 {
            bail!("{number} follows {last}");
        }
        last = number;
    }
    Ok(last)
}
