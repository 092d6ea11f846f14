//! Images on their way: pull from a registry, import and export of archives.

use std::{
    io::{self, Read},
    time::Instant,
};

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use wharf_proto::v1::{
    ExportImageRequest, ExportImageResponse, Image, ImportImageRequest, ImportImageResponse,
    ImportStart, Progress, PullImageRequest, PullImageResponse, TimeSpent, import_image_request,
    import_image_response, pull_image_response,
};

use crate::{backoff::Backoff, connection::Client, error::Error};

/// Size of one piece of an archive.
const PIECE: usize = 256 << 10;

/// What a pull or an import tells.
#[derive(Debug)]
pub enum PullEvent {
    Progress(Progress),
    /// The last event. `up_to_date`: nothing had to be fetched (pull only).
    Done {
        images: Vec<Image>,
        up_to_date: bool,
        /// Where the time went (pull only).
        spent: Option<TimeSpent>,
    },
}

impl Client {
    /// Pulls an image. Asked again when the supervisor was restarted meanwhile: what has come is not
    /// fetched again.
    ///
    /// # Errors
    /// As any call; a break while opening is not retried.
    pub async fn pull(&self, request: PullImageRequest) -> Result<Pull, Error> {
        let answers = self.images().pull(request.clone()).await;
        let stream = answers.map_err(|status| self.error("Pull", status))?.into_inner();
        let mut backoff = self.backoff();
        backoff.opened(Instant::now());
        Ok(Pull { client: self.clone(), request, stream: Some(stream), backoff })
    }

    /// Exports images as one archive, piece by piece. A break ends it: an archive can't be taken up
    /// in its middle.
    ///
    /// # Errors
    /// As any call.
    pub async fn export(&self, images: Vec<String>, platform: &str) -> Result<Export, Error> {
        let request = ExportImageRequest { images, platform: platform.to_owned() };
        let answers = self.images().export(request).await;
        let stream = answers.map_err(|status| self.error("Export", status))?.into_inner();
        Ok(Export { client: self.clone(), stream })
    }

    /// Imports an archive, read on a thread of its own as fast as the server takes it.
    ///
    /// # Errors
    /// As any call.
    pub async fn import(
        &self,
        name: &str,
        archive: impl Read + Send + 'static,
    ) -> Result<Import, Error> {
        let (pieces, queue) = mpsc::channel(8);
        let (failure, failed) = std::sync::mpsc::channel();
        let start = ImportStart { name: name.to_owned() };
        std::thread::spawn(move || {
            if let Err(error) = send_archive(start, archive, &pieces) {
                // Told before `pieces` is dropped, which is what ends the stream.
                let _ = failure.send(error);
            }
        });
        let answers = self.images().import(ReceiverStream::new(queue)).await;
        let mut import = Import { client: self.clone(), stream: None, failed };
        match answers {
            Ok(stream) => import.stream = Some(stream.into_inner()),
            Err(status) => return Err(import.error(status)),
        }
        Ok(import)
    }
}

fn send_archive(
    start: ImportStart,
    archive: impl Read,
    pieces: &mpsc::Sender<ImportImageRequest>,
) -> io::Result<()> {
    let send = |kind| pieces.blocking_send(ImportImageRequest { kind: Some(kind) }).is_ok();
    let start = send(import_image_request::Kind::Start(start));
    if start {
        send_all(archive, |data| send(import_image_request::Kind::Data(data)))
    } else {
        Ok(())
    }
}

/// Reads all, and sends it piece by piece while anybody wants it.
pub(crate) fn send_all(mut archive: impl Read, send: impl Fn(Vec<u8>) -> bool) -> io::Result<()> {
    let mut wanted = true;
    let mut buffer = BytesMut::zeroed(PIECE);
    while wanted {
        match archive.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                wanted = send(buffer[..count].to_vec());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A pull under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Pull {
    client: Client,
    request: PullImageRequest,
    stream: Option<Streaming<PullImageResponse>>,
    backoff: Backoff,
}

impl Pull {
    /// The next event; None after [`PullEvent::Done`].
    ///
    /// # Errors
    /// The server's refusal, or the last failure when patience is at an end.
    pub async fn next(&mut self) -> Result<Option<PullEvent>, Error> {
        use pull_image_response::Kind;
        loop {
            let answer = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.client.images().pull(self.request.clone()).await {
                    Ok(stream) => {
                        self.backoff.opened(Instant::now());
                        self.stream = Some(stream.into_inner());
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return Ok(None),
                Err(status) => {
                    self.stream = None;
                    let error = self.client.error("Pull", status);
                    // UNAVAILABLE from the server itself is the registry's.
                    if error.refusal().is_some() {
                        return Err(error);
                    }
                    self.backoff.retry(error).await?;
                    continue;
                }
            };
            return Ok(Some(match answer.kind {
                Some(Kind::Progress(progress)) => PullEvent::Progress(progress),
                Some(Kind::Done(done)) => PullEvent::Done {
                    images: done.image.into_iter().collect(),
                    up_to_date: done.up_to_date,
                    spent: done.spent,
                },
                None => continue,
            }));
        }
    }
}

/// An import under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Import {
    client: Client,
    stream: Option<Streaming<ImportImageResponse>>,
    failed: std::sync::mpsc::Receiver<io::Error>,
}

impl Import {
    /// The next event; None after [`PullEvent::Done`].
    ///
    /// # Errors
    /// As any call; [`Error::Archive`] when the archive could not be read.
    pub async fn next(&mut self) -> Result<Option<PullEvent>, Error> {
        use import_image_response::Kind;
        loop {
            let Some(stream) = &mut self.stream else { return Ok(None) };
            let answer = stream.message().await;
            let Some(answer) = answer.map_err(|status| self.error(status))? else {
                return Ok(None);
            };
            return Ok(Some(match answer.kind {
                Some(Kind::Progress(progress)) => PullEvent::Progress(progress),
                Some(Kind::Done(done)) => {
                    PullEvent::Done { images: done.images, up_to_date: false, spent: None }
                }
                None => continue,
            }));
        }
    }

    /// A failure to read the archive is what the server's complaint about its end comes from.
    fn error(&self, status: tonic::Status) -> Error {
        match self.failed.try_recv() {
            Ok(source) => Error::Archive { source },
            Err(_) => self.client.error("Import", status),
        }
    }
}

/// An export under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Export {
    client: Client,
    stream: Streaming<ExportImageResponse>,
}

impl Export {
    /// The next piece of the archive; None after its last.
    ///
    /// # Errors
    /// As any call.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let answer = self.stream.message().await;
        let answer = answer.map_err(|status| self.client.error("Export", status))?;
        Ok(answer.map(|answer| answer.data))
    }
}
