//! One layer on its way in: from a registry or from the content store, in one pass.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, Bytes};

use super::{
    Error, Inner,
    assemble::fault,
    blocking,
    progress::{Meter, Reporter, Stage},
};
use crate::{
    drivers::{
        content::{ContentStore, Digest, Ingest, Prior},
        oci::Descriptor,
        registry::{self, PieceReceiver, Session},
        snapshots::{LayerRecord, NewLayer, Snapshotter},
        unpack::{self, Limits, Spent, Target, Unpacked, timed},
    },
    faultpoint,
};

/// A layer that an image needs.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) chain_id: Digest,
}

/// Where blobs come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Registry(Arc<Session>),
    /// They are in the content store.
    Content,
}

/// A layer that is here.
#[derive(Debug)]
pub(super) enum Layer {
    Recorded(LayerRecord),
    New(NewLayer, Unpacked),
}

/// Dropped when nobody waits for layers any more: the threads that unpack them look at its flag.
#[derive(Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Sees to it that a layer is unpacked and its blob in the content store.
pub(super) async fn bring(
    inner: Arc<Inner>,
    wanted: Wanted,
    source: Source,
    stop: Arc<AtomicBool>,
    reporter: Reporter,
) -> Result<Layer, Error> {
    let item = wanted.blob.digest.to_string();
    let size = wanted.blob.size;
    reporter.tell(&item, Stage::Waiting, 0, size);
    let _alone = inner.blobs.lock(&wanted.blob.digest).await;
    let (here, blob) = {
        let (inner, wanted) = (Arc::clone(&inner), wanted.clone());
        blocking(move || {
            let layer = inner.snapshots.layer(&wanted.chain_id)?;
            Ok((layer, inner.content.stat(&wanted.blob.digest)?))
        })
        .await?
    };
    let layer = match (here, blob, &source) {
        (Some(record), Some(_), _) => {
            reporter.tell(&item, Stage::Exists, size, size);
            return Ok(Layer::Recorded(record));
        }
        (Some(record), None, Source::Registry(session)) => {
            download(&inner, &wanted, session, &reporter, Unpack::No).await?;
            Layer::Recorded(record)
        }
        (None, None, Source::Registry(session)) => {
            let new = download(&inner, &wanted, session, &reporter, Unpack::Yes).await?;
            let (layer, unpacked) = new.expect("was asked to unpack");
            Layer::New(layer, unpacked)
        }
        (None, Some(_), _) => {
            let meter = Meter::new(&reporter, item.clone(), Stage::Unpacking, size);
            let wanted = wanted.clone();
            blocking(move || unpack_stored(&inner, &wanted, stop, meter)).await?
        }
        (_, None, Source::Content) => {
            return Err(crate::drivers::content::Error::NotFound(wanted.blob.digest).into());
        }
    };
    reporter.tell(&item, Stage::Done, size, size);
    Ok(layer)
}

/// Sees to it that a blob is in the content store, and no more.
pub(super) async fn fetch(
    inner: Arc<Inner>,
    blob: Descriptor,
    session: Arc<Session>,
    reporter: Reporter,
) -> Result<(), Error> {
    let _alone = inner.blobs.lock(&blob.digest).await;
    let (content, digest) = (inner.content.clone(), blob.digest.clone());
    let here = blocking(move || Ok(content.stat(&digest)?)).await?;
    let (item, size) = (blob.digest.to_string(), blob.size);
    if here.is_some() {
        reporter.tell(&item, Stage::Exists, size, size);
        return Ok(());
    }
    let (diff_id, chain_id) = (blob.digest.clone(), blob.digest.clone());
    let wanted = Wanted { blob, diff_id, chain_id };
    download(&inner, &wanted, &session, &reporter, Unpack::No).await?;
    reporter.tell(&item, Stage::Done, size, size);
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unpack {
    Yes,
    No,
}

type New = Option<(NewLayer, Unpacked)>;

/// Network, blob's digest, decompressor, diff id and files at once: no byte is read twice. It goes on
/// where an earlier one broke off.
async fn download(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    session: &Session,
    reporter: &Reporter,
    unpack: Unpack,
) -> Result<New, Error> {
    let mut went_on = false;
    match download_once(inner, wanted, session, reporter, unpack, &mut went_on).await {
        // What was left from earlier may be what is bad. It is gone now.
        Err(error) if went_on && !matches!(error, Error::Registry(_) | Error::Cancelled) => {
            let error = crate::fault::chain(&error);
            tracing::warn!(blob = %wanted.blob.digest, error, "once more from the beginning");
            download_once(inner, wanted, session, reporter, unpack, &mut went_on).await
        }
        result => result,
    }
}

async fn download_once(
    inner: &Arc<Inner>,
    wanted: &Wanted,
    session: &Session,
    reporter: &Reporter,
    unpack: Unpack,
    went_on: &mut bool,
) -> Result<New, Error> {
    let (ingest, prior) = {
        let (inner, blob) = (Arc::clone(inner), wanted.blob.clone());
        blocking(move || Ok(inner.content.resume(&blob.digest, blob.size)?)).await?
    };
    let offset = prior.as_ref().map_or(0, Prior::have);
    *went_on = offset > 0;
    let (sender, receiver) = registry::pieces();
    let size = wanted.blob.size;
    let meter = Meter::new(reporter, wanted.blob.digest.to_string(), Stage::Downloading, size);
    let receiving = {
        let (inner, wanted) = (Arc::clone(inner), wanted.clone());
        // Ends when the sender is gone, so dropping this future ends it too.
        tokio::task::spawn_blocking(move || {
            let incoming = Incoming { ingest, prior, receiver };
            receive(&inner, &wanted, incoming, meter, unpack)
        })
    };
    let sent = session.stream(&wanted.blob, offset, &sender).await;
    drop(sender);
    let received = match receiving.await {
        Ok(received) => received,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Cancelled),
    };
    // A download that failed is the reason for whatever its receiver says.
    sent?;
    received
}

/// A blob on its way.
struct Incoming {
    ingest: Ingest,
    /// What an earlier download has left.
    prior: Option<Prior>,
    /// The rest.
    receiver: PieceReceiver,
}

fn receive(
    inner: &Inner,
    wanted: &Wanted,
    incoming: Incoming,
    meter: Meter,
    unpack: Unpack,
) -> Result<New, Error> {
    let blob = &wanted.blob;
    let Incoming { ingest, prior, receiver } = incoming;
    let mut tee = Tee {
        receiver,
        prior,
        current: Bytes::new(),
        ingest,
        size: blob.size,
        meter,
        waited: Duration::ZERO,
        failure: None,
    };
    let result = match unpack {
        Unpack::No => io::copy(&mut tee, &mut io::sink())
            .map(|_| None)
            .map_err(|e| layer_error(blob, unpack::Error::Source(e))),
        Unpack::Yes => unpack_new(&*inner.snapshots, &mut tee, wanted, &inner.limits).map(Some),
    };
    match result {
        Ok(new) => {
            fault(faultpoint::step_blocking("layer.blob.written"))?;
            let (hash, write) = tee.ingest.spent();
            let mut spent = Spent { network: tee.waited, hash, write, ..Spent::default() };
            spent += new.as_ref().map(|(_, unpacked)| unpacked.spent).unwrap_or_default();
            tell_spent(&tee.meter, blob, spent);
            tee.ingest.commit()?;
            fault(faultpoint::step_blocking("layer.blob.named"))?;
            Ok(new)
        }
        Err(error) => Err(tee.explain(error)),
    }
}

fn tell_spent(meter: &Meter, blob: &Descriptor, spent: Spent) {
    meter.spend(spent);
    tracing::debug!(
        blob = %blob.digest,
        bytes = blob.size,
        network_ms = spent.network.as_millis(),
        hash_ms = spent.hash.as_millis(),
        inflate_ms = spent.inflate.as_millis(),
        write_ms = spent.write.as_millis(),
        "layer is here",
    );
}

fn unpack_stored(
    inner: &Inner,
    wanted: &Wanted,
    stop: Arc<AtomicBool>,
    meter: Meter,
) -> Result<Layer, Error> {
    let mut reader = Metered { reader: inner.content.open_blob(&wanted.blob.digest)?, meter, stop };
    match unpack_new(&*inner.snapshots, &mut reader, wanted, &inner.limits) {
        Ok((layer, unpacked)) => {
            tell_spent(&reader.meter, &wanted.blob, unpacked.spent);
            Ok(Layer::New(layer, unpacked))
        }
        Err(error) => {
            // Was it the blob? Its digest is known at its end only.
            let _ = io::copy(&mut reader, &mut io::sink());
            Err(reader.reader.corruption().map_or(error, Into::into))
        }
    }
}

fn unpack_new(
    snapshots: &dyn Snapshotter,
    source: impl Read + Send,
    wanted: &Wanted,
    limits: &Limits,
) -> Result<(NewLayer, Unpacked), Error> {
    let layer = snapshots.begin_layer()?;
    fault(faultpoint::step_blocking("layer.begun"))?;
    let trash = layer.trash();
    let target = Target { folder: layer.files(), trash: &trash };
    let unpacked = unpack::unpack(source, target, Some(&wanted.diff_id), limits)
        .map_err(|e| layer_error(&wanted.blob, e))?;
    fault(faultpoint::step_blocking("layer.unpacked"))?;
    Ok((layer, unpacked))
}

fn layer_error(blob: &Descriptor, source: unpack::Error) -> Error {
    Error::Layer { blob: blob.digest.clone(), source }
}

/// Gives the bytes of a download to the content store and to the unpacker.
struct Tee {
    receiver: PieceReceiver,
    /// What an earlier download has left, which goes first.
    prior: Option<Prior>,
    current: Bytes,
    ingest: Ingest,
    size: u64,
    meter: Meter,
    /// For the network.
    waited: Duration,
    failure: Option<Error>,
}

impl Tee {
    /// The deepest reason for an error above: the store's, or bytes that are not the blob's.
    fn explain(mut self, error: Error) -> Error {
        let Error::Layer { source, .. } = &error else { return error };
        match source {
            unpack::Error::Source(_)
            | unpack::Error::Decompress(_)
            | unpack::Error::Tar(_)
            | unpack::Error::DiffId { .. } => {}
            _ => return error,
        }
        if self.failure.is_none() && io::copy(&mut self, &mut io::sink()).is_ok() {
            return self.ingest.commit().map_or_else(Into::into, |_| error);
        }
        self.failure.take().unwrap_or(error)
    }
}

impl Read for Tee {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            if self.ingest.written() == self.size {
                return Ok(0);
            }
            if let Some(prior) = &mut self.prior {
                let chunk = prior.chunk()?;
                match chunk {
                    Some(chunk) => {
                        self.ingest.replay(&chunk);
                        self.meter.advance(chunk.len() as u64);
                        self.current = chunk;
                    }
                    None => self.prior = None,
                }
                return self.read(buf);
            }
            let Some(chunk) = timed(&mut self.waited, || self.receiver.blocking_recv()) else {
                // The rest may come another day.
                self.ingest.keep_part();
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            self.meter.advance(chunk.len() as u64);
            if let Err(error) = self.ingest.write(&chunk) {
                let text = error.to_string();
                self.failure = Some(error.into());
                return Err(io::Error::other(text));
            }
            self.current = chunk;
        }
        let n = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

struct Metered {
    reader: crate::drivers::content::Reader,
    meter: Meter,
    stop: Arc<AtomicBool>,
}

impl Read for Metered {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Acquire) {
            return Err(io::Error::other("given up"));
        }
        let n = self.reader.read(buf)?;
        self.meter.advance(n as u64);
        Ok(n)
    }
}

/// The content store, for the documents.
pub(super) fn put(content: &ContentStore, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
    let mut ingest = content.ingest(Some(digest), Some(bytes.len() as u64))?;
    ingest.write(bytes)?;
    fault(faultpoint::step_blocking("document.written"))?;
    ingest.commit()?;
    Ok(())
}
