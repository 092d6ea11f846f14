//! How an image came about, layer by layer.

use super::{Error, Image, Images};
use crate::{
    drivers::{content::Digest, snapshots::chain_ids},
    ids::Namespace,
};

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Nanoseconds since the epoch, by its own word.
    pub created_unix_ns: Option<i64>,
    /// What made it.
    pub created_by: String,
    /// Who.
    pub author: String,
    /// A word about it.
    pub comment: String,
    /// Bytes of its layer, unpacked.
    pub size_bytes: u64,
    /// Digest of its layer's tar; none of a step without a layer.
    pub diff_id: Option<Digest>,
}

impl Images {
    /// An image's steps, the newest first, and the image.
    ///
    /// # Errors
    /// When it is not here, or its config is damaged.
    pub async fn history(
        &self,
        namespace: &Namespace,
        asked: &str,
    ) -> Result<(Image, Vec<Step>), Error> {
        let image = self.get(namespace, asked)?;
        let (_, config) = self.config(&image).await?;
        let bad = |problem: String| Error::Config { digest: image.id.clone(), problem };
        let diff_ids: Vec<Digest> = config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|id| id.parse().map_err(|e| bad(format!("{e}"))))
            .collect::<Result<_, _>>()?;
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (chain_id, diff_id) in chain_ids(&diff_ids).iter().zip(&diff_ids) {
            let record = self.inner.snapshots.layer(chain_id)?;
            layers.push((diff_id.clone(), record.map_or(0, |record| record.size_bytes)));
        }
        let mut layers = layers.into_iter();
        let mut steps = Vec::new();
        for entry in config.history().iter().flatten() {
            let created =
                entry.created().as_deref().and_then(|t| t.parse::<jiff::Timestamp>().ok());
            let layer = if entry.empty_layer().unwrap_or(false) { None } else { layers.next() };
            let (diff_id, size_bytes) = layer.map_or((None, 0), |(id, size)| (Some(id), size));
            steps.push(Step {
                created_unix_ns: created.and_then(|t| i64::try_from(t.as_nanosecond()).ok()),
                created_by: entry.created_by().clone().unwrap_or_default(),
                author: entry.author().clone().unwrap_or_default(),
                comment: entry.comment().clone().unwrap_or_default(),
                size_bytes,
                diff_id,
            });
        }
        // Layers of which the history does not speak.
        for (diff_id, size_bytes) in layers {
            steps.push(Step { size_bytes, diff_id: Some(diff_id), ..Step::default() });
        }
        steps.reverse();
        Ok((image, steps))
    }
}
