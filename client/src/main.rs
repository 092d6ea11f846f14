//! `wharf`: the command line of Wharf.
//!
//! Everything is in `cli`; the library beside it knows nothing of a command line.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
