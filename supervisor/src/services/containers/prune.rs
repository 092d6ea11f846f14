//! Containers that have stopped, taken away together; and what containers take on the disk.

use super::{Containers, Error, machine::State, record::Record};
use crate::{drivers::snapshots::Usage, ids::Namespace, services::prune::PruneFilter};

impl Containers {
    /// Takes away the containers of the namespace that do not run. Answers with their ids and bytes.
    ///
    /// # Errors
    /// When one can't be taken away.
    pub async fn prune(
        &self,
        namespace: &Namespace,
        filter: &PruneFilter,
    ) -> Result<(Vec<String>, u64), Error> {
        let mut gone = Vec::new();
        let mut bytes = 0;
        for record in self.list(namespace) {
            let is_over = matches!(record.state, State::Created | State::Stopped { .. })
                && !record.restarts.waiting;
            if !is_over || !filter.lets(&record.spec.labels, record.created_unix_ns) {
                continue;
            }
            let (containers, measured) = (self.clone(), record.clone());
            let usage = tokio::task::spawn_blocking(move || containers.usage(&measured)).await;
            match self.delete(namespace, record.id.as_str(), false, false).await {
                Ok(()) => {
                    gone.push(record.id.to_string());
                    bytes += usage.map_or(0, |usage| usage.bytes);
                }
                // Started or removed since.
                Err(Error::State { .. } | Error::NotFound(_) | Error::Removed(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((gone, bytes))
    }

    /// What a container has written to its root file system; nothing before its first start. Blocks.
    #[must_use]
    pub fn usage(&self, record: &Record) -> Usage {
        self.tools.snapshots.usage(&record.id).unwrap_or_default()
    }

    /// [`Containers::usage`] in bytes, and the same with its image. Blocks.
    #[must_use]
    pub fn sizes(&self, record: &Record) -> (u64, u64) {
        let own = self.usage(record).bytes;
        let image = self.images.get(&record.namespace, &record.image.id);
        (own, own + image.map_or(0, |image| image.size_bytes))
    }
}
