//! `attach`, and `start`, which may attach too.

use anyhow::{Result, bail};
use wharf_client::v1::{AttachStart, ContainerState, WindowSize, attach_start};

use crate::cli::{
    context::Context,
    human,
    interact::{Caller, Options, Signals},
    lifecycle::each,
    parse::keys,
    run, terminal,
};

/// Attach to a running container
///
/// Output begins with what is written from now on; `wharf logs` has what was before.
#[derive(Debug, clap::Args)]
#[command(after_help = "The exit code is the container's, or 0 after the detach keys.

Examples:
  wharf attach web
  wharf attach --no-stdin --sig-proxy=false web")]
pub(crate) struct AttachArgs {
    /// Do not attach to its standard input
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave the container running and end this program; "" for none
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT)]
    detach_keys: String,
    /// Pass signals on to the container, if it has no terminal
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set
    )]
    sig_proxy: bool,
    /// Name, id or unique beginning of an id
    container: String,
}

/// Start containers
#[derive(Debug, clap::Args)]
#[command(after_help = "With -a the exit code is the container's.

Examples:
  wharf start web db
  wharf start -ai shell")]
pub(crate) struct StartArgs {
    /// Attach to its output
    #[arg(short, long)]
    attach: bool,
    /// Attach to its standard input too
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave the container running and end this program; "" for none
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT)]
    detach_keys: String,
    /// Pass signals on to the container, if it has no terminal
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set
    )]
    sig_proxy: bool,
    /// Names, ids or unique beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn attach(context: &Context, args: AttachArgs) -> Result<u8> {
    let detach_keys = keys::sequence(&args.detach_keys)?;
    let client = context.client().await?;
    let container = client.container(&args.container).await?;
    match container.state() {
        ContainerState::Running | ContainerState::Unknown => {}
        ContainerState::Paused => bail!("container {} is paused", args.container),
        _ => bail!(
            "container {0} is not running ({1}): wharf start -a {0} starts it and attaches, wharf \
             logs {0} shows its output",
            args.container,
            human::state(&container)
        ),
    }
    let spec = container.spec.unwrap_or_default();
    let stdin = spec.open_stdin && !args.no_stdin;
    terminal::require(spec.tty, stdin)?;
    let caller = Caller::prepare(Options {
        tty: spec.tty,
        stdin,
        detach_keys,
        signals: match args.sig_proxy && !spec.tty {
            true => Signals::ToContainer(container.id.clone()),
            false => Signals::EndUs,
        },
    })?;
    let start = AttachStart {
        container: container.id.clone(),
        stdin,
        stdout: true,
        stderr: true,
        from: Some(attach_start::From::HistoryLines(0)),
        wait_for_start: false,
        ..AttachStart::default()
    };
    let session = client.attach(start).await?;
    if let Some(window) = crate::cli::interact::window(spec.tty) {
        // The program in it draws itself anew when the size changes, and only then.
        let other = WindowSize { height: window.height + 1, ..window };
        client.resize(&container.id, "", other).await?;
        client.resize(&container.id, "", window).await?;
    }
    let ended = caller.run(&client, session).await?;
    Ok(run::tell_of(&ended))
}

pub(crate) async fn start(context: &Context, args: StartArgs) -> Result<u8> {
    let detach_keys = keys::sequence(&args.detach_keys)?;
    let client = context.client().await?;
    if !args.attach && !args.interactive {
        return each(context, &args.containers, async |name: &str| {
            client.start_container(name, None).await?;
            Ok(name.to_owned())
        })
        .await;
    }
    let [name] = args.containers.as_slice() else {
        bail!("only one container can be started and attached to");
    };
    let container = client.container(name).await?;
    if matches!(container.state(), ContainerState::Running | ContainerState::Paused) {
        bail!("container {name} is running already: wharf attach {name} attaches to it");
    }
    let spec = container.spec.unwrap_or_default();
    let stdin = spec.open_stdin && args.interactive;
    terminal::require(spec.tty, stdin)?;
    let options = Options {
        tty: spec.tty,
        stdin,
        detach_keys,
        signals: match args.sig_proxy && !spec.tty {
            true => Signals::ToContainer(container.id.clone()),
            false => Signals::EndUs,
        },
    };
    let ended = run::start_attached(&client, &container.id, [stdin, true, true], options).await?;
    Ok(run::tell_of(&ended))
}
