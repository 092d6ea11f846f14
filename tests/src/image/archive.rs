//! Images as one tar file.

use anyhow::{Context as _, Result};
use serde_json::json;
use tar::{Builder, Header};

use super::{Blob, Image};

impl Image {
    /// An OCI layout as a tar.
    ///
    /// # Errors
    /// When the tar can't be written.
    pub fn oci_tar(&self) -> Result<Vec<u8>> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": self.manifest.media_type,
                "digest": self.manifest.digest,
                "size": self.manifest.bytes.len(),
                "annotations": {
                    "io.containerd.image.name": self.full_name(),
                    "org.opencontainers.image.ref.name": self.tag(),
                },
            }],
        });
        let mut tar = Tar::new();
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.file("index.json", &serde_json::to_vec(&index)?)?;
        for blob in self.blobs() {
            tar.file(&format!("blobs/sha256/{}", blob.hex()), &blob.bytes)?;
        }
        tar.finish()
    }

    /// What `docker save` writes.
    ///
    /// # Errors
    /// When the tar can't be written.
    pub fn docker_tar(&self) -> Result<Vec<u8>> {
        let layer_path =
            |diff_id: &str| format!("{}/layer.tar", diff_id.trim_start_matches("sha256:"));
        let config = format!("{}.json", self.config.hex());
        let layers: Vec<_> = self.layers.iter().map(|l| layer_path(&l.diff_id)).collect();
        let manifest = json!([{"Config": config, "RepoTags": [self.name], "Layers": layers}]);
        let mut tar = Tar::new();
        for layer in &self.layers {
            tar.file(&layer_path(&layer.diff_id), &layer.tar)?;
        }
        tar.file(&config, &self.config.bytes)?;
        // Last, where docker puts it: a reader can't count on the order.
        tar.file("manifest.json", &serde_json::to_vec(&manifest)?)?;
        tar.finish()
    }

    /// Config, layers and manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().map(|l| &l.blob).chain([&self.config, &self.manifest])
    }

    /// "docker.io/library/busybox:test"
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.name.split_once('/') {
            Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => {
                self.name.clone()
            }
            Some(_) => format!("docker.io/{}", self.name),
            None => format!("docker.io/library/{}", self.name),
        }
    }

    fn tag(&self) -> &str {
        match self.name.rsplit_once(':') {
            Some((_, tag)) if !tag.contains('/') => tag,
            _ => "latest",
        }
    }
}

struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(u64::try_from(bytes.len())?);
        self.0.append_data(&mut header, path, bytes).with_context(|| format!("archive {path}"))
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("finish an archive")
    }
}
