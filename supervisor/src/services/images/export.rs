//! Images as an archive that is streamed out, and names given.

use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Error, Image, Images, Name, blocking,
    record::{NameRecord, key},
};
use crate::{
    drivers::{
        archive::{self, Wanted},
        content::Digest,
        oci::{Document, MAX_DOCUMENT_BYTES, ManifestError, Platform, Reference, ReferenceError},
    },
    ids::Namespace,
    services::events::Event,
    store::{Durability, Ops},
};

/// Indexes within indexes.
const MAX_DEPTH: usize = 4;
/// Bytes of a piece.
const PIECE_BYTES: usize = 256 << 10;

impl Images {
    /// Sends the images as one archive through `pieces`. It ends early when the receiver is gone.
    ///
    /// # Errors
    /// When one is not here or its content is corrupted.
    pub async fn export(
        &self,
        namespace: &Namespace,
        asked: &[String],
        platform: Option<&str>,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<(), Error> {
        let platform: Option<Platform> = platform.map(str::parse).transpose()?;
        let _hold = self.hold().await;
        let mut wanted: Vec<Wanted> = Vec::new();
        for text in asked {
            let image = self.get(namespace, text)?;
            let name = text.parse::<Reference>().map(|reference| reference.to_string());
            let names = name.into_iter().filter(|name| image.has_name(name));
            let target = target_of(&image, text);
            let (target, manifest) = match &platform {
                None => (target, image.manifest_digest.clone()),
                Some(platform) => {
                    let chosen = self.for_platform(target, &image, platform).await?;
                    (chosen.clone(), chosen)
                }
            };
            match wanted.iter_mut().find(|known| known.manifest == manifest) {
                Some(known) => known.names.extend(names),
                None => wanted.push(Wanted { target, manifest, names: names.collect() }),
            }
        }
        let content = self.inner.content.clone();
        blocking(move || {
            let out = BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
            Ok(archive::export(&content, &wanted, out)?)
        })
        .await
    }

    /// The manifest of what is here for a platform.
    async fn for_platform(
        &self,
        target: Digest,
        image: &Image,
        platform: &Platform,
    ) -> Result<Digest, Error> {
        let (content, platform) = (self.inner.content.clone(), platform.clone());
        let (manifest, own) = (image.manifest_digest.clone(), image.platform.parse::<Platform>());
        blocking(move || {
            let no_platform = |digest: &Digest| ManifestError::NoPlatform {
                digest: digest.clone(),
                platform: platform.to_string(),
                offered: own.clone().into_iter().collect(),
            };
            let mut at = target;
            for _ in 0..MAX_DEPTH {
                // An index that is gone has only the image that it was pulled for.
                if content.stat(&at)?.is_none() {
                    break;
                }
                let bytes = content.read(&at, MAX_DOCUMENT_BYTES)?;
                match Document::parse(&bytes, &at)? {
                    Document::Manifest(_) => break,
                    Document::Index(index) => {
                        at = index.choose(&platform, &at)?.digest.clone();
                        if content.stat(&at)?.is_some()
                            && at != manifest
                            && let Document::Manifest(_) =
                                Document::parse(&content.read(&at, MAX_DOCUMENT_BYTES)?, &at)?
                        {
                            return Ok(at);
                        }
                    }
                }
            }
            let is_own = own.as_ref().is_ok_and(|own| platform.rank(own).is_some());
            if is_own { Ok(manifest) } else { Err(no_platform(&at).into()) }
        })
        .await
    }

    /// Gives an image one more name, taken from the image that has it.
    ///
    /// # Errors
    /// When there is no such image, or the name is none.
    pub async fn tag(
        &self,
        namespace: &Namespace,
        asked: &str,
        name: &str,
    ) -> Result<Image, Error> {
        let reference: Reference = name.parse()?;
        if reference.digest().is_some() {
            return Err(ReferenceError::Tag(name.into()).into());
        }
        let reference = reference.to_string();
        let _records = self.inner.records.lock().await;
        let mut image = self.get(namespace, asked)?;
        if image.has_name(&reference) {
            return Ok(image);
        }
        let mut ops = Ops::new();
        let mut losers = std::collections::HashMap::new();
        self.take_name(namespace, &reference, &image.id, &mut losers)?;
        for loser in losers.values() {
            ops.put(&loser.key(), loser)?;
        }
        // What the name that was given points to: another one may point to less of the same index.
        let digest = named(&image, asked).unwrap_or_else(|| image.digest()).clone();
        image.names.push(Name { reference: reference.clone(), digest });
        ops.put(&key(namespace, &reference), &NameRecord { image: image.id.clone() })?;
        ops.put(&image.key(), &image)?;
        let event = Event::now(namespace, "image.tag", &image.id.to_string());
        self.inner.events.append(&mut ops, &event.with("reference", &reference))?;
        crate::faultpoint::reach("tag.checked").await;
        self.inner.store.commit(ops, Durability::Power).await?;
        crate::faultpoint::reach("tag.committed").await;
        Ok(image)
    }
}

/// What the name that was asked for points to; the manifest of an image that was asked for by id.
fn target_of(image: &Image, asked: &str) -> Digest {
    named(image, asked).unwrap_or(&image.manifest_digest).clone()
}

fn named<'a>(image: &'a Image, asked: &str) -> Option<&'a Digest> {
    let name = asked.parse::<Reference>().map(|reference| reference.to_string());
    let name = image.names.iter().find(|n| name.as_ref() == Ok(&n.reference));
    name.map(|name| &name.digest)
}

/// Sends what is written.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(buf));
        sent.map(|()| buf.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
