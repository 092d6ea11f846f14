//! Verbs on containers that are there: stop, restart, kill, pause, wait, rm, rename, update.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use wharf_client::{
    Kind,
    v1::{LabelSet, UpdateContainerRequest},
};

use crate::cli::{context::Context, explain, output, parse::time, spec::ResourceArgs};

/// Does something to each of several things, one after the other, printing what it answers. A
/// failure is told and does not keep the others from their turn.
pub(crate) async fn each(
    context: &Context,
    names: &[String],
    act: impl AsyncFn(&str) -> Result<String>,
) -> Result<u8> {
    let mut failed = false;
    for name in names {
        match act(name).await {
            Ok(text) if text.is_empty() => {}
            Ok(text) => output::print_line(&text)?,
            // Nobody listens: so it will be for all the others.
            Err(error)
                if matches!(
                    explain::client_error(&error),
                    Some(wharf_client::Error::Connect { .. })
                ) =>
            {
                return Err(error);
            }
            Err(error) => {
                failed = true;
                explain::tell(&error, &explain::hints(context, &error).await);
            }
        }
    }
    Ok(u8::from(failed))
}

/// Stop containers: the stop signal, then SIGKILL
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf stop web
  wharf stop -t 30 --signal INT web db")]
pub(crate) struct StopArgs {
    /// Time until SIGKILL: 30, 1m (the container's own if not given)
    #[arg(
        short = 't',
        long,
        alias = "timeout",
        value_name = "DURATION",
        allow_hyphen_values = true
    )]
    time: Option<String>,
    /// Signal to send in place of the container's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Restart containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf restart web
  wharf restart -t 1 web")]
pub(crate) struct RestartArgs {
    /// Time until SIGKILL: 30, 1m (the container's own if not given)
    #[arg(
        short = 't',
        long,
        alias = "timeout",
        value_name = "DURATION",
        allow_hyphen_values = true
    )]
    time: Option<String>,
    /// Signal to send in place of the container's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Send a signal to containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf kill web
  wharf kill -s HUP web")]
pub(crate) struct KillArgs {
    /// Signal, by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Freeze all processes of containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  wharf pause web")]
pub(crate) struct PauseArgs {
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Let paused containers go on
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  wharf unpause web")]
pub(crate) struct UnpauseArgs {
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Wait until containers stop, and print their exit codes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf wait web
  wharf wait --removed one two")]
pub(crate) struct WaitArgs {
    /// Wait until they are removed
    #[arg(long)]
    removed: bool,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Remove containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf rm old
  wharf rm -f web
  wharf rm $(wharf ps -aq --filter status=exited)")]
pub(crate) struct RmArgs {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// Also their volumes that have no name
    #[arg(short, long)]
    volumes: bool,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Give a container another name
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  wharf rename web web-old")]
pub(crate) struct RenameArgs {
    /// Name, id or unique beginning of an id
    container: String,
    /// Its new name
    name: String,
}

/// Change the limits, labels or restart policy of containers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf update -m 512m --cpus 2 web
  wharf update --label team=a --label-rm old web
  wharf update --restart unless-stopped web")]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    limits: ResourceArgs,
    /// When it has ended: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Set a label NAME=VALUE (repeatable)
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Remove a label (repeatable)
    #[arg(long, value_name = "NAME")]
    label_rm: Vec<String>,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// None for the container's own; -1 is Docker's word for "never kill it".
fn stop_time(given: Option<&str>) -> Result<Option<Duration>> {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);
    match given {
        None => Ok(None),
        Some("-1") => Ok(Some(NEVER)),
        Some(given) => time::duration(given).context("--time").map(Some),
    }
}

pub(crate) async fn stop(context: &Context, args: StopArgs) -> Result<u8> {
    let time = stop_time(args.time.as_deref())?;
    let signal = args.signal.unwrap_or_default();
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        client.stop_container(name, time, &signal).await?;
        Ok(name.to_owned())
    })
    .await
}

pub(crate) async fn restart(context: &Context, args: RestartArgs) -> Result<u8> {
    let time = stop_time(args.time.as_deref())?;
    let signal = args.signal.unwrap_or_default();
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        client.restart_container(name, time, &signal).await?;
        Ok(name.to_owned())
    })
    .await
}

pub(crate) async fn kill(context: &Context, args: KillArgs) -> Result<u8> {
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        client.kill_container(name, &args.signal).await?;
        Ok(name.to_owned())
    })
    .await
}

pub(crate) async fn pause(context: &Context, args: PauseArgs) -> Result<u8> {
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        client.pause_container(name).await?;
        Ok(name.to_owned())
    })
    .await
}

pub(crate) async fn unpause(context: &Context, args: UnpauseArgs) -> Result<u8> {
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        client.resume_container(name).await?;
        Ok(name.to_owned())
    })
    .await
}

pub(crate) async fn wait(context: &Context, args: WaitArgs) -> Result<u8> {
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        let exit = client.wait_container(name, args.removed).await?;
        Ok(exit.map_or(0, |exit| exit.exit_code).to_string())
    })
    .await
}

pub(crate) async fn rm(context: &Context, args: RmArgs) -> Result<u8> {
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        match client.delete_container(name, args.force, args.volumes).await {
            // What shall be gone is gone: told, as Docker does, and no failure.
            Err(error) if args.force && error.kind() == Kind::NotFound => {
                output::complain(&format!("wharf: {error}"));
                Ok(String::new())
            }
            other => Ok(other.map(|()| name.to_owned())?),
        }
    })
    .await
}

pub(crate) async fn rename(context: &Context, args: RenameArgs) -> Result<u8> {
    let client = context.client().await?;
    let request = UpdateContainerRequest {
        container: args.container,
        name: Some(args.name),
        ..UpdateContainerRequest::default()
    };
    client.update_container(request).await?;
    Ok(0)
}

pub(crate) async fn update(context: &Context, args: UpdateArgs) -> Result<u8> {
    let resources = args.limits.resources()?;
    let new = crate::cli::parse::env::labels(&[], &args.label)?;
    if resources.is_none() && new.is_empty() && args.label_rm.is_empty() && args.restart.is_none() {
        bail!(
            "nothing to change: give a limit, a label or a restart policy (see wharf update --help)"
        );
    }
    let client = context.client().await?;
    each(context, &args.containers, async |name: &str| {
        let mut request = UpdateContainerRequest {
            container: name.to_owned(),
            resources: resources.clone(),
            restart: args.restart.clone(),
            ..UpdateContainerRequest::default()
        };
        if !new.is_empty() || !args.label_rm.is_empty() {
            // All labels are replaced: refused if somebody else changes them in between.
            let now = client.container(name).await?;
            let mut labels = now.spec.unwrap_or_default().labels;
            labels.retain(|label, _| !args.label_rm.contains(label));
            labels.extend(new.clone());
            request.labels = Some(LabelSet { labels });
            request.if_revision = now.revision;
        }
        client.update_container(request).await?;
        Ok(name.to_owned())
    })
    .await
}
