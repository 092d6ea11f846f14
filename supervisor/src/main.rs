//! wharfd: parses flags, starts logging, runs the daemon.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::Parser;
use wharf_supervisor::{
    config::{Config, LogFormat, Overrides},
    daemon, fault,
};

/// Container supervisor: serves the wharf.v1 API over gRPC.
///
/// Containers run on when it ends, crashes or is upgraded.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  wharfd                                     serve on /run/wharf/wharfd.sock
  wharfd --root /srv/w --state /run/w        a second supervisor, with folders of its own
  wharf run --rm IMAGE COMMAND               what to do next

Every key of the configuration is in docs/config.md."
)]
struct Flags {
    /// Configuration in TOML [default: /etc/wharf/config.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "WHARF_CONFIG")]
    config: Option<PathBuf>,
    /// Folder for what survives a reboot [default: /var/lib/wharf]
    #[arg(long, value_name = "DIR", env = "WHARF_ROOT")]
    root: Option<PathBuf>,
    /// Folder for what ends with the host [default: /run/wharf]
    #[arg(long, value_name = "DIR", env = "WHARF_STATE")]
    state: Option<PathBuf>,
    /// unix:PATH or tcp:ADDRESS:PORT [default: unix:<state>/wharfd.sock]
    #[arg(long, value_name = "ADDRESS", env = "WHARF_ADDRESS")]
    address: Option<String>,
    /// error, warn, info, debug, trace, or per module as RUST_LOG has it [default: info]
    #[arg(long, value_name = "LEVEL", env = "WHARF_LOG_LEVEL")]
    log_level: Option<String>,
    /// The shim's program [default: beside wharfd, else in PATH]
    #[arg(long, value_name = "FILE", env = "WHARF_SHIM")]
    shim: Option<PathBuf>,
    /// Read all that is kept, say what is wrong with it, and end: 1 if anything is
    #[arg(long)]
    check: bool,
    /// With --check: set aside what can't be understood, take away what is nobody's
    #[arg(long, requires = "check")]
    repair: bool,
    /// Make the metadata from a backup (`wharf system backup`, <root>/meta.last.backup), and end
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    restore: Option<PathBuf>,
    /// Say what this program is to a wharfd that is to be replaced by it
    #[arg(long, hide = true)]
    handover_version: bool,
}

#[expect(clippy::print_stdout, reason = "the answer to a flag")]
pub(crate) fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.handover_version {
        println!("{}", daemon::identity());
        return ExitCode::SUCCESS;
    }
    let (check, repair, restore) = (flags.check, flags.repair, flags.restore);
    let overrides = Overrides {
        file: flags.config,
        root: flags.root,
        state: flags.state,
        address: flags.address,
        log_level: flags.log_level,
        shim: flags.shim,
    };
    let config = match Config::load(overrides) {
        Ok(config) => config,
        Err(error) => return complain(&error),
    };
    start_log(&config);
    if check {
        return match daemon::check(&config, repair, &mut |line| println!("{line}")) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => complain(&error),
        };
    }
    if let Some(backup) = restore {
        return match daemon::restore(&config, &backup) {
            Ok(records) => {
                println!("{records} records restored");
                ExitCode::SUCCESS
            }
            Err(error) => complain(&error),
        };
    }
    match daemon::main(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

fn start_log(config: &Config) {
    let level = &config.log_level;
    // A plain level is meant for Wharf; what it is built of speaks up when it warns.
    let plain = level.bytes().all(|b| b.is_ascii_alphabetic());
    let filter = if plain { format!("warn,wharf_supervisor={level}") } else { level.clone() };
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

#[expect(clippy::print_stderr, reason = "the log is not there yet, or nobody reads it")]
fn complain(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("wharfd: {}", fault::chain(error));
    ExitCode::FAILURE
}
