//! Files of containers: looked at, copied out and in, and what has changed.

use std::io::{self, Read};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wharf_proto::v1::{
    ChangedFile, ChangedFilesRequest, ExportFilesRequest, ExportFilesResponse, FileStat,
    ReadFilesRequest, ReadFilesResponse, StatFileRequest, WriteFilesRequest, WriteFilesStart,
    read_files_response, write_files_request,
};

use crate::{connection::Client, error::Error, transfer::send_all};

impl Client {
    /// What is at a path of a container; a link that ends it is not followed.
    ///
    /// # Errors
    /// As any call.
    pub async fn stat_file(&self, container: &str, path: &str) -> Result<FileStat, Error> {
        let request = StatFileRequest { container: container.into(), path: path.into() };
        let answer = self.files().stat(request).await;
        let answer = answer.map_err(|status| self.error("Stat", status))?.into_inner();
        Ok(answer.stat.unwrap_or_default())
    }

    /// What is at a path of a container, as a tar.
    ///
    /// # Errors
    /// As any call. A break ends it.
    pub async fn read_files(&self, request: ReadFilesRequest) -> Result<Files, Error> {
        let failed = |status| self.error("Read files", status);
        let mut stream = self.files().read(request).await.map_err(failed)?.into_inner();
        let first = stream.message().await.map_err(failed)?.and_then(|first| first.kind);
        let stat = match first {
            Some(read_files_response::Kind::Stat(stat)) => stat,
            Some(read_files_response::Kind::Data(_)) | None => FileStat::default(),
        };
        Ok(Files { client: self.clone(), stat, stream })
    }

    /// Writes a tar into a folder of a container, read on a thread of its own.
    ///
    /// # Errors
    /// As any call; [`Error::Archive`] when the archive could not be read.
    pub async fn write_files(
        &self,
        start: WriteFilesStart,
        archive: impl Read + Send + 'static,
    ) -> Result<(), Error> {
        let (pieces, queue) = mpsc::channel(8);
        let (failure, failed) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let send = |kind| pieces.blocking_send(WriteFilesRequest { kind: Some(kind) }).is_ok();
            if !send(write_files_request::Kind::Start(start)) {
                return;
            }
            let sent = send_all(archive, |data| send(write_files_request::Kind::Data(data)));
            if let Err(error) = sent {
                // Told before `pieces` is dropped, which is what ends the stream.
                let _: Result<(), std::sync::mpsc::SendError<io::Error>> = failure.send(error);
            }
        });
        let written = self.files().write(ReceiverStream::new(queue)).await;
        // What the server says to half an archive is not what was wrong.
        match (failed.try_recv(), written) {
            (Ok(source), _) => Err(Error::Archive { source }),
            (Err(_), Ok(_)) => Ok(()),
            (Err(_), Err(status)) => Err(self.error("Write files", status)),
        }
    }

    /// The root file system of a container, as a tar.
    ///
    /// # Errors
    /// As any call. A break ends it.
    pub async fn export_files(&self, container: &str) -> Result<ExportedFiles, Error> {
        let request = ExportFilesRequest { container: container.into() };
        let stream = self.files().export(request).await;
        let stream = stream.map_err(|status| self.error("Export", status))?.into_inner();
        Ok(ExportedFiles { client: self.clone(), stream })
    }

    /// What a container has changed of its image.
    ///
    /// # Errors
    /// As any call.
    pub async fn changed_files(&self, container: &str) -> Result<Vec<ChangedFile>, Error> {
        let failed = |status| self.error("Changes", status);
        let request = ChangedFilesRequest { container: container.into() };
        let mut stream = self.files().changes(request).await.map_err(failed)?.into_inner();
        let mut all = Vec::new();
        while let Some(answer) = stream.message().await.map_err(failed)? {
            all.extend(answer.changes);
        }
        Ok(all)
    }
}

/// Files on their way out. Dropping it gives them up.
#[derive(Debug)]
pub struct Files {
    client: Client,
    /// What was found at the path.
    pub stat: FileStat,
    stream: Streaming<ReadFilesResponse>,
}

impl Files {
    /// The next piece of the tar; None after its last.
    ///
    /// # Errors
    /// As any call.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            let answer = self.stream.message().await;
            let answer = answer.map_err(|status| self.client.error("Read files", status))?;
            match answer.map(|answer| answer.kind) {
                None => return Ok(None),
                Some(Some(read_files_response::Kind::Data(data))) => return Ok(Some(data)),
                Some(Some(read_files_response::Kind::Stat(_)) | None) => {}
            }
        }
    }
}

/// A root file system on its way out. Dropping it gives it up.
#[derive(Debug)]
pub struct ExportedFiles {
    client: Client,
    stream: Streaming<ExportFilesResponse>,
}

impl ExportedFiles {
    /// The next piece of the tar; None after its last.
    ///
    /// # Errors
    /// As any call.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let answer = self.stream.message().await;
        let answer = answer.map_err(|status| self.client.error("Export", status))?;
        Ok(answer.map(|answer| answer.data))
    }
}
