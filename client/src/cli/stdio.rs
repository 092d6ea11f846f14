//! Standard input and output of an attached container, each on a thread of its own.
//!
//! Threads, because reads and writes of pipes and terminals block, and making them non-blocking
//! would change the open file for every other process that shares it.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context as _, Result};
use tokio::sync::{mpsc, oneshot};
use wharf_client::{Input, InputSender, v1::Stream};

use crate::cli::{
    output::StdoutClosed,
    parse::keys::{Detacher, Typed},
};

const PIECE: usize = 32 << 10;

/// Reads standard input into a session until its end. The receiver hears of the detach keys; it
/// fails when they can no longer come. The thread is never joined: it may be waiting for a key.
pub(crate) fn read(session: InputSender, mut detacher: Detacher) -> oneshot::Receiver<()> {
    let (detach, detached) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; PIECE];
        loop {
            let data = match stdin.read(&mut buffer) {
                Ok(count) if count > 0 => &buffer[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A failed read (EIO of a terminal that hung up) is the end of input too.
                Ok(_) | Err(_) => {
                    let _ = session.blocking_send(Input::CloseStdin);
                    return;
                }
            };
            let (data, detaches) = match detacher.take(data) {
                Typed::Send(data) => (data, false),
                Typed::Detach(data) => (data, true),
            };
            if !data.is_empty() && session.blocking_send(Input::Stdin(data)).is_err() {
                return;
            }
            if detaches {
                let _ = detach.send(());
                return;
            }
        }
    });
    detached
}

/// Writes output in order on a thread; a slow reader fills the queue and nothing else.
#[derive(Debug)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Chunk>,
    done: oneshot::Receiver<io::Result<()>>,
}

pub(crate) type Chunk = (Stream, Vec<u8>);

impl Writer {
    pub(crate) fn start() -> Self {
        let (queue, mut chunks) = mpsc::channel::<Chunk>(64);
        let (finished, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut result = Ok(());
            let mut next = chunks.blocking_recv();
            while let Some((stream, mut data)) = next.take() {
                // Lines come one by one; what is here already is written at once.
                while data.len() < PIECE && next.is_none() {
                    match chunks.try_recv() {
                        Ok((same, more)) if same == stream => data.extend(more),
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                result = match stream {
                    Stream::Stderr => io::stderr().write_all(&data),
                    Stream::Stdout | Stream::Unspecified => {
                        let mut stdout = io::stdout().lock();
                        stdout.write_all(&data).and_then(|()| stdout.flush())
                    }
                };
                if result.is_err() {
                    break;
                }
                next = next.or_else(|| chunks.blocking_recv());
            }
            // Closing the queue is what the other side notices; it asks for the reason then.
            drop(chunks);
            let _ = finished.send(result);
        });
        Self { queue, done }
    }

    /// Room for one more chunk. Fails when writing has failed: see [`Writer::finish`].
    pub(crate) async fn room(&self) -> Result<mpsc::Permit<'_, Chunk>, mpsc::error::SendError<()>> {
        self.queue.reserve().await
    }

    /// Waits until all is written.
    pub(crate) async fn finish(self) -> Result<()> {
        drop(self.queue);
        match self.done.await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
            Ok(result) => result.context("write the output"),
            Err(_) => anyhow::bail!("the thread that writes the output has ended"),
        }
    }
}
