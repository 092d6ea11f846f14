//! `pull` and `load`, with their progress: bars on a terminal, lines elsewhere.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use wharf_client::{
    Client, PullEvent,
    v1::{Image, Progress, PullImageRequest, TimeSpent, progress::Stage},
};

use crate::cli::{context::Context, docker_config, human, output};

/// Pull an image from a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf pull alpine:3.20
  wharf pull -q localhost:5000/team/app
  wharf pull --platform linux/arm64 alpine")]
pub(crate) struct PullArgs {
    /// Print the image's name and nothing else
    #[arg(short, long)]
    quiet: bool,
    /// Tell where the time went
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// Platform in place of this host's: linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// All platforms of an index: to save or push it whole
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// All tags that the registry has of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Reference: [REGISTRY/]NAME[:TAG|@DIGEST]
    image: String,
}

/// Import images from an archive (OCI layout or docker save; plain, gzip or zstd)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf load -i busybox.tar
  wharf load --name app:1 < app.tar.gz")]
pub(crate) struct LoadArgs {
    /// The archive; standard input if not given or -
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Say nothing of the progress
    #[arg(short, long)]
    quiet: bool,
    /// Name for an image that brings none
    #[arg(long, value_name = "REFERENCE", default_value = "", hide_default_value = true)]
    name: String,
}

/// Where words about a pull go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    Nothing,
    OnStdout,
    OnStderr,
}

impl Say {
    pub(crate) fn line(self, text: &str) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::OnStdout => output::print_line(text)?,
            Self::OnStderr => output::complain(text),
        }
        Ok(())
    }
}

pub(crate) async fn pull(context: &Context, args: PullArgs) -> Result<u8> {
    let client = context.client().await?;
    let say = if args.quiet { Say::Nothing } else { Say::OnStdout };
    let mut references = vec![args.image.clone()];
    if args.all_tags {
        let (repository, tag, digest) = human::split_reference(&args.image);
        if tag.or(digest).is_some() {
            bail!("--all-tags goes with a name that has no tag");
        }
        let credentials = docker_config::credentials_for(repository)?;
        let tags = client.tags(repository, credentials).await?;
        references = tags.iter().map(|tag| format!("{repository}:{tag}")).collect();
    }
    for reference in &references {
        let platforms = match (&args.platform, args.all_platforms) {
            (_, true) => Platforms::All,
            (Some(one), false) => Platforms::One(one),
            (None, false) => Platforms::Host,
        };
        let (image, spent) = fetch_for(&client, reference, platforms, say).await?;
        if let (true, Some(spent)) = (args.verbose, spent) {
            output::print_line(&split(spent))?;
        }
        let asked = with_tag(reference);
        let matching = |name: &&String| human::familiar(name) == human::familiar(&asked);
        let name = image.names.iter().find(matching).unwrap_or(&asked);
        output::print_line(name)?;
    }
    Ok(0)
}

/// Which images of an index.
#[derive(Debug, Clone, Copy)]
enum Platforms<'a> {
    Host,
    One(&'a str),
    All,
}

/// Pulls, and tells of it in Docker's words.
pub(crate) async fn fetch(
    client: &Client,
    reference: &str,
    platform: Option<&str>,
    say: Say,
) -> Result<Image> {
    let platforms = platform.map_or(Platforms::Host, Platforms::One);
    Ok(fetch_for(client, reference, platforms, say).await?.0)
}

/// Where the time went, on all threads: layers come beside each other.
fn split(spent: TimeSpent) -> String {
    let parts = [
        ("network", spent.network_us),
        ("hash", spent.hash_us),
        ("inflate", spent.inflate_us),
        ("write", spent.write_us),
        ("flush", spent.flush_us),
    ];
    let parts =
        parts.map(|(what, us)| format!("{what} {}.{:03} s", us / 1_000_000, us / 1000 % 1000));
    format!("Time on all threads: {}", parts.join(", "))
}

async fn fetch_for(
    client: &Client,
    reference: &str,
    platforms: Platforms<'_>,
    say: Say,
) -> Result<(Image, Option<TimeSpent>)> {
    let full = with_tag(reference);
    let (repository, tag, digest) = human::split_reference(&full);
    say.line(&format!("{}: Pulling from {repository}", tag.or(digest).unwrap_or("")))?;
    let request = PullImageRequest {
        reference: reference.to_owned(),
        platform: match platforms {
            Platforms::One(platform) => platform.to_owned(),
            Platforms::Host | Platforms::All => String::new(),
        },
        all_platforms: matches!(platforms, Platforms::All),
        credentials: docker_config::credentials_for(reference)?,
    };
    let mut pull = client.pull(request).await?;
    let mut progress = ProgressView::new(say);
    while let Some(event) = pull.next().await? {
        match event {
            PullEvent::Progress(step) => progress.show(&step)?,
            PullEvent::Done { images, up_to_date, spent } => {
                let image = images.into_iter().next().context("the pull gave no image")?;
                drop(progress);
                say.line(&format!("Digest: {}", image.digest))?;
                let what =
                    if up_to_date { "Image is up to date" } else { "Downloaded newer image" };
                say.line(&format!("Status: {what} for {full}"))?;
                return Ok((image, spent));
            }
        }
    }
    bail!("the pull of {reference} ended without an image")
}

/// A reference with the tag that it means.
pub(crate) fn with_tag(reference: &str) -> String {
    match human::split_reference(reference) {
        (repository, None, None) => format!("{repository}:latest"),
        _ => reference.to_owned(),
    }
}

pub(crate) async fn load(context: &Context, args: LoadArgs) -> Result<u8> {
    let archive: Box<dyn Read + Send> = match args.input.as_deref() {
        Some(path) if path != Path::new("-") => {
            let open = File::open(path);
            let file = open.with_context(|| format!("open {}", path.display()))?;
            if file.metadata().is_ok_and(|meta| meta.is_dir()) {
                bail!("{} is a folder: give the archive of one (tar -C DIR -c .)", path.display());
            }
            Box::new(file)
        }
        _ if io::stdin().is_terminal() => {
            bail!("no archive: use -i FILE, or let one come on standard input")
        }
        _ => Box::new(io::stdin()),
    };
    let client = context.client().await?;
    let mut import = client.import(&args.name, archive).await?;
    let mut progress = ProgressView::new(if args.quiet { Say::Nothing } else { Say::OnStderr });
    while let Some(event) = import.next().await? {
        match event {
            PullEvent::Progress(step) => progress.show(&step)?,
            PullEvent::Done { images, .. } => {
                drop(progress);
                for image in &images {
                    if image.names.is_empty() {
                        output::print_line(&format!("Loaded image ID: {}", image.id))?;
                    }
                    for name in &image.names {
                        output::print_line(&format!("Loaded image: {}", human::familiar(name)))?;
                    }
                }
                return Ok(0);
            }
        }
    }
    bail!("the import ended without a word of its images")
}

/// One line or bar a blob.
pub(crate) struct ProgressView {
    say: Say,
    bars: Option<MultiProgress>,
    items: HashMap<String, (Stage, ProgressBar)>,
}

impl ProgressView {
    pub(crate) fn new(say: Say) -> Self {
        let to_terminal = match say {
            Say::Nothing => false,
            Say::OnStdout => io::stdout().is_terminal(),
            Say::OnStderr => io::stderr().is_terminal(),
        };
        let bars = to_terminal.then(|| {
            MultiProgress::with_draw_target(match say {
                Say::OnStdout => ProgressDrawTarget::stdout(),
                Say::Nothing | Say::OnStderr => ProgressDrawTarget::stderr(),
            })
        });
        Self { say, bars, items: HashMap::new() }
    }

    pub(crate) fn show(&mut self, step: &Progress) -> Result<()> {
        let stage = step.stage();
        // Only blobs and layers: the manifest and the like are over before they are read.
        if self.say == Say::Nothing || !step.item.starts_with("sha256:") {
            return Ok(());
        }
        let name = human::short_id(&step.item).to_owned();
        match &self.bars {
            None => {
                let known = self.items.get(&step.item).map(|(known, _)| *known);
                if known != Some(stage) {
                    self.items.insert(step.item.clone(), (stage, ProgressBar::hidden()));
                    self.say.line(&format!("{name}: {}", word(stage)))?;
                }
            }
            Some(bars) => {
                let (known, bar) = self.items.entry(step.item.clone()).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::new(0));
                    bar.set_prefix(name);
                    (Stage::Unspecified, bar)
                });
                if *known != stage {
                    *known = stage;
                    bar.set_style(style(stage, step.total_bytes));
                    bar.set_message(word(stage));
                }
                bar.set_length(step.total_bytes);
                bar.set_position(step.current_bytes);
                if matches!(stage, Stage::Done | Stage::Exists | Stage::Mounted) {
                    bar.finish();
                }
            }
        }
        Ok(())
    }
}

fn style(stage: Stage, total: u64) -> ProgressStyle {
    let bytes_move = [Stage::Downloading, Stage::Unpacking, Stage::Pushing];
    let moving = bytes_move.contains(&stage) && total > 0;
    let template = match moving {
        true => "{prefix}: {msg:<13} [{bar:40}] {bytes}/{total_bytes}",
        false => "{prefix}: {msg}",
    };
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Unspecified | Stage::Resolving => "Pulling fs layer",
        Stage::Waiting => "Waiting",
        Stage::Downloading => "Downloading",
        Stage::Unpacking => "Extracting",
        Stage::Done => "Pull complete",
        Stage::Exists => "Already exists",
        Stage::Pushing => "Pushing",
        Stage::Mounted => "Mounted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_time_went() {
        let spent = TimeSpent { network_us: 1_234_567, hash_us: 999, ..TimeSpent::default() };
        let text = split(spent);
        assert!(text.contains("network 1.234 s, hash 0.000 s"), "{text}");
    }

    #[test]
    fn tags() {
        assert_eq!(with_tag("alpine"), "alpine:latest");
        assert_eq!(with_tag("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(with_tag("a@sha256:0"), "a@sha256:0");
    }
}
