//! `run` and `create`.

use std::{fs::File, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use wharf_client::{
    Client, Kind,
    v1::{AttachStart, Container, ContainerSpec, attach_start},
};

use crate::cli::{
    context::Context,
    explain,
    interact::{self, Caller, Ended, Options, Signals},
    output,
    parse::keys,
    pull::{self, Say},
    spec::{PullWhen, SpecArgs},
    terminal,
};

/// Run a command in a new container
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "wharf run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "The exit code is the container's; 125: Wharf failed; 126: the command can't be executed; 127: it \
                  was not found.

Examples:
  wharf run --rm busybox echo hello
  wharf run -it --rm busybox sh
  wharf run -d --name web -m 256m --cpus 0.5 -v /srv/www:/www:ro app
  echo hello | wharf run -i --rm busybox cat"
)]
pub(crate) struct RunArgs {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it has stopped
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    /// Keys that leave the container running and end this program; "" for none
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT, help_heading = "Standard streams")]
    detach_keys: String,
    /// Pass signals on to the container (without -t)
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = clap::ArgAction::Set,
        help_heading = "Standard streams"
    )]
    sig_proxy: bool,
    #[command(flatten)]
    pub(crate) container: SpecArgs,
}

/// Create a container and do not start it
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "wharf create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Examples:
  wharf create --name once -it busybox sh
  wharf start -ai once"
)]
pub(crate) struct CreateArgs {
    /// Remove the container when it has stopped
    #[arg(long = "rm")]
    remove: bool,
    #[command(flatten)]
    container: SpecArgs,
}

pub(crate) async fn run(context: &Context, args: RunArgs) -> Result<u8> {
    let RunArgs { detach, remove, detach_keys, sig_proxy, container: args } = args;
    let detach_keys = keys::sequence(&detach_keys)?;
    if detach && !args.attach.is_empty() {
        bail!("-d and -a exclude each other");
    }
    let (stdin, stdout, stderr) = args.attached();
    terminal::require(args.tty, stdin && !detach)?;
    let mut spec = args.spec()?;
    spec.auto_remove = remove;
    spec.stdin_once = closes_stdin(&args, stdin && !detach);
    let cidfile = CidFile::open(args.cidfile.as_deref())?;
    let client = context.client().await?;
    if detach {
        let container = with_image(context, &client, &args, &spec, async |spec| {
            client.run_container(spec, None).await
        });
        let container = container.await?;
        cidfile.fill(&container.id)?;
        output::print_line(&container.id)?;
        return Ok(0);
    }
    let create = async |spec| client.create_container(spec).await;
    let container = with_image(context, &client, &args, &spec, create).await?;
    cidfile.fill(&container.id)?;
    let id = container.id;
    let options = Options {
        tty: args.tty,
        stdin,
        detach_keys,
        signals: match sig_proxy && !args.tty {
            true => Signals::ToContainer(id.clone()),
            false => Signals::EndUs,
        },
    };
    let ended = start_attached(&client, &id, [stdin, stdout, stderr], options).await;
    let over = match &ended {
        Ok(ended) => matches!(ended, Ended::Exited(_)),
        // It could not be started. Other failures are ours: it may well run.
        Err(error) => explain::refusal(error).is_some_and(|refusal| refusal.call == "Start"),
    };
    if remove && over {
        // So that its name is free when we are gone. Being gone already is an answer too.
        let gone = client.wait_container(&id, true);
        let _ = tokio::time::timeout(REMOVAL_LIMIT, gone).await;
    }
    Ok(tell_of(&ended?))
}

const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// Attaches first and starts then, so that nothing is missed of a container that is quick, and
/// removed when it has stopped. The server has taken up the attach once it has begun to answer.
pub(crate) async fn start_attached(
    client: &Client,
    id: &str,
    [stdin, stdout, stderr]: [bool; 3],
    options: Options,
) -> Result<Ended> {
    let start = AttachStart {
        container: id.to_owned(),
        stdin,
        stdout,
        stderr,
        from: Some(attach_start::From::HistoryLines(-1)),
        wait_for_start: true,
        ..AttachStart::default()
    };
    let mut session = client.attach(start).await?;
    let window = interact::window(options.tty);
    let caller = Caller::prepare(options)?;
    client.start_container(id, window).await?;
    session.has_started();
    caller.run(client, session).await
}

/// Says what an exit code alone does not, and gives the code.
pub(crate) fn tell_of(ended: &Ended) -> u8 {
    if let Ended::Exited(exit) = ended
        && exit.oom_killed
    {
        output::complain("wharf: the container was killed: it used more memory than its limit");
    } else if let Ended::Exited(exit) = ended
        && exit.reason == "lost"
    {
        output::complain("wharf: the container's exit code was lost");
    }
    ended.code()
}

pub(crate) async fn create(context: &Context, args: CreateArgs) -> Result<u8> {
    let CreateArgs { remove, container: args } = args;
    let mut spec = args.spec()?;
    spec.auto_remove = remove;
    spec.stdin_once = closes_stdin(&args, args.attached().0);
    let cidfile = CidFile::open(args.cidfile.as_deref())?;
    let client = context.client().await?;
    let create = async |spec| client.create_container(spec).await;
    let container = with_image(context, &client, &args, &spec, create).await?;
    cidfile.fill(&container.id)?;
    output::print_line(&container.id)?;
    Ok(0)
}

/// Whether stdin ends with us. A terminal outlives those who sit at it: that is what the detach keys
/// are for.
fn closes_stdin(args: &SpecArgs, attached: bool) -> bool {
    attached && !args.tty
}

/// Creates, and pulls the image when `--pull` says so.
async fn with_image(
    context: &Context,
    client: &Client,
    args: &SpecArgs,
    spec: &ContainerSpec,
    create: impl AsyncFn(ContainerSpec) -> Result<Container, wharf_client::Error>,
) -> Result<Container> {
    let say = if args.quiet { Say::Nothing } else { Say::OnStderr };
    let platform = args.platform.as_deref();
    if args.pull == PullWhen::Always {
        pull::fetch(client, args.image(), platform, say).await?;
        return Ok(create(spec.clone()).await?);
    }
    match create(spec.clone()).await {
        Err(error) if args.pull == PullWhen::Missing && is_image_missing(&error) => {
            if !args.quiet {
                let image = pull::with_tag(args.image());
                output::complain(&format!("Unable to find image '{image}' locally"));
            }
            if let Err(error) = pull::fetch(client, args.image(), platform, say).await {
                if let Some(hint) = explain::image_hint(context, args.image()).await {
                    output::complain(&hint);
                }
                return Err(error);
            }
            Ok(create(spec.clone()).await?)
        }
        other => Ok(other?),
    }
}

fn is_image_missing(error: &wharf_client::Error) -> bool {
    error.refusal().is_some_and(|refusal| {
        let of_image = |resource: &wharf_client::Resource| resource.kind == "image";
        refusal.kind == Kind::NotFound && refusal.details.resource.as_ref().is_some_and(of_image)
    })
}

/// `--cidfile`: taken before the container is created, and removed again if it never is.
struct CidFile<'a>(Option<(&'a Path, File)>);

impl<'a> CidFile<'a> {
    fn open(path: Option<&'a Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::create_new(path).with_context(|| {
            format!("create --cidfile {} (it must not be there yet)", path.display())
        })?;
        Ok(Self(Some((path, file))))
    }

    fn fill(mut self, id: &str) -> Result<()> {
        let Some((path, mut file)) = self.0.take() else { return Ok(()) };
        file.write_all(id.as_bytes()).with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for CidFile<'_> {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
