//! Archives of images: OCI layouts and what `docker save` writes, or both in one.
//!
//! An archive is read once, from front to back, whatever the order of its files: each one goes into
//! the content store as it passes, where it gets its digest, and the documents are read from there
//! afterwards. So memory does not grow with the archive, and what no image needs is garbage.

mod docker;
mod error;
mod export;
mod layout;

use std::{
    collections::HashMap,
    io::{self, BufReader, Read},
};

pub use error::Error;
pub use export::{Wanted, export};

use crate::drivers::{
    content::{Blob, ContentStore, Digest},
    oci::{MAX_DOCUMENT_BYTES, Manifest, Platform},
    unpack::{
        Limits, decompress,
        tar::{EntryKind, TarReader},
    },
};

const BUFFER_BYTES: usize = 256 << 10;
/// Files of one archive, and bytes of their names.
const MAX_FILES: usize = 100_000;
const MAX_LINKS: usize = 8;

/// An image found in an archive; its blobs are in the content store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Names it brings, as they are written there.
    pub names: Vec<String>,
    /// What the names point to: an index or a manifest.
    pub target: Digest,
    /// Documents on the way from the target to the manifest, both included.
    pub documents: Vec<Blob>,
    /// The image's manifest.
    pub manifest: Manifest,
    /// Its digest.
    pub manifest_digest: Digest,
}

/// Files of an archive by their names, as blobs.
#[derive(Debug, Default)]
struct Files {
    blobs: HashMap<String, Blob>,
    links: HashMap<String, String>,
}

/// Reads an archive into `content` and answers with the images in it, for `platform` where there is a
/// choice. Blocks.
///
/// # Errors
/// When it is no archive of images, or is damaged.
pub fn import(
    source: impl Read + Send,
    content: &ContentStore,
    platform: &Platform,
) -> Result<Vec<Found>, Error> {
    let reader = decompress(source).map_err(Error::Source)?;
    let mut tar = TarReader::new(BufReader::with_capacity(BUFFER_BYTES, reader), Limits::default());
    let files = Files::ingest(&mut tar, content)?;
    // A client waits until all it sent has been read.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(Error::Source)?;
    let mut found = layout::images(&files, content, platform)?;
    docker::add(&files, content, &mut found)?;
    if found.is_empty() { Err(Error::NoImage) } else { Ok(found) }
}

impl Files {
    fn ingest<R: io::BufRead>(
        tar: &mut TarReader<R>,
        content: &ContentStore,
    ) -> Result<Self, Error> {
        let mut files = Self::default();
        while let Some(entry) = tar.next_entry()? {
            if files.blobs.len() + files.links.len() == MAX_FILES {
                return Err(Error::Limit { what: "files", limit: MAX_FILES as u64 });
            }
            let name = clean(&String::from_utf8_lossy(&entry.path));
            match entry.kind {
                EntryKind::File => {
                    let expected = blob_digest(&name);
                    let blob = take(tar, content, expected.as_ref(), entry.size)?;
                    files.blobs.insert(name, blob);
                }
                // Docker once wrote a link where two images share a layer.
                EntryKind::Symlink => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let target = String::from_utf8_lossy(&entry.link);
                    files.links.insert(name.clone(), clean(&format!("{folder}/{target}")));
                }
                EntryKind::HardLink => {
                    files.links.insert(name, clean(&String::from_utf8_lossy(&entry.link)));
                }
                EntryKind::Dir | EntryKind::Char(..) | EntryKind::Block(..) | EntryKind::Fifo => {}
            }
        }
        Ok(files)
    }

    fn find(&self, name: &str) -> Option<&Blob> {
        let mut name = &clean(name);
        for _ in 0..MAX_LINKS {
            if let Some(blob) = self.blobs.get(name) {
                return Some(blob);
            }
            name = self.links.get(name)?;
        }
        None
    }

    fn document(&self, name: &str, content: &ContentStore) -> Result<Option<Vec<u8>>, Error> {
        let Some(blob) = self.find(name) else { return Ok(None) };
        Ok(Some(content.read(&blob.digest, MAX_DOCUMENT_BYTES)?))
    }
}

fn take<R: io::BufRead>(
    tar: &mut TarReader<R>,
    content: &ContentStore,
    expected: Option<&Digest>,
    size: u64,
) -> Result<Blob, Error> {
    let mut ingest = content.ingest(expected, Some(size))?;
    loop {
        let data = tar.data()?;
        let n = data.len();
        if n == 0 {
            break;
        }
        ingest.write(data)?;
        tar.consume(n);
    }
    Ok(ingest.commit()?)
}

/// The digest in the name of an OCI layout's blob.
fn blob_digest(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

/// A name without "." and "..": it is only ever compared.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
