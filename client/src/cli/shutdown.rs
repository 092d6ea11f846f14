//! `system shutdown`.

use anyhow::{Context as _, Result};

use crate::cli::{context::Context, output, parse::time};

/// Stop all containers, as before the host goes down
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The newest is stopped first, each by its stop signal and timeout. wharfd starts none from then
on; when it is started again, or the host is, those with a restart policy are.

Examples:
  wharf system shutdown
  wharf system shutdown --timeout 1m"
)]
pub(crate) struct ShutdownArgs {
    /// For all of them together, before they are killed; as wharfd is configured (15s) unless given
    #[arg(short, long, value_name = "DURATION")]
    timeout: Option<String>,
}

pub(crate) async fn shutdown(context: &Context, args: ShutdownArgs) -> Result<u8> {
    let timeout = args.timeout.as_deref().map(time::duration).transpose().context("--timeout")?;
    let done = context.client().await?.shut_down(timeout).await?;
    for name in &done.stopped {
        output::print_line(name)?;
    }
    for name in &done.left {
        output::complain(&format!("not ended: {name}"));
    }
    Ok(u8::from(!done.left.is_empty()))
}
