//! Manifests and indexes, OCI's and Docker's: the same documents under other media types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Platform;
use crate::drivers::content::Digest;

/// Larger manifests, indexes and configs are refused: registries take 4 MiB.
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Layers of one image: overlay takes 500.
const MAX_LAYERS: usize = 500;

/// Media types.
pub mod media {
    /// OCI's index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI's manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI's image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI's layer, a plain tar.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI's layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI's layer, Zstandard.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's layer, a plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's layer, Zstandard.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    pub(super) const LAYERS: [&str; 6] = [
        OCI_LAYER,
        OCI_LAYER_GZIP,
        OCI_LAYER_ZSTD,
        DOCKER_LAYER,
        DOCKER_LAYER_GZIP,
        DOCKER_LAYER_ZSTD,
    ];
    pub(super) const MANIFESTS: [&str; 2] = [OCI_MANIFEST, DOCKER_MANIFEST];
    pub(super) const INDEXES: [&str; 2] = [OCI_INDEX, DOCKER_INDEX];
}

/// Why a document is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this form.
    #[error("manifest {digest} is damaged")]
    Json {
        /// Of the document.
        digest: Digest,
        /// Why.
        source: serde_json::Error,
    },
    /// Docker's first schema, or a manifest and an index at once.
    #[error("manifest {digest} is of a kind that is not supported: {kind}")]
    Kind {
        /// Of the document.
        digest: Digest,
        /// What it is.
        kind: String,
    },
    /// Layers that are to be fetched from elsewhere.
    #[error(
        "layer {layer} is a foreign one ({media_type}): it is not in the registry and can't be \
         pulled"
    )]
    ForeignLayer {
        /// Its digest.
        layer: Digest,
        /// Its media type.
        media_type: String,
    },
    /// Something else than an image.
    #[error("layer {layer} of the type {media_type:?} is not a container image's")]
    LayerType {
        /// Its digest.
        layer: Digest,
        /// Its media type.
        media_type: String,
    },
    /// More than overlay can stack.
    #[error("manifest {digest} has {layers} layers, more than {MAX_LAYERS}")]
    TooManyLayers {
        /// Of the document.
        digest: Digest,
        /// How many.
        layers: usize,
    },
    /// No image in the index is for this platform.
    #[error("{digest} has no image for {platform}, only for {}", join(offered))]
    NoPlatform {
        /// Of the index.
        digest: Digest,
        /// What was wanted.
        platform: String,
        /// What there is.
        offered: Vec<Platform>,
    },
}

fn join(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "none".into();
    }
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a document says about a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Where else it might be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// What else is said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    /// What it is built for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    media_type: String,
    /// The image's config.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// What it calls itself; may be empty.
    pub media_type: String,
    /// Manifests, or indexes.
    pub manifests: Vec<Descriptor>,
}

/// Either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    #[serde(default, deserialize_with = "or_default")]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads the document whose digest is `digest`.
    ///
    /// # Errors
    /// When it is damaged or of a kind that is not supported.
    pub fn parse(bytes: &[u8], digest: &Digest) -> Result<Self, ManifestError> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|source| ManifestError::Json { digest: digest.clone(), source })?;
        let kind = |kind: &str| ManifestError::Kind { digest: digest.clone(), kind: kind.into() };
        if raw.schema_version.is_some_and(|version| version != 2) {
            return Err(kind("Docker's schema 1; push the image again with a newer tool"));
        }
        let is_one_of =
            |known: [&str; 2]| raw.media_type.is_empty() || known.contains(&&*raw.media_type);
        match (raw.config, raw.layers, raw.manifests) {
            (Some(config), layers, None) if is_one_of(media::MANIFESTS) => {
                let layers = layers.unwrap_or_default();
                if layers.len() > MAX_LAYERS {
                    let layers = layers.len();
                    return Err(ManifestError::TooManyLayers { digest: digest.clone(), layers });
                }
                let media_type = raw.media_type;
                let manifest = Manifest { schema_version: 2, media_type, config, layers };
                Ok(Self::Manifest(Box::new(manifest)))
            }
            (None, None, Some(manifests)) if is_one_of(media::INDEXES) => {
                Ok(Self::Index(Index { media_type: raw.media_type, manifests }))
            }
            // One document read in two ways by two programs is an old trick.
            (_, _, Some(_)) if raw.media_type.is_empty() => Err(kind("manifest and index at once")),
            _ if raw.media_type.is_empty() => Err(kind("neither manifest nor index")),
            _ => Err(kind(&raw.media_type.chars().take(100).collect::<String>())),
        }
    }
}

impl Document {
    /// What it calls itself, or OCI's type for what it is.
    #[must_use]
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(manifest) => manifest.media_type(),
            Self::Index(index) if index.media_type.is_empty() => media::OCI_INDEX,
            Self::Index(index) => &index.media_type,
        }
    }
}

impl Manifest {
    /// A manifest for parts that came without one. The same parts make the same bytes.
    #[must_use]
    pub fn synthesise(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: media::OCI_MANIFEST.into(), config, layers }
    }

    /// What it calls itself, or OCI's type if it does not.
    #[must_use]
    pub fn media_type(&self) -> &str {
        if self.media_type.is_empty() { media::OCI_MANIFEST } else { &self.media_type }
    }

    /// As the bytes of a blob.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers are JSON")
    }

    /// Whether all layers are such as can be pulled and unpacked.
    ///
    /// # Errors
    /// Naming the first that is not.
    pub fn check_layers(&self) -> Result<(), ManifestError> {
        self.check_foreign()?;
        for layer in &self.layers {
            let media_type = layer.media_type.clone();
            if !media::LAYERS.contains(&&*media_type) {
                return Err(ManifestError::LayerType { layer: layer.digest.clone(), media_type });
            }
        }
        Ok(())
    }
}

impl Manifest {
    /// Whether all layers are in the registry.
    ///
    /// # Errors
    /// Naming the first that is not.
    pub fn check_foreign(&self) -> Result<(), ManifestError> {
        let is_foreign = |t: &str| t.contains("foreign") || t.contains("nondistributable");
        match self.layers.iter().find(|layer| is_foreign(&layer.media_type)) {
            None => Ok(()),
            Some(layer) => Err(ManifestError::ForeignLayer {
                layer: layer.digest.clone(),
                media_type: layer.media_type.clone(),
            }),
        }
    }
}

impl Index {
    /// The entry that serves `platform` best. An only entry that says no platform is taken at its
    /// word: its config tells.
    ///
    /// # Errors
    /// When there is none; `digest` is the index's own.
    pub fn choose(
        &self,
        platform: &Platform,
        digest: &Digest,
    ) -> Result<&Descriptor, ManifestError> {
        let ranked = self.manifests.iter().filter_map(|entry| {
            let offered = entry.platform.as_ref()?;
            platform.rank(offered).map(|rank| (rank, entry))
        });
        // The first of equals, as everyone takes it.
        let best = ranked.fold(None, |best: Option<(u32, &Descriptor)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            _ => Some(next),
        });
        match (best, &*self.manifests) {
            (Some((_, entry)), _) => Ok(entry),
            (None, [only]) if only.platform.is_none() => Ok(only),
            (None, _) => Err(ManifestError::NoPlatform {
                digest: digest.clone(),
                platform: platform.to_string(),
                offered: self.manifests.iter().filter_map(|m| m.platform.clone()).collect(),
            }),
        }
    }
}

impl crate::fault::Fault for ManifestError {
    fn kind(&self) -> wharf_proto::kind::Kind {
        use wharf_proto::kind::Kind;
        match self {
            Self::Json { .. } => Kind::Corrupt,
            Self::Kind { .. } | Self::ForeignLayer { .. } | Self::LayerType { .. } => {
                Kind::Unsupported
            }
            Self::TooManyLayers { .. } => Kind::Exhausted,
            Self::NoPlatform { .. } => Kind::NotFound,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Json { .. } => "MANIFEST_DAMAGED",
            Self::Kind { .. } => "MANIFEST_UNSUPPORTED",
            Self::ForeignLayer { .. } => "FOREIGN_LAYER",
            Self::LayerType { .. } => "NOT_AN_IMAGE",
            Self::TooManyLayers { .. } => "TOO_MANY_LAYERS",
            Self::NoPlatform { .. } => "NO_SUCH_PLATFORM",
        }
    }

    fn detail(&self) -> crate::fault::Detail {
        let (kind, name) = match self {
            Self::Json { digest, .. }
            | Self::Kind { digest, .. }
            | Self::TooManyLayers { digest, .. }
            | Self::NoPlatform { digest, .. } => ("manifest", digest),
            Self::ForeignLayer { layer, .. } | Self::LayerType { layer, .. } => ("layer", layer),
        };
        crate::fault::Detail::Resource { kind, name: name.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, Document, Index, Manifest, ManifestError, Platform, media};
    use crate::drivers::content::Digest;

    fn descriptor(media_type: &str, platform: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest: Digest::of(platform.unwrap_or("none").as_bytes()),
            size: 1,
            urls: Vec::new(),
            annotations: Default::default(),
            platform: platform.map(|p| p.parse().expect("a platform")),
        }
    }

    #[test]
    fn the_entry_for_this_platform_is_chosen() {
        let entry = |p| descriptor(media::OCI_MANIFEST, p);
        let all = [Some("unknown/unknown"), Some("linux/arm64/v8"), Some("linux/amd64")];
        let index = Index { media_type: String::new(), manifests: all.map(entry).to_vec() };
        let digest = Digest::of(b"index");
        let amd64: Platform = "linux/amd64".parse().expect("a platform");
        assert_eq!(index.choose(&amd64, &digest).expect("chosen"), &index.manifests[2]);
        let s390x = "linux/s390x".parse().expect("a platform");
        let error = index.choose(&s390x, &digest).expect_err("none");
        assert!(error.to_string().contains("linux/arm64"), "{error}");
        let only = Index { media_type: String::new(), manifests: vec![entry(None)] };
        assert_eq!(only.choose(&s390x, &digest).expect("chosen"), &only.manifests[0]);
    }

    #[test]
    fn documents_are_one_thing_or_the_other() {
        let digest = Digest::of(b"x");
        let parse = |text: &str| Document::parse(text.as_bytes(), &digest);
        let blob =
            format!(r#"{{"mediaType":"m","size":3,"digest":"{digest}","annotations":null}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#);
        assert!(matches!(parse(&manifest), Ok(Document::Manifest(m)) if m.layers.len() == 1));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{blob}]}}"#);
        assert!(matches!(parse(&index), Ok(Document::Index(i)) if i.manifests.len() == 1));
        for bad in [
            format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[],"manifests":[]}}"#),
            format!(r#"{{"schemaVersion":1,"config":{blob},"layers":[]}}"#),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","config":{blob},"layers":[]}}"#,
                media::OCI_INDEX
            ),
            r#"{"schemaVersion":2}"#.into(),
        ] {
            assert!(matches!(parse(&bad), Err(ManifestError::Kind { .. })), "{bad}");
        }
        assert!(matches!(parse("{"), Err(ManifestError::Json { .. })));
        assert!(parse(&manifest.replace("\"size\":3", "\"size\":-3")).is_err());
    }

    #[test]
    fn foreign_layers_are_refused_with_a_word() {
        let config = descriptor(media::OCI_CONFIG, None);
        let check = |media_type: &str| {
            Manifest::synthesise(config.clone(), vec![descriptor(media_type, None)]).check_layers()
        };
        for good in media::LAYERS {
            check(good).expect("accepted");
        }
        for foreign in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        ] {
            assert!(matches!(check(foreign), Err(ManifestError::ForeignLayer { .. })));
        }
        assert!(matches!(check("application/wasm"), Err(ManifestError::LayerType { .. })));
    }
}
