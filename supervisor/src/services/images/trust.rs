//! The signature policy, kept: at a pull before the first layer is asked for, at an import, and
//! whenever a container is made. What was seen at the pull stays with the image, so that keys can
//! change and no registry has to be asked again.

use super::{Error, Image, Images};
use crate::{
    drivers::{
        content::Digest,
        oci::{Document, Reference},
        registry::{self, Session},
        signatures::{self, Refusal, Rule, Signature},
    },
    ids::Namespace,
};

/// Bytes of a signed document.
const MAX_PAYLOAD_BYTES: u64 = 64 << 10;

fn refused(reference: &Reference, refusal: Refusal) -> Error {
    Error::Refused { image: reference.to_string(), refusal }
}

impl Images {
    /// What the policy asks of an image of this name.
    fn rule(&self, reference: &Reference) -> Option<&Rule> {
        self.inner.registries.policy.rule(reference)
    }

    /// The signatures of an image that is about to be pulled, checked; none where none are needed.
    pub(super) async fn check_pull(
        &self,
        session: &Session,
        reference: &Reference,
        target: &Digest,
        manifest: &Digest,
    ) -> Result<Vec<Signature>, Error> {
        let Some(rule) = self.rule(reference) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let digests = [target, manifest];
        let count = if target == manifest { 1 } else { 2 };
        for digest in &digests[..count] {
            found.extend(fetch(session, digest).await?);
        }
        rule.check(reference, &digests, &found).map_err(|refusal| refused(reference, refusal))?;
        Ok(found)
    }

    /// Whether an image that comes without a registry may have these names.
    pub(super) fn check_import(
        &self,
        namespace: &Namespace,
        names: &[String],
        id: &Digest,
        digests: &[&Digest],
    ) -> Result<(), Error> {
        for name in names {
            let reference: Reference = name.parse()?;
            let Some(rule) = self.rule(&reference) else { continue };
            // It may have been pulled, with its signatures, before.
            let known = self.get(namespace, &id.to_string()).ok();
            let signatures = known.map(|image| image.signatures).unwrap_or_default();
            rule.check(&reference, digests, &signatures)
                .map_err(|refusal| refused(&reference, refusal))?;
        }
        Ok(())
    }

    /// Whether a container may be made of an image that is known as `asked`: by that name, or, if
    /// that is an id, by each of its names.
    pub(super) fn check_use(&self, image: &Image, asked: &str) -> Result<(), Error> {
        let policy = &self.inner.registries.policy;
        if policy.rules.is_empty() {
            return Ok(());
        }
        let is_named = |reference: &Reference| {
            image.names.iter().any(|n| {
                n.reference == reference.to_string()
                    || reference.digest().is_some()
                        && n.reference
                            .parse::<Reference>()
                            .is_ok_and(|n| n.name() == reference.name())
            })
        };
        let given = asked.parse::<Reference>().ok().filter(is_named);
        let names: Vec<Reference> = match given {
            Some(reference) => vec![reference],
            None => image.names.iter().filter_map(|n| n.reference.parse().ok()).collect(),
        };
        for reference in names {
            let Some(rule) = self.rule(&reference) else { continue };
            let name = reference.to_string();
            let mut digests = vec![&image.manifest_digest];
            digests.extend(image.names.iter().filter(|n| n.reference == name).map(|n| &n.digest));
            rule.check(&reference, &digests, &image.signatures)
                .map_err(|refusal| refused(&reference, refusal))?;
        }
        Ok(())
    }
}

/// What stands beside an image in its repository; nothing if there is nothing.
async fn fetch(session: &Session, digest: &Digest) -> Result<Vec<Signature>, Error> {
    let tag = signatures::tag_of(digest);
    let (bytes, found) = match session.named_document(&tag, None).await {
        Ok(document) => document,
        Err(registry::Error::NotFound { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let Document::Manifest(manifest) = Document::parse(&bytes, &found)? else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for layer in &manifest.layers {
        let Some(signature) = layer.annotations.get(signatures::ANNOTATION) else { continue };
        let is_signed = layer.media_type == signatures::PAYLOAD_TYPE;
        if !is_signed || layer.size > MAX_PAYLOAD_BYTES || all.len() == signatures::MAX_SIGNATURES {
            continue;
        }
        let payload = session.blob(layer).await?;
        // Bytes that are not the ones that were named are nobody's.
        if Digest::of(&payload) != layer.digest {
            continue;
        }
        if let Ok(payload) = String::from_utf8(payload) {
            all.push(Signature { payload, signature: signature.clone() });
        }
    }
    Ok(all)
}
