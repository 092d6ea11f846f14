//! Pause, resume, restart.

use std::{sync::Arc, time::Duration};

use super::{Containers, Error, Window, ask, driver::Command, record::Record, spec::Signal};
use crate::{ids::Namespace, services::requests};

impl Containers {
    /// Freezes a container; one that is frozen is as wanted.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub async fn pause(
        &self,
        namespace: &Namespace,
        container: &str,
    ) -> Result<Arc<Record>, Error> {
        let handle = self.tools.table.find(namespace, container)?;
        ask(&handle, |reply| Command::Pause { reply }).await?;
        Ok(handle.record())
    }

    /// Lets a container go on; one that runs is as wanted.
    ///
    /// # Errors
    /// [`Error::State`] when it does not run.
    pub async fn resume(
        &self,
        namespace: &Namespace,
        container: &str,
    ) -> Result<Arc<Record>, Error> {
        let handle = self.tools.table.find(namespace, container)?;
        ask(&handle, |reply| Command::Resume { reply }).await?;
        Ok(handle.record())
    }

    /// Stops a container, if it runs, and starts it. What was begun is finished though the caller
    /// goes away.
    ///
    /// # Errors
    /// As `stop` and `start`.
    pub async fn restart(
        &self,
        namespace: &Namespace,
        container: &str,
        signal: Option<Signal>,
        timeout: Option<Duration>,
    ) -> Result<Arc<Record>, Error> {
        let id = self.tools.table.find(namespace, container)?.record().id.to_string();
        let (containers, namespace) = (self.clone(), namespace.clone());
        let ticket = requests::current();
        // Its second half was begun by this same request: the first is not done again.
        let stopped = requests::done_before().is_some();
        let both = async move {
            let handle = containers.tools.table.find(&namespace, &id)?;
            if !stopped {
                ask(&handle, |reply| Command::Restarting { yes: true, reply }).await?;
                if let Err(error) = containers.stop(&namespace, &id, signal, timeout).await {
                    let undone = ask(&handle, |reply| Command::Restarting { yes: false, reply });
                    // Removed meanwhile: nothing to undo.
                    let _ = undone.await;
                    return Err(error);
                }
            }
            let start = containers.start(&namespace, &id, Window::default());
            match ticket {
                Some(ticket) => ticket.scope(start).await,
                None => start.await,
            }
        };
        // Ends with the start, or with the limits of stop.
        tokio::spawn(both).await.expect("a restart does not panic")
    }
}
