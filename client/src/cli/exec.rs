//! `exec`.

use anyhow::{Context as _, Result};
use wharf_client::{SessionEvent, v1::ExecStart};

use crate::cli::{
    context::Context,
    interact::{self, Caller, Options, Signals},
    output,
    parse::{env, keys},
    terminal,
};

/// Run a command in a running container
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "wharf exec [OPTIONS] CONTAINER COMMAND [ARG...]",
    after_help = "The exit code is the command's; 125: Wharf failed; 126: the command can't be executed; 127: it \
                  was not found.

Examples:
  wharf exec web ls /etc
  wharf exec -it web sh
  wharf exec -d -e DEBUG=1 web /bin/job"
)]
pub(crate) struct ExecArgs {
    /// Leave it in the background
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Environment NAME=VALUE, or NAME to take it from here (repeatable)
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File of environment, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User name or id, and group: USER[:GROUP]
    #[arg(short, long)]
    user: Option<String>,
    /// Keys that leave the command running and end this program; "" for none
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT)]
    detach_keys: String,
    /// Container (name, id or unique beginning of an id), then the command
    #[arg(
        required = true, num_args = 2.., trailing_var_arg = true,
        value_name = "CONTAINER COMMAND [ARG]"
    )]
    pub(crate) command: Vec<String>,
}

pub(crate) async fn exec(context: &Context, args: ExecArgs) -> Result<u8> {
    let detach_keys = keys::sequence(&args.detach_keys)?;
    let stdin = args.interactive && !args.detach;
    terminal::require(args.tty, stdin)?;
    let (container, command) = args.command.split_first().context("the container is missing")?;
    let start = ExecStart {
        container: container.clone(),
        args: command.to_vec(),
        env: env::environment(&args.env_file, &args.env, |name| std::env::var_os(name))?,
        working_dir: args.workdir.unwrap_or_default(),
        user: args.user.unwrap_or_default(),
        tty: args.tty,
        open_stdin: stdin,
        detach: args.detach,
        window: interact::window(args.tty),
        ..ExecStart::default()
    };
    let client = context.client().await?;
    if args.detach {
        let mut session = client.exec(start).await?;
        while let Some(event) = session.next().await? {
            if let SessionEvent::Started { exec_id, .. } = event {
                output::print_line(&exec_id)?;
                break;
            }
        }
        return Ok(0);
    }
    let caller = Caller::prepare(Options {
        tty: args.tty,
        stdin,
        detach_keys,
        signals: if args.tty { Signals::EndUs } else { Signals::ToExec },
    })?;
    let session = client.exec(start).await?;
    Ok(caller.run(&client, session).await?.code())
}
