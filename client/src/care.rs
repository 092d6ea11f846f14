//! Looking after the supervisor's own records.

use std::time::Duration;

use tonic::Streaming;
use wharf_proto::v1::{BackupRequest, BackupResponse, DoctorRequest, DoctorResponse};

use crate::{calls::mutate, connection::Client, error::Error};

/// For what may read every byte there is.
const LIMIT: Duration = Duration::from_secs(3600);

impl Client {
    /// What is wrong; with `repair`, what can be is put right.
    ///
    /// # Errors
    /// As any call.
    pub async fn doctor(&self, request: DoctorRequest) -> Result<DoctorResponse, Error> {
        mutate!(self, "Doctor", LIMIT, request, system.doctor).await
    }

    /// All metadata as of one moment.
    ///
    /// # Errors
    /// As any call.
    pub async fn backup(&self) -> Result<Backup, Error> {
        let answers = self.system().backup(BackupRequest {}).await;
        let stream = answers.map_err(|status| self.error("Backup", status))?.into_inner();
        Ok(Backup { client: self.clone(), stream })
    }
}

/// A backup under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Backup {
    client: Client,
    stream: Streaming<BackupResponse>,
}

impl Backup {
    /// The next piece of the file; None after its last.
    ///
    /// # Errors
    /// As any call.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let answer = self.stream.message().await;
        let answer = answer.map_err(|status| self.client.error("Backup", status))?;
        Ok(answer.map(|answer| answer.data))
    }
}
