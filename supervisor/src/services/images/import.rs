//! Images from an archive that is streamed in.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::{
    Error, Image, Images, Reporter, Stage,
    assemble::{Plan, parse_config},
    blocking,
    layer::Source,
    progress::Meter,
};
use crate::{
    drivers::{
        archive::{self, Found},
        oci::{MAX_DOCUMENT_BYTES, Platform, Reference},
    },
    ids::Namespace,
};

/// What progress calls the archive itself.
const ITEM: &str = "archive";

impl Images {
    /// Imports the images of the archive whose bytes come through `pieces`, until that is closed; an
    /// error in it ends the import. `name` is for an image that brings none. Dropping the future
    /// gives up and leaves garbage at worst.
    ///
    /// # Errors
    /// When the archive or the disk is no good. Images before the bad one stay.
    pub async fn import(
        &self,
        namespace: &Namespace,
        name: Option<&str>,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        reporter: &Reporter,
    ) -> Result<Vec<Image>, Error> {
        let hold = self.hold().await;
        let imported = self.import_held(namespace, name, pieces, reporter).await;
        // What an archive has besides its images, and all of one that was refused, is garbage.
        hold.end_quietly();
        if let Err(error) = self.collect().await {
            tracing::warn!(error = crate::fault::chain(&error), "garbage not collected");
        }
        imported
    }

    async fn import_held(
        &self,
        namespace: &Namespace,
        name: Option<&str>,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        reporter: &Reporter,
    ) -> Result<Vec<Image>, Error> {
        let name: Option<Reference> = name.map(str::parse).transpose()?;
        let content = self.inner.content.clone();
        let meter = Meter::new(reporter, ITEM.into(), Stage::Downloading, 0);
        let found = blocking(move || {
            let source = Pieces { pieces, current: Bytes::new(), meter };
            Ok(archive::import(source, &content, &Platform::host())?)
        })
        .await?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut images = Vec::with_capacity(found.len());
        for image in found {
            let plan = self.import_plan(namespace, name.as_ref(), image).await?;
            images.push(self.assemble(plan, Source::Content, cores, reporter).await?);
        }
        Ok(images)
    }

    async fn import_plan(
        &self,
        namespace: &Namespace,
        name: Option<&Reference>,
        found: Found,
    ) -> Result<Plan, Error> {
        let mut names: Vec<String> = Vec::new();
        for text in &found.names {
            match full_name(text, name) {
                Some(reference) if !names.contains(&reference) => names.push(reference),
                Some(_) => {}
                None => tracing::warn!(name = text, "the archive's name is no reference: left out"),
            }
        }
        if let Some(name) = name
            && names.is_empty()
        {
            names.push(name.to_string());
        }
        let content = self.inner.content.clone();
        let digest = found.manifest.config.digest.clone();
        let (bytes, digest) = blocking(move || {
            let bytes = content.read(&digest, MAX_DOCUMENT_BYTES)?;
            Ok((bytes, digest))
        })
        .await?;
        self.check_import(namespace, &names, &digest, &[&found.target, &found.manifest_digest])?;
        Ok(Plan {
            namespace: namespace.clone(),
            names,
            signatures: Vec::new(),
            target: found.target,
            documents: found.documents,
            config: parse_config(&bytes, &digest)?,
            manifest: found.manifest,
            manifest_digest: found.manifest_digest,
            topic: "image.import",
        })
    }
}

/// A name in an archive may be a full reference, a short one, or only a tag: that of the name that
/// was given, and nothing without one.
fn full_name(text: &str, given: Option<&Reference>) -> Option<String> {
    if let Some(given) = given
        && !text.contains(['/', ':', '@'])
    {
        return given.with_tag(text).ok().map(|reference| reference.to_string());
    }
    if text == "latest" {
        return None;
    }
    text.parse::<Reference>().ok().map(|reference| reference.to_string())
}

/// The bytes of an archive as they come.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    meter: Meter,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.current = piece?,
            }
            self.meter.advance(self.current.len() as u64);
        }
        let n = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::full_name;

    #[test]
    fn names_in_archives() {
        let given = "example.com/app:v1".parse().expect("a reference");
        for (text, without, with) in [
            ("alpine:3", Some("docker.io/library/alpine:3"), Some("docker.io/library/alpine:3")),
            ("busybox", Some("docker.io/library/busybox:latest"), Some("example.com/app:busybox")),
            ("latest", None, Some("example.com/app:latest")),
            ("q.io/a/b:c", Some("q.io/a/b:c"), Some("q.io/a/b:c")),
            ("NOT A NAME", None, None),
        ] {
            assert_eq!(full_name(text, None).as_deref(), without, "{text}");
            assert_eq!(full_name(text, Some(&given)).as_deref(), with, "{text}");
        }
    }
}
