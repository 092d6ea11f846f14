//! `save` and `tag`.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::cli::{context::Context, output};

/// Write images to an archive (an OCI layout that is also what docker load takes)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  wharf save -o app.tar app:1 busybox
  wharf save app:1 | gzip > app.tar.gz")]
pub(crate) struct SaveArgs {
    /// The archive; standard output if not given or -
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only the image of an index for this platform: linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// References; or ids, which leave the images without a name
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Give an image one more name
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  wharf tag busybox localhost:5000/team/busybox:1")]
pub(crate) struct TagArgs {
    /// Reference, id or unique beginning of an id
    image: String,
    /// The new name
    name: String,
}

pub(crate) async fn tag(context: &Context, args: TagArgs) -> Result<u8> {
    context.client().await?.tag_image(&args.image, &args.name).await?;
    Ok(0)
}

pub(crate) async fn save(context: &Context, args: SaveArgs) -> Result<u8> {
    let path = args.output.as_deref().filter(|path| *path != Path::new("-"));
    if path.is_none() && io::stdout().is_terminal() {
        bail!("an archive is nothing for a terminal: use -o FILE, or send it somewhere");
    }
    let client = context.client().await?;
    let mut export =
        client.export(args.images, args.platform.as_deref().unwrap_or_default()).await?;
    // The first piece shows that the images are there: only then is a file touched.
    let mut next = export.next().await?;
    let mut target = Target::open(path)?;
    while let Some(piece) = next {
        target.write(&piece)?;
        next = export.next().await?;
    }
    target.finish()?;
    Ok(0)
}

/// Where the archive goes. A file gets its name when it is whole; a device or pipe has its name and
/// keeps it.
pub(crate) enum Target {
    Stdout,
    Open(File),
    Part { file: File, part: PathBuf, path: PathBuf, whole: bool },
}

impl Target {
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        // What a link points to is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.metadata().is_ok_and(|meta| !meta.is_file()) {
            let file = File::options().write(true).open(&path);
            return Ok(Self::Open(file.with_context(|| format!("open {}", path.display()))?));
        }
        let mut part = path.clone().into_os_string();
        part.push(format!(".{}.part", std::process::id()));
        let part = PathBuf::from(part);
        let file = File::create(&part).with_context(|| format!("create {}", part.display()))?;
        Ok(Self::Part { file, part, path, whole: false })
    }

    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<()> {
        match self {
            Self::Stdout => output::written(io::stdout().lock().write_all(piece)),
            Self::Open(file) => file.write_all(piece).context("write the archive"),
            Self::Part { file, part, .. } => {
                file.write_all(piece).with_context(|| format!("write {}", part.display()))
            }
        }
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        match &mut self {
            Self::Stdout => output::written(io::stdout().flush()),
            Self::Open(_) => Ok(()),
            Self::Part { part, path, whole, .. } => {
                std::fs::rename(&*part, &*path)
                    .with_context(|| format!("rename {} to {}", part.display(), path.display()))?;
                *whole = true;
                Ok(())
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::Part { part, whole: false, .. } = self {
            let _ = std::fs::remove_file(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar");
        let mut given_up = Target::open(Some(&path)).expect("opens");
        given_up.write(b"half").expect("writes");
        drop(given_up);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let mut whole = Target::open(Some(&path)).expect("opens");
        whole.write(b"all").expect("writes");
        whole.finish().expect("finishes");
        assert_eq!(std::fs::read(&path).expect("a file"), b"all");
        assert!(matches!(Target::open(Some(Path::new("/dev/null"))), Ok(Target::Open(_))));
    }
}
