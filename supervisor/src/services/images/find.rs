//! Images by name, id, prefix of an id, or digest.

use super::{
    Error, Image, Images,
    record::{NameRecord, key},
};
use crate::{
    drivers::{content::Digest, oci::Reference},
    ids::Namespace,
};

const MAX_PAGE: usize = 1000;

/// Some of the images, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order of their ids.
    pub images: Vec<Image>,
    /// Token of the next page; none after the last.
    pub next: Option<String>,
}

/// A reference in full, or what was asked if it is none: an id.
pub(super) fn full_name(text: &str) -> String {
    text.parse::<Reference>().map_or_else(|_| text.to_owned(), |reference| reference.to_string())
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Images {
    /// One image: by name first, as Docker has it, then by id or unique prefix of one, or by the
    /// digest of its manifest.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn get(&self, namespace: &Namespace, asked: &str) -> Result<Image, Error> {
        let digest = asked.parse::<Digest>().ok();
        let hex = asked.strip_prefix("sha256:").unwrap_or(asked);
        let reference = match asked.parse::<Reference>() {
            Ok(reference) => Some(reference),
            Err(_) if digest.is_some() || is_hex(hex) => None,
            Err(e) => return Err(e.into()),
        };
        if let Some(reference) = &reference
            && let Some(image) = self.by_reference(namespace, reference)?
        {
            return Ok(image);
        }
        if is_hex(hex) && hex.len() <= 64 {
            let mut matching = self.by_id_prefix(namespace, hex)?;
            match (matching.pop(), matching.len()) {
                (Some(image), 0) => return Ok(image),
                (Some(_), others) => {
                    return Err(Error::Ambiguous { prefix: asked.into(), count: others + 1 });
                }
                (None, _) => {}
            }
        }
        if let Some(digest) = digest {
            let has = |image: &Image| {
                image.manifest_digest == digest || image.names.iter().any(|n| n.digest == digest)
            };
            if let Some(image) = self.all(namespace)?.into_iter().find(has) {
                return Ok(image);
            }
        }
        Err(Error::NotFound(asked.into()))
    }

    pub(super) fn by_reference(
        &self,
        namespace: &Namespace,
        reference: &Reference,
    ) -> Result<Option<Image>, Error> {
        let store = &self.inner.store;
        if let Some(name) = store.get::<NameRecord>(&key(namespace, reference))? {
            return Ok(store.get::<Image>(&key(namespace, &name.image))?);
        }
        let Some(digest) = reference.digest() else { return Ok(None) };
        // A digest names what any tag of the same repository points to.
        let repository = reference.name();
        let has = |image: &Image| {
            image.names.iter().any(|name| {
                (name.digest == *digest || image.manifest_digest == *digest)
                    && name.reference.parse::<Reference>().is_ok_and(|r| r.name() == repository)
            })
        };
        Ok(self.all(namespace)?.into_iter().find(has))
    }

    fn by_id_prefix(&self, namespace: &Namespace, hex: &str) -> Result<Vec<Image>, Error> {
        let start = key(namespace, format_args!("sha256:{hex}"));
        let mut images = Vec::new();
        for item in self.inner.store.from::<Image>(&start)? {
            let (key, image) = item?;
            if !key.starts_with(&start) {
                break;
            }
            images.push(image);
        }
        Ok(images)
    }

    /// How many there are in all namespaces.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inner.store.all::<Image>().map_or(0, Iterator::count)
    }

    /// All images of a namespace.
    pub(super) fn all(&self, namespace: &Namespace) -> Result<Vec<Image>, Error> {
        Ok(self.list(namespace, "", usize::MAX, "")?.images)
    }

    /// Images of a namespace whose names contain `filter`, or that it names.
    ///
    /// # Errors
    /// When the records can't be read or the token is none.
    pub fn list(
        &self,
        namespace: &Namespace,
        filter: &str,
        page_size: usize,
        page_token: &str,
    ) -> Result<Page, Error> {
        if !page_token.is_empty() && page_token.parse::<Digest>().is_err() {
            return Err(Error::PageToken(page_token.into()));
        }
        let limit = match page_size {
            0 => MAX_PAGE,
            usize::MAX => usize::MAX,
            n => n.min(MAX_PAGE),
        };
        let start = key(namespace, "");
        let full = full_name(filter);
        let matches = |image: &Image| {
            filter.is_empty()
                || image.names.iter().any(|n| n.reference == full || n.reference.contains(filter))
                || image.id.hex().starts_with(filter.strip_prefix("sha256:").unwrap_or(filter))
        };
        let mut images: Vec<Image> = Vec::new();
        for item in self.inner.store.from::<Image>(&key(namespace, page_token))? {
            let (key, image) = match item {
                Ok(found) => found,
                Err(error) => {
                    tracing::error!(error = crate::fault::chain(&error), "image set aside");
                    continue;
                }
            };
            if !key.starts_with(&start) {
                break;
            }
            if image.id.to_string() == page_token || !matches(&image) {
                continue;
            }
            if images.len() == limit {
                return Ok(Page { next: images.last().map(|i| i.id.to_string()), images });
            }
            images.push(image);
        }
        Ok(Page { images, next: None })
    }
}
