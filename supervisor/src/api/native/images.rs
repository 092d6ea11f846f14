//! wharf.v1.Images.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wharf_proto::{
    kind::Kind,
    v1::{self, images_server, import_image_request, import_image_response},
};

use super::{
    status::from_fault,
    translate::{namespace, prune_filter, timestamp},
};
use crate::{
    drivers::{registry::Credentials, unpack::Spent},
    fault::Fault as _,
    services::images::{
        Error, Extent, Force, Image, Images, Progress, PullRequest, Reporter, Stage, Unneeded,
    },
};

/// Words of progress, and pieces of an archive, on their way.
pub(super) const QUEUE_LEN: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct ImagesApi {
    /// What it translates for.
    pub images: Images,
}

pub(super) type Answer<T> = Result<Response<T>, Status>;
pub(super) type Answers<T> = ReceiverStream<Result<T, Status>>;

#[allow(clippy::needless_pass_by_value)]
pub(super) fn fault(error: Error) -> Status {
    from_fault(&error)
}

pub(super) fn credentials(message: v1::Credentials) -> Credentials {
    Credentials {
        username: message.username,
        password: message.password,
        identity_token: message.identity_token,
        registry_token: message.registry_token,
    }
}

#[tonic::async_trait]
impl images_server::Images for ImagesApi {
    type ImportStream = Answers<v1::ImportImageResponse>;
    type ExportStream = Answers<v1::ExportImageResponse>;
    type PullStream = Answers<v1::PullImageResponse>;

    async fn import(
        &self,
        request: Request<Streaming<v1::ImportImageRequest>>,
    ) -> Answer<Self::ImportStream> {
        let namespace = namespace(&request)?;
        let mut requests = request.into_inner();
        let Some(import_image_request::Kind::Start(start)) =
            requests.message().await?.and_then(|first| first.kind)
        else {
            return Err(Status::invalid_argument("the first message of an import is `start`"));
        };
        let (sender, pieces) = mpsc::channel(QUEUE_LEN);
        let images = self.images.clone();
        let answers = answering(move |reporter| async move {
            let name = Some(start.name.as_str()).filter(|name| !name.is_empty());
            // The import ends with its pieces, and the pieces with an import that failed.
            let import = images.import(&namespace, name, pieces, &reporter);
            let (imported, ()) = tokio::join!(import, forward(requests, sender));
            let mut messages = Vec::new();
            for image in imported? {
                messages.push(new_message(&images, &image).await?);
            }
            Ok(import_image_response::Kind::Done(v1::ImportDone { images: messages }))
        });
        Ok(Response::new(answers))
    }

    async fn pull(&self, request: Request<v1::PullImageRequest>) -> Answer<Self::PullStream> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let credentials = request.credentials.map(credentials).filter(|c| !c.is_empty());
        let platform = Some(request.platform).filter(|platform| !platform.is_empty());
        let extent = if request.all_platforms { Extent::All } else { Extent::One };
        let request = PullRequest { reference: request.reference, platform, credentials, extent };
        let images = self.images.clone();
        let answers = answering(move |reporter| async move {
            let pulled = images.pull(&namespace, &request, &reporter).await?;
            Ok(v1::pull_image_response::Kind::Done(v1::PullDone {
                image: Some(new_message(&images, &pulled.image).await?),
                up_to_date: pulled.up_to_date,
                spent: Some(spent_message(reporter.spent())),
            }))
        });
        Ok(Response::new(answers))
    }

    async fn list(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Answer<v1::ListImagesResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let page_size = usize::try_from(request.page_size).unwrap_or(0);
        let page = self
            .images
            .list(&namespace, &request.filter, page_size, &request.page_token)
            .map_err(fault)?;
        Ok(Response::new(v1::ListImagesResponse {
            images: page.images.iter().map(image_message).collect(),
            next_page_token: page.next.unwrap_or_default(),
        }))
    }

    async fn get(&self, request: Request<v1::GetImageRequest>) -> Answer<v1::GetImageResponse> {
        let namespace = namespace(&request)?;
        let image = self.images.get(&namespace, &request.into_inner().image).map_err(fault)?;
        let (message, config_json) = whole_message(&self.images, &image).await.map_err(fault)?;
        Ok(Response::new(v1::GetImageResponse { image: Some(message), config_json }))
    }

    async fn tag(&self, request: Request<v1::TagImageRequest>) -> Answer<v1::TagImageResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let image =
            self.images.tag(&namespace, &request.image, &request.name).await.map_err(fault)?;
        Ok(Response::new(v1::TagImageResponse { image: Some(image_message(&image)) }))
    }

    async fn prune(&self, request: Request<v1::PruneImagesRequest>) -> Answer<v1::PruneResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let unneeded = if request.all { Unneeded::Unused } else { Unneeded::Dangling };
        let filter = prune_filter(request.filter);
        let pruned = self.images.prune(&namespace, unneeded, &filter).await.map_err(fault)?;
        Ok(Response::new(v1::PruneResponse {
            deleted: pruned.deleted,
            untagged: pruned.untagged,
            reclaimed_bytes: pruned.bytes,
        }))
    }

    async fn history(
        &self,
        request: Request<v1::ImageHistoryRequest>,
    ) -> Answer<v1::ImageHistoryResponse> {
        let namespace = namespace(&request)?;
        let asked = request.into_inner().image;
        let (image, steps) = self.images.history(&namespace, &asked).await.map_err(fault)?;
        let steps = steps.into_iter().map(|step| v1::HistoryStep {
            created_at: step.created_unix_ns.map(timestamp),
            created_by: step.created_by,
            author: step.author,
            comment: step.comment,
            size_bytes: step.size_bytes,
            diff_id: step.diff_id.map(|id| id.to_string()).unwrap_or_default(),
        });
        Ok(Response::new(v1::ImageHistoryResponse {
            steps: steps.collect(),
            id: image.id.to_string(),
            names: image.names.into_iter().map(|name| name.reference).collect(),
        }))
    }

    async fn export(&self, request: Request<v1::ExportImageRequest>) -> Answer<Self::ExportStream> {
        let namespace = namespace(&request)?;
        let v1::ExportImageRequest { images: asked, platform } = request.into_inner();
        if asked.is_empty() {
            return Err(Status::invalid_argument("no images to export"));
        }
        let (answers, stream) = mpsc::channel(QUEUE_LEN);
        let (pieces, mut archive) = mpsc::channel::<Bytes>(QUEUE_LEN);
        let images = self.images.clone();
        // Ends with the export, and the export with a caller that hangs up.
        tokio::spawn(async move {
            let forward = async {
                while let Some(piece) = archive.recv().await {
                    let message = v1::ExportImageResponse { data: piece.into() };
                    if answers.send(Ok(message)).await.is_err() {
                        archive.close();
                        break;
                    }
                }
            };
            let platform = Some(platform.as_str()).filter(|platform| !platform.is_empty());
            let export = images.export(&namespace, &asked, platform, pieces);
            let (exported, ()) = tokio::join!(export, forward);
            if let Err(error) = exported {
                // An error here says that the caller has gone.
                let _ = answers.send(Err(fault(error))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteImageRequest>,
    ) -> Answer<v1::DeleteImageResponse> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let force = if request.force { Force::Yes } else { Force::No };
        let removed = self.images.remove(&namespace, &request.image, force).await.map_err(fault)?;
        Ok(Response::new(v1::DeleteImageResponse {
            untagged: removed.untagged,
            deleted: removed.deleted,
        }))
    }
}

/// Messages that can carry progress or the last word.
pub(super) trait Streamed: Send + 'static {
    type Kind: Send + 'static;

    fn progress(progress: v1::Progress) -> Self::Kind;
    fn wrap(kind: Self::Kind) -> Self;
}

impl Streamed for v1::PullImageResponse {
    type Kind = v1::pull_image_response::Kind;

    fn progress(progress: v1::Progress) -> Self::Kind {
        v1::pull_image_response::Kind::Progress(progress)
    }

    fn wrap(kind: Self::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl Streamed for v1::ImportImageResponse {
    type Kind = import_image_response::Kind;

    fn progress(progress: v1::Progress) -> Self::Kind {
        import_image_response::Kind::Progress(progress)
    }

    fn wrap(kind: Self::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

/// Runs `work` and streams its progress, then its result. It ends when the caller hangs up: what it
/// leaves then is garbage at worst.
pub(super) fn answering<T: Streamed, F>(work: impl FnOnce(Reporter) -> F) -> Answers<T>
where
    F: Future<Output = Result<T::Kind, Error>> + Send + 'static,
{
    let (answers, stream) = mpsc::channel(QUEUE_LEN);
    let (listener, mut progress) = mpsc::channel(QUEUE_LEN);
    let work = work(Reporter::new(listener));
    tokio::spawn(async move {
        let mut work = std::pin::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                Some(word) = progress.recv() => {
                    // One that would wait is left out: progress must not slow the work.
                    let _ = answers.try_send(Ok(T::wrap(T::progress(progress_message(word)))));
                }
                result = &mut work => break result,
                () = answers.closed() => return,
            }
        };
        while let Ok(word) = progress.try_recv() {
            let _ = answers.try_send(Ok(T::wrap(T::progress(progress_message(word)))));
        }
        // An error here says that the caller has gone.
        let _ = answers.send(result.map(T::wrap).map_err(fault)).await;
    });
    ReceiverStream::new(stream)
}

async fn forward(
    mut requests: Streaming<v1::ImportImageRequest>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
) {
    loop {
        let piece = match requests.message().await {
            Ok(None) => return,
            Ok(Some(v1::ImportImageRequest {
                kind: Some(import_image_request::Kind::Data(data)),
            })) => Ok(data.into()),
            Ok(Some(_)) => Err(io::Error::other("only `data` follows `start`")),
            Err(status) => Err(io::Error::other(status)),
        };
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
    }
}

fn spent_message(spent: Spent) -> v1::TimeSpent {
    let micros = |spent: std::time::Duration| u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
    v1::TimeSpent {
        network_us: micros(spent.network),
        hash_us: micros(spent.hash),
        inflate_us: micros(spent.inflate),
        write_us: micros(spent.write),
        flush_us: micros(spent.flush),
    }
}

fn progress_message(progress: Progress) -> v1::Progress {
    use v1::progress::Stage as Message;
    let stage = match progress.stage {
        Stage::Resolving => Message::Resolving,
        Stage::Waiting => Message::Waiting,
        Stage::Downloading => Message::Downloading,
        Stage::Unpacking => Message::Unpacking,
        Stage::Done => Message::Done,
        Stage::Exists => Message::Exists,
        Stage::Pushing => Message::Pushing,
        Stage::Mounted => Message::Mounted,
    };
    v1::Progress {
        item: progress.item,
        stage: stage.into(),
        current_bytes: progress.current_bytes,
        total_bytes: progress.total_bytes,
    }
}

/// An image that has just come. It may have been removed again since: it came all the same.
async fn new_message(images: &Images, image: &Image) -> Result<v1::Image, Error> {
    match whole_message(images, image).await {
        Ok((message, _)) => Ok(message),
        Err(error) if error.kind() == Kind::NotFound => Ok(image_message(image)),
        Err(error) => Err(error),
    }
}

/// An image with what its config says, and that config as it came.
async fn whole_message(images: &Images, image: &Image) -> Result<(v1::Image, String), Error> {
    let (config_json, config) = images.config(image).await?;
    let mut message = image_message(image);
    message.config = config.config().as_ref().map(config_message);
    message.labels = config
        .labels_of_config()
        .map(|labels| labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
        .unwrap_or_default();
    Ok((message, config_json))
}

/// An image as its record tells it.
pub(super) fn image_message(image: &Image) -> v1::Image {
    v1::Image {
        id: image.id.to_string(),
        names: image.names.iter().map(|name| name.reference.clone()).collect(),
        digest: image.digest().to_string(),
        manifest_digest: image.manifest_digest.to_string(),
        platform: image.platform.clone(),
        created_at: image.created_unix_ns.map(timestamp),
        size_bytes: image.size_bytes,
        content_bytes: image.content_bytes(),
        labels: std::collections::HashMap::default(),
        config: None,
        imported_at: Some(timestamp(image.imported_unix_ns)),
        chain_id: image.chain_id.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn config_message(config: &oci_spec::image::Config) -> v1::ImageConfig {
    v1::ImageConfig {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        working_dir: config.working_dir().clone().unwrap_or_default(),
        user: config.user().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone().unwrap_or_default(),
        volumes: config.volumes().clone().unwrap_or_default(),
        exposed_ports: config.exposed_ports().clone().unwrap_or_default(),
    }
}
