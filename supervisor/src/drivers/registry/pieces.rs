//! The pieces of a download between the connection and who takes them: as many as fit into a bounded
//! number of bytes, since their sizes are the network's.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes under way: a few of the largest pieces that a connection gives.
const ROOM_BYTES: u32 = 1 << 20;
/// Smaller pieces than this are not worth more of them.
const SMALLEST_BYTES: u32 = 4 << 10;

/// Where pieces go in.
#[derive(Debug)]
pub struct PieceSender {
    pieces: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// Where they come out.
#[derive(Debug)]
pub struct PieceReceiver(mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>);

/// Both ends.
#[must_use]
pub fn pieces() -> (PieceSender, PieceReceiver) {
    let (sender, receiver) = mpsc::channel((ROOM_BYTES / SMALLEST_BYTES) as usize);
    let room = Arc::new(Semaphore::new(ROOM_BYTES as usize));
    (PieceSender { pieces: sender, room }, PieceReceiver(receiver))
}

impl PieceSender {
    /// Waits for room. Whether anybody still takes pieces.
    pub(super) async fn send(&self, piece: Bytes) -> bool {
        let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        let bytes = len.clamp(SMALLEST_BYTES, ROOM_BYTES);
        let room = tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(bytes) => room,
            () = self.pieces.closed() => return false,
        };
        let Ok(permit) = room else { return false };
        self.pieces.send((piece, permit)).await.is_ok()
    }
}

impl PieceReceiver {
    /// The next one; none after the last. Blocks.
    pub fn blocking_recv(&mut self) -> Option<Bytes> {
        self.0.blocking_recv().map(|(piece, _)| piece)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::pieces;

    #[tokio::test]
    async fn order_is_kept_and_room_bounded() {
        let (sender, mut receiver) = pieces();
        let sending = tokio::spawn(async move {
            for len in [1, 3 << 20, 5, 1 << 20, 100_000] {
                assert!(sender.send(Bytes::from(vec![0; len])).await);
            }
        });
        let received = tokio::task::spawn_blocking(move || {
            std::iter::from_fn(|| receiver.blocking_recv()).map(|p| p.len()).collect::<Vec<_>>()
        });
        assert_eq!(received.await.expect("received"), [1, 3 << 20, 5, 1 << 20, 100_000]);
        sending.await.expect("sent");
    }

    #[tokio::test]
    async fn nobody_waits_for_who_has_gone() {
        let (sender, receiver) = pieces();
        assert!(sender.send(Bytes::from(vec![0; 1 << 20])).await);
        let waiting = sender.send(Bytes::from_static(b"more"));
        let (more, ()) = tokio::join!(waiting, async { drop(receiver) });
        assert!(!more);
    }
}
