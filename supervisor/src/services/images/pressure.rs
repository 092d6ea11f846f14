//! A disk that fills up: images that nothing needs go, the oldest first, until there is room again.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{Error, Force, Image, Images};

/// How often the disk is looked at.
const EVERY: Duration = Duration::from_secs(60);

/// Which images may go by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relieve {
    /// None: only what nothing names.
    None,
    /// Those without a name that no container was made from.
    #[default]
    Dangling,
    /// All that no container was made from.
    Unused,
}

/// When the disk is too full, and what is done then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Begins when so much of the file system is in use; 0: never.
    pub high_percent: u8,
    /// Ends when no more than this is.
    pub low_percent: u8,
    /// What may go.
    pub images: Relieve,
}

impl Default for Pressure {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, images: Relieve::default() }
    }
}

impl Images {
    /// Keeps the disk below its bound, for as long as the daemon lives.
    pub async fn keep_below(self, pressure: Pressure, folder: PathBuf) {
        if pressure.high_percent == 0 {
            return;
        }
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let folder = folder.clone();
            let used = move || used_percent(&folder);
            if used().is_none_or(|used| used < pressure.high_percent) {
                continue;
            }
            match self.relieve(pressure, used).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(images = count, "removed to make room"),
                Err(error) => {
                    tracing::warn!(error = crate::fault::chain(&error), "no room could be made");
                }
            }
        }
    }

    /// Takes images away until `used` says that there is room. Answers with how many went.
    ///
    /// # Errors
    /// When the records or folders can't be read or changed.
    pub async fn relieve(
        &self,
        pressure: Pressure,
        used: impl Fn() -> Option<u8>,
    ) -> Result<usize, Error> {
        if self.inner.gate.is_forbidden() {
            return Ok(0);
        }
        self.collect().await?;
        let mut candidates = Vec::new();
        for image in self.inner.store.all::<Image>()? {
            candidates.push(image?.1);
        }
        candidates.sort_by_key(|image| (!image.names.is_empty(), image.imported_unix_ns));
        let mut count = 0;
        for image in candidates {
            if used().is_none_or(|used| used <= pressure.low_percent) {
                break;
            }
            let may_go = match pressure.images {
                Relieve::None => false,
                Relieve::Dangling => image.names.is_empty(),
                Relieve::Unused => true,
            };
            if !may_go || self.is_used(&image) {
                continue;
            }
            let names: Vec<String> = match image.names.as_slice() {
                [] => vec![image.id.to_string()],
                names => names.iter().map(|n| n.reference.clone()).collect(),
            };
            for name in names {
                match self.remove(&image.namespace, &name, Force::No).await {
                    Ok(_) => {}
                    Err(Error::InUse { .. } | Error::NotFound(_)) => break,
                    Err(error) => return Err(error),
                }
            }
            count += 1;
        }
        Ok(count)
    }
}

/// How much of the file system is in use, as `df` counts it.
fn used_percent(folder: &std::path::Path) -> Option<u8> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    let used = stat.f_blocks.checked_sub(stat.f_bfree)?;
    let all = used + stat.f_bavail;
    u8::try_from((used * 100).div_ceil(all.max(1))).ok()
}
