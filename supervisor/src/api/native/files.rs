//! wharf.v1.Files.

use std::io::{self, BufWriter, Read, Write};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wharf_proto::v1::{self, files_server, read_files_response, write_files_request};

use super::{
    status::from_fault,
    translate::{namespace, timestamp},
};
use crate::{
    drivers::{
        files::{Follow, Found, Keep},
        snapshots::{Access, ChangeKind},
    },
    services::containers::{Containers, Error},
};

const QUEUE_LEN: usize = 8;
const PIECE_BYTES: usize = 256 << 10;
/// Changes in one message.
const BATCH: usize = 256;

/// The service.
#[derive(Clone, Debug)]
pub struct FilesApi {
    /// What it translates for.
    pub containers: Containers,
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = ReceiverStream<Result<T, Status>>;

#[allow(clippy::needless_pass_by_value)]
fn fault(error: Error) -> Status {
    from_fault(&error)
}

#[tonic::async_trait]
impl files_server::Files for FilesApi {
    type ReadStream = Answers<v1::ReadFilesResponse>;
    type ExportStream = Answers<v1::ExportFilesResponse>;
    type ChangesStream = Answers<v1::ChangedFilesResponse>;

    async fn stat(&self, request: Request<v1::StatFileRequest>) -> Answer<v1::StatFileResponse> {
        let namespace = namespace(&request)?;
        let v1::StatFileRequest { container, path } = request.into_inner();
        let root = self.containers.files(&namespace, &container, Access::Read).await;
        let root = root.map_err(fault)?;
        let found = tokio::task::spawn_blocking(move || root.find(&path, Follow::No));
        let found = found.await.expect("looking does not panic").map_err(fault)?;
        Ok(Response::new(v1::StatFileResponse { stat: Some(stat_message(&found)) }))
    }

    async fn read(&self, request: Request<v1::ReadFilesRequest>) -> Answer<Self::ReadStream> {
        let namespace = namespace(&request)?;
        let v1::ReadFilesRequest { container, path, follow_link } = request.into_inner();
        let root = self.containers.files(&namespace, &container, Access::Read).await;
        let root = root.map_err(fault)?;
        let follow = if follow_link { Follow::Yes } else { Follow::No };
        let (answers, stream) = mpsc::channel(QUEUE_LEN);
        // Ends with the last piece, or with a caller that hangs up.
        tokio::task::spawn_blocking(move || {
            let data =
                |data| v1::ReadFilesResponse { kind: Some(read_files_response::Kind::Data(data)) };
            let packed = root.find(&path, follow).and_then(|found| {
                let stat = read_files_response::Kind::Stat(stat_message(&found));
                // One that has hung up is found out by the next piece.
                let _ = answers.blocking_send(Ok(v1::ReadFilesResponse { kind: Some(stat) }));
                root.pack(&found, sending(&answers, data))
            });
            tell_end(&answers, packed);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn write(
        &self,
        request: Request<Streaming<v1::WriteFilesRequest>>,
    ) -> Answer<v1::WriteFilesResponse> {
        let namespace = namespace(&request)?;
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|first| first.kind);
        let Some(write_files_request::Kind::Start(start)) = first else {
            return Err(Status::invalid_argument("the first message of a write is `start`"));
        };
        let root = self.containers.files(&namespace, &start.container, Access::Write).await;
        let root = root.map_err(fault)?;
        let keep = if start.keep_owners { Keep::Owners } else { Keep::Nothing };
        let (pieces, source) = mpsc::channel(QUEUE_LEN);
        let (told, end) = tokio::sync::oneshot::channel();
        // A thread of its own: where the container has users of its own, it becomes their root.
        std::thread::Builder::new()
            .name("files".into())
            .spawn(move || {
                let source = Source { pieces: source, current: Bytes::new() };
                let written = root.extract(source, &start.path, keep);
                drop(root);
                let _ = told.send(written);
            })
            .map_err(|e| Status::resource_exhausted(format!("start a thread: {e}")))?;
        let forward = async {
            loop {
                let piece = match requests.message().await {
                    Ok(None) => return,
                    Ok(Some(v1::WriteFilesRequest {
                        kind: Some(write_files_request::Kind::Data(data)),
                    })) => Ok(Bytes::from(data)),
                    Ok(Some(_)) => Err(io::Error::other("only `data` follows `start`")),
                    Err(status) => Err(io::Error::other(status)),
                };
                let failed = piece.is_err();
                if pieces.send(piece).await.is_err() || failed {
                    return;
                }
            }
        };
        tokio::pin!(end);
        let written = tokio::select! {
            written = &mut end => written,
            () = forward => {
                drop(pieces);
                end.await
            }
        };
        written.map_err(|_| Status::internal("the writing thread is gone"))?.map_err(fault)?;
        Ok(Response::new(v1::WriteFilesResponse {}))
    }

    async fn export(&self, request: Request<v1::ExportFilesRequest>) -> Answer<Self::ExportStream> {
        let namespace = namespace(&request)?;
        let container = request.into_inner().container;
        let root = self.containers.root_alone(&namespace, &container).await.map_err(fault)?;
        let (answers, stream) = mpsc::channel(QUEUE_LEN);
        // As in `read`.
        tokio::task::spawn_blocking(move || {
            let data = |data| v1::ExportFilesResponse { data };
            let packed = root
                .find("/.", Follow::No)
                .and_then(|found| root.pack(&found, sending(&answers, data)));
            tell_end(&answers, packed);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn changes(
        &self,
        request: Request<v1::ChangedFilesRequest>,
    ) -> Answer<Self::ChangesStream> {
        let namespace = namespace(&request)?;
        let container = request.into_inner().container;
        self.containers.get(&namespace, &container).map_err(fault)?;
        let (answers, stream) = mpsc::channel(QUEUE_LEN);
        let containers = self.containers.clone();
        tokio::spawn(async move {
            let (batches, mut queue) = mpsc::channel::<v1::ChangedFile>(BATCH);
            let tell = move |kind, path: &[u8]| {
                let sent = batches.blocking_send(change_message(kind, path));
                sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
            };
            let forward = async {
                let mut changes = Vec::new();
                while queue.recv_many(&mut changes, BATCH).await > 0 {
                    let changes = std::mem::take(&mut changes);
                    let sent = answers.send(Ok(v1::ChangedFilesResponse { changes })).await;
                    if sent.is_err() {
                        queue.close();
                        return;
                    }
                }
            };
            let walk = containers.changed(&namespace, &container, tell);
            let (walked, ()) = tokio::join!(walk, forward);
            if let Err(error) = walked {
                // An error here says that the caller has gone.
                let _ = answers.send(Err(fault(error))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn tell_end<T>(answers: &mpsc::Sender<Result<T, Status>>, end: Result<(), Error>) {
    if let Err(error) = end {
        // An error here says that the caller has gone.
        let _ = answers.blocking_send(Err(fault(error)));
    }
}

fn stat_message(found: &Found) -> v1::FileStat {
    let stat = &found.stat;
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    v1::FileStat {
        name: String::from_utf8_lossy(&found.called).into_owned(),
        mode: stat.st_mode,
        size_bytes: u64::try_from(stat.st_size).unwrap_or(0),
        modified_at: Some(timestamp(stat.st_mtime.saturating_mul(1_000_000_000) + nanos)),
        link_target: String::from_utf8_lossy(&found.link_target).into_owned(),
    }
}

fn change_message(kind: ChangeKind, path: &[u8]) -> v1::ChangedFile {
    use v1::changed_file::Kind;
    let kind = match kind {
        ChangeKind::Added => Kind::Added,
        ChangeKind::Modified => Kind::Modified,
        ChangeKind::Deleted => Kind::Deleted,
    };
    v1::ChangedFile { kind: kind.into(), path: format!("/{}", String::from_utf8_lossy(path)) }
}

/// Sends what is written.
struct Sending<'a, T, F> {
    answers: &'a mpsc::Sender<Result<T, Status>>,
    message: F,
}

fn sending<T, F: Fn(Vec<u8>) -> T>(
    answers: &mpsc::Sender<Result<T, Status>>,
    message: F,
) -> BufWriter<Sending<'_, T, F>> {
    BufWriter::with_capacity(PIECE_BYTES, Sending { answers, message })
}

impl<T, F: Fn(Vec<u8>) -> T> Write for Sending<'_, T, F> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let sent = self.answers.blocking_send(Ok((self.message)(buf.to_vec())));
        sent.map(|()| buf.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Source {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.current = piece?,
            }
        }
        let n = self.current.len().min(buf.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}
