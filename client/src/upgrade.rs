//! An upgrade of the supervisor: its steps from the old one, its end from whichever serves after it.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Instant,
};

use tonic::Streaming;
use wharf_proto::v1::{
    UpgradeDone, UpgradeProgress, UpgradeRequest, UpgradeResponse, upgrade_response::Kind,
};

use crate::{backoff::Backoff, connection::Client, error::Error};

/// What an upgrade tells.
#[derive(Debug, Clone, PartialEq)]
pub enum UpgradeEvent {
    Progress(UpgradeProgress),
    /// The last one: another supervisor serves.
    Done(UpgradeDone),
}

/// An upgrade under way. Dropping it leaves the upgrade going.
#[derive(Debug)]
pub struct Upgrade {
    client: Client,
    request: UpgradeRequest,
    stream: Option<Streaming<UpgradeResponse>>,
    backoff: Backoff,
    over: bool,
}

impl Client {
    /// Replaces the supervisor by the program `binary` on its host; empty: by the file that the
    /// running one was started from.
    ///
    /// # Errors
    /// As any call; a break while opening is not retried.
    pub async fn upgrade(&self, binary: &str) -> Result<Upgrade, Error> {
        let random = || RandomState::new().build_hasher().finish();
        let request = UpgradeRequest {
            binary: binary.to_owned(),
            upgrade_id: format!("{:016x}{:016x}", random(), random()),
            resume: false,
        };
        let stream = self.system().upgrade(request.clone()).await;
        let stream = stream.map_err(|status| self.error("Upgrade", status))?.into_inner();
        let mut backoff = self.backoff();
        backoff.opened(Instant::now());
        Ok(Upgrade { client: self.clone(), request, stream: Some(stream), backoff, over: false })
    }
}

impl Upgrade {
    /// The next event; None after [`UpgradeEvent::Done`]. May be dropped at any await and called
    /// again.
    ///
    /// # Errors
    /// Why the upgrade did not happen, or the last failure when patience is at an end.
    pub async fn next(&mut self) -> Result<Option<UpgradeEvent>, Error> {
        loop {
            if self.over {
                return Ok(None);
            }
            let answer = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.client.system().upgrade(self.request.clone()).await {
                    Ok(stream) => {
                        self.stream = Some(stream.into_inner());
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            match answer.map(|answer| answer.map(|answer| answer.kind)) {
                Ok(Some(Some(Kind::Progress(step)))) => {
                    return Ok(Some(UpgradeEvent::Progress(step)));
                }
                Ok(Some(Some(Kind::Done(done)))) => {
                    self.over = true;
                    return Ok(Some(UpgradeEvent::Done(done)));
                }
                // Of a later version of the API.
                Ok(Some(None)) => {}
                // From here on only its end is of interest: it must not begin once more.
                Ok(None) => {
                    self.request.resume = true;
                    self.stream = None;
                }
                Err(status) => {
                    self.request.resume = true;
                    self.stream = None;
                    let error = self.client.error("Upgrade", status);
                    if let Err(error) = self.backoff.retry(error).await {
                        self.over = true;
                        return Err(error);
                    }
                }
            }
        }
    }
}
