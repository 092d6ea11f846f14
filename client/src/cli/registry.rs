//! `push`, `login`, `logout`, `search` and `tags`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use anyhow::{Context as _, Result, bail};
use rustix::termios::{self, LocalModes, OptionalActions};
use serde_json::{Map, Value, json};
use wharf_client::{
    Kind, PushEvent,
    v1::{Credentials, PushImageRequest},
};

use crate::cli::{
    context::Context,
    docker_config::{self, DockerConfig, HUB, Keeper},
    human,
    output::{self, Column, Format, List},
    pull::{ProgressView, Say, with_tag},
};

/// Push an image to a registry, under its own name
#[derive(Debug, clap::Args)]
#[command(after_help = "Credentials are Docker's: see wharf login.

Examples:
  wharf tag app:1 localhost:5000/team/app:1
  wharf push localhost:5000/team/app:1")]
pub(crate) struct PushArgs {
    /// Say nothing but the name
    #[arg(short, long)]
    quiet: bool,
    /// Push all of its tags that are here
    #[arg(short, long)]
    all_tags: bool,
    /// Reference: [REGISTRY/]NAME[:TAG]
    image: String,
}

/// Log in to a registry
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The credentials are kept where Docker keeps them: in ~/.docker/config.json (or that of
$DOCKER_CONFIG), or with the credential helper that it names.

Examples:
  wharf login
  wharf login -u me --password-stdin registry.example.com < token"
)]
pub(crate) struct LoginArgs {
    /// User name; asked for if not given
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password or personal token: others on this host can see it
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Take the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// HOST or HOST:PORT; Docker Hub if not given
    #[arg(default_value = HUB, hide_default_value = true)]
    server: String,
}

/// Log out of a registry
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// HOST or HOST:PORT; Docker Hub if not given
    #[arg(default_value = HUB, hide_default_value = true)]
    server: String,
}

/// Search a registry for repositories
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Docker Hub has a search; of other registries the catalogue is looked through, where they
offer one.

Examples:
  wharf search nginx
  wharf search localhost:5000/team"
)]
pub(crate) struct SearchArgs {
    /// How many at most
    #[arg(long, default_value_t = 25)]
    limit: u32,
    /// Only those that match: is-official=true, stars=N (repeatable)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template as in '{{.Name}}'
    #[arg(long, default_value = "table", hide_default_value = true)]
    format: Format,
    /// Do not shorten descriptions
    #[arg(long)]
    no_trunc: bool,
    /// [REGISTRY/]TERM
    term: String,
}

/// List the tags that a registry has of a repository
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  wharf image tags localhost:5000/team/app")]
pub(crate) struct TagsArgs {
    /// [REGISTRY/]NAME
    repository: String,
}

pub(crate) async fn push(context: &Context, args: PushArgs) -> Result<u8> {
    let client = context.client().await?;
    let mut references = vec![args.image.clone()];
    if args.all_tags {
        let (repository, tag, digest) = human::split_reference(&args.image);
        if tag.or(digest).is_some() {
            bail!("--all-tags goes with a name that has no tag");
        }
        let images = client.list_images(repository).await?;
        let names = images.iter().flat_map(|image| &image.names);
        let same = names.filter(|name| {
            human::split_reference(human::familiar(name)).0 == human::familiar(repository)
        });
        references = same.cloned().collect();
        if references.is_empty() {
            bail!("no image here has the name {repository}");
        }
    }
    let say = if args.quiet { Say::Nothing } else { Say::OnStdout };
    for reference in &references {
        let full = with_tag(reference);
        let (repository, tag, _) = human::split_reference(&full);
        say.line(&format!("The push refers to repository [{repository}]"))?;
        let credentials = docker_config::credentials_for(reference)?;
        let request = PushImageRequest { reference: reference.clone(), credentials };
        let mut push = client.push(request).await?;
        let mut progress = ProgressView::new(say);
        loop {
            match push.next().await? {
                Some(PushEvent::Progress(step)) => progress.show(&step)?,
                Some(PushEvent::Done(done)) => {
                    drop(progress);
                    let tag = tag.map_or_else(String::new, |tag| format!("{tag}: "));
                    say.line(&format!("{tag}digest: {} size: {}", done.digest, done.size_bytes))?;
                    break;
                }
                None => bail!("the push of {reference} ended without a word of it"),
            }
        }
        if args.quiet {
            output::print_line(&full)?;
        }
    }
    Ok(0)
}

pub(crate) async fn login(context: &Context, args: LoginArgs) -> Result<u8> {
    let registry = docker_config::canonical(&args.server).to_owned();
    let mut config = DockerConfig::load()?.context("no HOME to keep the credentials in")?;
    let client = context.client().await?;
    let is_asked = args.username.is_none() && args.password.is_none() && !args.password_stdin;
    if is_asked && let Some(known) = config.credentials(&registry)? {
        // As Docker does: what is known is tried before anybody is asked.
        output::complain("Authenticating with existing credentials...");
        match client.login(&registry, known).await {
            Ok(_) => return output::print_line("Login Succeeded").map(|()| 0),
            Err(error) if is_refusal(&error) => output::complain("They are not valid any more."),
            Err(error) => return Err(error.into()),
        }
    }
    if args.password.is_some() {
        output::complain(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
        );
    }
    let username = match args.username {
        Some(name) => name,
        None if args.password_stdin => bail!("--password-stdin needs --username"),
        None => ask("Username: ", Echo::On)?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("read the password")?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask("Password: ", Echo::Off)?,
    };
    if username.is_empty() || password.is_empty() {
        bail!("a user name and a password are needed");
    }
    let mut credentials = Credentials { username, password, ..Credentials::default() };
    let identity_token = client.login(&registry, credentials.clone()).await?;
    credentials.identity_token = identity_token.unwrap_or_default();
    if let Keeper::File(path) = config.store(&registry, &credentials)? {
        output::complain(&format!(
            "WARNING! Your credentials are stored unencrypted in '{}'.",
            path.display()
        ));
    }
    output::print_line("Login Succeeded")?;
    Ok(0)
}

fn is_refusal(error: &wharf_client::Error) -> bool {
    let refused = error.refusal();
    refused.is_some_and(|r| matches!(r.kind, Kind::Unauthenticated | Kind::Denied))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    On,
    Off,
}

/// A line from the terminal.
fn ask(prompt: &str, echo: Echo) -> Result<String> {
    if !io::stdin().is_terminal() {
        bail!("standard input is no terminal: use --username and --password-stdin");
    }
    eprint_now(prompt);
    let stdin = rustix::stdio::stdin();
    let before = termios::tcgetattr(stdin).context("read the terminal's mode")?;
    if echo == Echo::Off {
        let mut silent = before.clone();
        silent.local_modes -= LocalModes::ECHO;
        termios::tcsetattr(stdin, OptionalActions::Now, &silent).context("turn off the echo")?;
    }
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    if echo == Echo::Off {
        termios::tcsetattr(stdin, OptionalActions::Now, &before).context("turn on the echo")?;
        eprint_now("\n");
    }
    read.context("read an answer")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn eprint_now(text: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that takes no prompt gives no answer either.
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

pub(crate) fn logout(args: &LogoutArgs) -> Result<u8> {
    let registry = docker_config::canonical(&args.server);
    let shown = if registry == HUB { "https://index.docker.io/v1/" } else { registry };
    let erased = match DockerConfig::load()? {
        Some(mut config) => config.erase(registry)?,
        None => false,
    };
    if erased {
        output::print_line(&format!("Removing login credentials for {shown}"))?;
    } else {
        output::print_line(&format!("Not logged in to {shown}"))?;
    }
    Ok(0)
}

const COLUMNS: &[Column] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
];

pub(crate) async fn search(context: &Context, args: SearchArgs) -> Result<u8> {
    let (mut official, mut stars) = (None, 0);
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("is-official", "true" | "1")) => official = Some(true),
            Some(("is-official", "false" | "0")) => official = Some(false),
            Some(("stars", n)) => {
                stars = n.parse().with_context(|| format!("--filter {filter:?}: a number"))?;
            }
            _ => bail!("--filter {filter:?}: there are is-official=true|false and stars=N"),
        }
    }
    let (registry, term) = match args.term.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (docker_config::canonical(first), rest)
        }
        _ => (HUB, args.term.as_str()),
    };
    let credentials = match DockerConfig::load()? {
        Some(config) => config.credentials(registry)?,
        None => None,
    };
    let client = context.client().await?;
    let found = client.search(registry, term, args.limit, credentials).await?;
    let rows = found
        .iter()
        .filter(|r| official.is_none_or(|wanted| r.is_official == wanted))
        .filter(|r| r.star_count >= stars)
        .map(|r| {
            let name = match registry {
                HUB => r.name.clone(),
                registry => format!("{registry}/{}", r.name),
            };
            let description = match args.no_trunc {
                true => r.description.clone(),
                false => human::shorten(&r.description, 45),
            };
            let mut row = Map::new();
            row.insert("Name".into(), json!(name));
            row.insert("Description".into(), json!(description));
            row.insert("StarCount".into(), json!(r.star_count.to_string()));
            let word = if r.is_official { "[OK]" } else { "" };
            row.insert("IsOfficial".into(), Value::String(word.into()));
            row
        })
        .collect();
    let shown = COLUMNS.iter().map(|(key, _)| *key).collect();
    output::print(&List { columns: COLUMNS, shown, rows }.render(&args.format)?)?;
    Ok(0)
}

pub(crate) async fn tags(context: &Context, args: TagsArgs) -> Result<u8> {
    let credentials = docker_config::credentials_for(&args.repository)?;
    let client = context.client().await?;
    for tag in client.tags(&args.repository, credentials).await? {
        output::print_line(&tag)?;
    }
    Ok(0)
}
