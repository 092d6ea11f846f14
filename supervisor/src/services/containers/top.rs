//! The processes of a container, as the host sees them.

use super::{Containers, Error, live};
use crate::{
    drivers::processes::{self, Seen},
    ids::Namespace,
};

/// One process.
#[derive(Clone, Debug, Default)]
pub struct TopEntry {
    /// As the host sees it.
    pub seen: Seen,
    /// The exec that it was started by.
    pub exec_id: String,
}

impl Containers {
    /// The processes of a container that runs, by pid.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub async fn processes(
        &self,
        namespace: &Namespace,
        container: &str,
    ) -> Result<Vec<TopEntry>, Error> {
        let handle = self.tools.table.find(namespace, container)?;
        let (record, shim) = live(&handle, "list the processes of").await?;
        let pids = shim.pids().await;
        let pids = pids.map_err(|source| Error::Shim { name: record.name.clone(), source })?;
        let looked = tokio::task::spawn_blocking(move || {
            let users = processes::Users::of_host();
            let mut found = Vec::new();
            for (pid, exec_id) in pids {
                // One that has ended in between is not there.
                if let Some(seen) = processes::look(pid, &users) {
                    found.push(TopEntry { seen, exec_id });
                }
            }
            found.sort_by_key(|entry| entry.seen.pid);
            found
        });
        Ok(looked.await.expect("looking does not panic"))
    }
}
