//! `cp`, `diff` and `export`.

mod local;

use std::{
    io::{self, IsTerminal as _, Read, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::mpsc;
use wharf_client::{
    Client,
    v1::{FileStat, ReadFilesRequest, WriteFilesStart, changed_file::Kind},
};

use crate::cli::{context::Context, output, save::Target};

/// Copy files between a container and this machine
#[derive(Debug, clap::Args)]
#[command(
    after_help = "SRC and DST are paths here, CONTAINER:PATH, or - for a tar on standard input or output.

Examples:
  wharf cp web:/var/log/app.log .
  wharf cp ./conf.d web:/etc/app
  wharf cp ./conf.d/. web:/etc/app/conf.d     # what is in the folder
  wharf cp web:/etc - | tar -tv"
)]
pub(crate) struct CpArgs {
    /// Keep owners
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link at the end of SRC points to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// From here
    source: String,
    /// To here
    target: String,
}

/// Show what a container has changed of its image: A added, C changed, D deleted
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Name, id or unique beginning of an id
    container: String,
}

/// Write the root file system of a container to a tar
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  wharf export -o web.tar web")]
pub(crate) struct ExportArgs {
    /// The tar; standard output if not given or -
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name, id or unique beginning of an id
    container: String,
}

pub(crate) async fn diff(context: &Context, args: DiffArgs) -> Result<u8> {
    let changes = context.client().await?.changed_files(&args.container).await?;
    for change in changes {
        let letter = match change.kind() {
            Kind::Added => 'A',
            Kind::Deleted => 'D',
            Kind::Modified | Kind::Unspecified => 'C',
        };
        output::print_line(&format!("{letter} {}", change.path))?;
    }
    Ok(0)
}

pub(crate) async fn export(context: &Context, args: ExportArgs) -> Result<u8> {
    let path = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if path.is_none() && io::stdout().is_terminal() {
        bail!("a tar is nothing for a terminal: use -o FILE, or send it somewhere");
    }
    let client = context.client().await?;
    let mut export = client.export_files(&args.container).await?;
    // The first piece shows that the container is there: only then is a file touched.
    let mut next = export.next().await?;
    let mut target = Target::open(path)?;
    while let Some(piece) = next {
        target.write(&piece)?;
        next = export.next().await?;
    }
    target.finish()?;
    Ok(0)
}

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// A tar on standard input or output.
    Stream,
    Here(String),
    In {
        container: String,
        path: String,
    },
}

impl End {
    /// As Docker tells them apart: a path that has a colon begins with / or a dot.
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((container, path))
                if !container.is_empty()
                    && !container.starts_with('.')
                    && !container.contains('/') =>
            {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                Self::In { container: container.to_owned(), path }
            }
            _ => Self::Here(text.to_owned()),
        }
    }
}

pub(crate) async fn cp(context: &Context, args: CpArgs) -> Result<u8> {
    let (source, target) = (End::parse(&args.source), End::parse(&args.target));
    match (source, target) {
        (End::In { container, path }, to @ (End::Here(_) | End::Stream)) => {
            let client = context.client().await?;
            let request = ReadFilesRequest { container, path, follow_link: args.follow_link };
            match to {
                End::Here(to) => fetch(&client, request, &to, args.archive).await?,
                _ => stream_out(&client, request).await?,
            }
        }
        (from @ (End::Here(_) | End::Stream), End::In { container, path }) => {
            let client = context.client().await?;
            match from {
                End::Here(from) => {
                    let follow = args.follow_link;
                    send(&client, &from, follow, &container, &path, args.archive).await?;
                }
                _ => stream_in(&client, container, path).await?,
            }
        }
        (End::In { .. }, End::In { .. }) => {
            bail!("from container to container: use wharf cp A:SRC - | wharf cp - B:DST")
        }
        _ => bail!("one of the two has to be in a container: CONTAINER:PATH"),
    }
    if !args.quiet && io::stderr().is_terminal() {
        output::complain(&format!("Copied {} to {}", args.source, args.target));
    }
    Ok(0)
}

async fn stream_out(client: &Client, request: ReadFilesRequest) -> Result<()> {
    if io::stdout().is_terminal() {
        bail!("a tar is nothing for a terminal: send it somewhere");
    }
    let mut files = client.read_files(request).await?;
    while let Some(piece) = files.next().await? {
        output::written(io::stdout().lock().write_all(&piece))?;
    }
    output::written(io::stdout().flush())
}

async fn stream_in(client: &Client, container: String, path: String) -> Result<()> {
    if io::stdin().is_terminal() {
        bail!("no tar: let one come on standard input");
    }
    let start = WriteFilesStart { container, path, keep_owners: true };
    Ok(client.write_files(start, io::stdin()).await?)
}

/// From a container to here.
async fn fetch(client: &Client, request: ReadFilesRequest, to: &str, archive: bool) -> Result<()> {
    let only_content = request.path.ends_with("/.");
    let mut files = client.read_files(request).await?;
    let is_folder = is_folder(&files.stat);
    let place = local::place(Path::new(to), to.ends_with('/'), is_folder, only_content)?;
    let (pieces, queue) = mpsc::channel::<Vec<u8>>(8);
    let owners = if archive { local::Owners::Kept } else { local::Owners::Ours };
    let unpack = tokio::task::spawn_blocking(move || {
        local::unpack(Pieces { queue, current: Vec::new(), used: 0 }, &place, owners)
    });
    let mut failed = None;
    loop {
        match files.next().await {
            Ok(Some(piece)) => {
                // Whoever unpacks has given up, and says why.
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(pieces);
    let unpacked = unpack.await.context("unpack the files")?;
    match failed {
        Some(error) => Err(error.into()),
        None => unpacked,
    }
}

struct Pieces {
    queue: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.used == self.current.len() {
            match self.queue.blocking_recv() {
                None => return Ok(0),
                Some(piece) => (self.current, self.used) = (piece, 0),
            }
        }
        let n = buf.len().min(self.current.len() - self.used);
        buf[..n].copy_from_slice(&self.current[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}

/// From here to a container.
async fn send(
    client: &Client,
    from: &str,
    follow: bool,
    container: &str,
    to: &str,
    archive: bool,
) -> Result<()> {
    let source = Path::new(from);
    let looked =
        if follow || from.ends_with('/') { source.metadata() } else { source.symlink_metadata() };
    let meta = looked.with_context(|| format!("look at {from}"))?;
    let only_content = from.ends_with("/.") || from == ".";
    let there = settled(client, container, to).await?;
    let (folder, name) = match there {
        // What is there, with all links at its end followed.
        Some((path, stat)) if is_folder(&stat) => {
            let name = if only_content { None } else { Some(local::own_name(source)?) };
            (path, name)
        }
        Some(_) if meta.is_dir() => bail!("{to} in the container is a file, {from} is a folder"),
        Some(_) if to.ends_with('/') => bail!("{to} in the container is no folder"),
        None if to.ends_with('/') && !meta.is_dir() => {
            bail!("{to} in the container is not there: a file needs a folder that is")
        }
        Some((path, _)) => split(&path),
        None => split(to.trim_end_matches('/')),
    };
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    let (source, renamed) = (source.to_owned(), name);
    let packing = std::thread::spawn(move || {
        local::pack(&source, renamed.as_deref(), follow, io::BufWriter::new(writer))
    });
    let start = WriteFilesStart { container: container.into(), path: folder, keep_owners: archive };
    let written = client.write_files(start, reader).await;
    let packed = packing.join().map_err(|_| anyhow::anyhow!("packing {from} failed"))?;
    match (written, packed) {
        // A pipe that nobody reads any more is not the reason.
        (Err(error), _) => Err(error.into()),
        (Ok(()), packed) => packed,
    }
}

fn split(path: &str) -> (String, Option<std::ffi::OsString>) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/".into(), Some(name.into())),
        Some((folder, name)) => (folder.into(), Some(name.into())),
        None => ("/".into(), Some(path.into())),
    }
}

/// What a path in a container leads to, with links at its end followed; none if there is nothing.
async fn settled(
    client: &Client,
    container: &str,
    path: &str,
) -> Result<Option<(String, FileStat)>> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let stat = match client.stat_file(container, &path).await {
            Ok(stat) => stat,
            Err(error) if is_missing_file(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if stat.link_target.is_empty() {
            return Ok(Some((path, stat)));
        }
        path = match path.trim_end_matches('/').rsplit_once('/') {
            _ if stat.link_target.starts_with('/') => stat.link_target,
            Some((folder, _)) => format!("{folder}/{}", stat.link_target),
            None => format!("/{}", stat.link_target),
        };
    }
    bail!("{path} in the container is a link without end")
}

/// The container is there, the file is not.
fn is_missing_file(error: &wharf_client::Error) -> bool {
    error
        .refusal()
        .is_some_and(|refusal| refusal.details.reason.as_deref() == Some("FILE_NOT_FOUND"))
}

fn is_folder(stat: &FileStat) -> bool {
    const KIND: u32 = 0o170_000;
    const FOLDER: u32 = 0o040_000;
    stat.mode & KIND == FOLDER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let inside = |container: &str, path: &str| End::In {
            container: container.into(),
            path: path.into(),
        };
        for (text, end) in [
            ("-", End::Stream),
            ("web:/a", inside("web", "/a")),
            ("web:a/b", inside("web", "/a/b")),
            ("web:", inside("web", "/")),
            ("./a:b", End::Here("./a:b".into())),
            ("/a:b", End::Here("/a:b".into())),
            ("a/b:c", End::Here("a/b:c".into())),
            ("file", End::Here("file".into())),
        ] {
            assert_eq!(End::parse(text), end, "{text}");
        }
        assert_eq!(split("/a"), ("/".into(), Some("a".into())));
        assert_eq!(split("/a/b"), ("/a".into(), Some("b".into())));
    }
}
