//! `system upgrade`.

use anyhow::{Context as _, Result};
use wharf_client::UpgradeEvent;

use crate::cli::{context::Context, output};

/// Replace the running supervisor, with no failed call and no broken stream
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf system upgrade                           the file that it was started from, replaced meanwhile
  wharf system upgrade --binary /opt/w2/wharfd   another one

If the new one does not come up, the old one serves on. SIGHUP does the same as the first.")]
pub(crate) struct UpgradeArgs {
    /// The new wharfd, on the supervisor's host
    #[arg(long, value_name = "PATH")]
    binary: Option<String>,
    /// Print only the new supervisor's pid
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn upgrade(context: &Context, args: UpgradeArgs) -> Result<u8> {
    let binary = match args.binary {
        None => String::new(),
        // Relative to here; over TCP it is the server's word that counts.
        Some(path) => {
            let path = std::path::absolute(&path).with_context(|| format!("--binary {path}"))?;
            path.display().to_string()
        }
    };
    let client = context.client().await?;
    let mut upgrade = client.upgrade(&binary).await?;
    while let Some(event) = upgrade.next().await? {
        match event {
            UpgradeEvent::Progress(step) if !args.quiet => output::complain(&step.message),
            UpgradeEvent::Progress(_) => {}
            UpgradeEvent::Done(done) if args.quiet => output::print_line(&done.pid.to_string())?,
            UpgradeEvent::Done(done) => output::print_line(&format!(
                "wharfd {} (pid {}) has taken over from {} (pid {})",
                done.version, done.pid, done.old_version, done.old_pid
            ))?,
        }
    }
    Ok(0)
}
