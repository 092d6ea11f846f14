//! What all of it takes on the disk.

use std::sync::Arc;

use super::{
    containers::{Containers, record::Record},
    images::{Images, ImagesUsage},
    volumes::{self, Volume, Volumes},
};
use crate::{drivers::snapshots::Usage, ids::Namespace};

/// Of one namespace, but for the sums over images, which share their layers with others'.
#[derive(Debug)]
pub struct DiskUsage {
    /// Images.
    pub images: ImagesUsage,
    /// Containers, and what they have written to their root file systems.
    pub containers: Vec<(Arc<Record>, Usage)>,
    /// Volumes, the containers that have them, and what is in them.
    pub volumes: Vec<(Volume, Vec<String>, Usage)>,
}

/// Measures everything. Blocks, for as long as it takes to look at all files.
///
/// # Errors
/// When the records can't be read.
pub fn measure(
    namespace: &Namespace,
    images: &Images,
    containers: &Containers,
    volumes: &Volumes,
) -> Result<DiskUsage, Error> {
    let users = volumes.users();
    let measured = |volume: Volume| {
        let key = (namespace.clone(), volume.name.clone());
        // A folder of the host is the host's.
        let usage = match volume.options.contains_key("device") {
            true => Usage::default(),
            false => volumes.usage(&volume).unwrap_or_default(),
        };
        (volume, users.get(&key).cloned().unwrap_or_default(), usage)
    };
    Ok(DiskUsage {
        images: images.usage(namespace)?,
        containers: containers
            .list(namespace)
            .into_iter()
            .map(|record| {
                let usage = containers.usage(&record);
                (record, usage)
            })
            .collect(),
        volumes: volumes.list(namespace)?.into_iter().map(measured).collect(),
    })
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of images.
    #[error(transparent)]
    Images(#[from] super::images::Error),
    /// Of volumes.
    #[error(transparent)]
    Volumes(#[from] volumes::Error),
}

impl crate::fault::Fault for Error {
    fn kind(&self) -> wharf_proto::kind::Kind {
        match self {
            Self::Images(e) => e.kind(),
            Self::Volumes(e) => e.kind(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Images(e) => e.reason(),
            Self::Volumes(e) => e.reason(),
        }
    }
}
