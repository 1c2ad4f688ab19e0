//! Bridges between asynchronous streams and blocking work.

use std::io::{self, Write};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;

use crate::{NarStream, StoreError, StoreUri};

/// A NAR up to this size, in bytes, is received completely before a thread of the blocking pool
/// starts on it.
const SMALL: usize = 64 * 1024;

/// Capacity of the channel between a stream and a blocking thread, in chunks.
const CHUNKS_IN_FLIGHT: usize = 8;

/// Runs `work` on a thread that may block. The work continues if the future is dropped.
pub(crate) fn blocking<T, W>(
    uri: &StoreUri,
    work: W,
) -> impl Future<Output = Result<T, StoreError>> + Send + 'static + use<T, W>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    let uri = uri.clone();
    let running = tokio::task::spawn_blocking(work);
    async move { running.await.unwrap_or_else(|error| Err(lost(uri, &error))) }
}

/// A NAR stream, as seen from a thread that may block.
pub(crate) struct Chunks {
    head: std::vec::IntoIter<Bytes>,
    /// `None` if `head` is the whole NAR.
    rest: Option<mpsc::Receiver<Piece>>,
}

enum Piece {
    Chunk(Bytes),
    /// The stream is complete. A channel that closes without this piece means that the stream
    /// failed or that the future of `consume` was dropped.
    End,
}

/// The stream failed, or the future of `consume` was dropped. This error never reaches a caller.
pub(crate) struct Abandoned;

impl Chunks {
    /// The next chunk; `None` at the end. Blocks.
    pub fn next(&mut self) -> Result<Option<Bytes>, Abandoned> {
        if let Some(chunk) = self.head.next() {
            return Ok(Some(chunk));
        }
        match &mut self.rest {
            None => Ok(None),
            Some(rest) => match rest.blocking_recv() {
                Some(Piece::Chunk(chunk)) => Ok(Some(chunk)),
                Some(Piece::End) => {
                    self.rest = None;
                    Ok(None)
                }
                None => Err(Abandoned),
            },
        }
    }
}

/// Runs `consumer` on `nar` on a thread that may block.
///
/// If the stream fails, its error is returned and the consumer sees [`Abandoned`]. The consumer
/// also sees it if the future is dropped before the end of the stream has been sent; a consumer
/// that has the whole stream runs to its end.
pub(crate) async fn consume<T: Send + 'static>(
    uri: &StoreUri,
    mut nar: NarStream,
    consumer: impl FnOnce(Chunks) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let mut head = Vec::new();
    let mut size = 0;
    while size <= SMALL {
        let Some(chunk) = nar.next().await.transpose()? else {
            let chunks = Chunks {
                head: head.into_iter(),
                rest: None,
            };
            return blocking(uri, move || consumer(chunks)).await;
        };
        size += chunk.len();
        head.push(chunk);
    }
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let chunks = Chunks {
        head: head.into_iter(),
        rest: Some(receiver),
    };
    let consumed = blocking(uri, move || consumer(chunks));
    let feed = async move {
        loop {
            let piece = match nar.next().await.transpose()? {
                None => Piece::End,
                Some(chunk) => Piece::Chunk(chunk),
            };
            let last = matches!(piece, Piece::End);
            // The receiver is dropped once the consumer fails; the consumer's own error is
            // returned.
            if sender.send(piece).await.is_err() || last {
                return Ok(());
            }
        }
    };
    let (fed, consumed) = futures::join!(feed, consumed);
    fed.and(consumed)
}

/// A stream of the bytes that `write` writes, for instance a NAR.
///
/// `write` runs on a thread that may block, starts when the stream is first polled, and runs at most
/// a few writes ahead of the reader. Once the stream is dropped, writing fails with
/// [`io::ErrorKind::BrokenPipe`]. An error of `write` is the last item of the stream; `lost` makes
/// that item if `write` panics, or if the runtime shuts down.
pub fn writer_stream<E: Send + 'static>(
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
    lost: impl FnOnce(tokio::task::JoinError) -> E + Send + 'static,
) -> BoxStream<'static, Result<Bytes, E>> {
    let started = async move {
        let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let writing = tokio::task::spawn_blocking(move || write(&mut ChunkWriter(sender)));
        // The chunks, then the result of `write`.
        let chunks = stream::unfold(receiver, |mut receiver| async move {
            let chunk = receiver.recv().await?;
            Some((Ok(chunk), receiver))
        });
        let end = async move { writing.await.unwrap_or_else(|error| Err(lost(error))) };
        let end = stream::once(end).filter_map(|ended| async move { ended.err().map(Err) });
        chunks.chain(end)
    };
    stream::once(started).flatten().boxed()
}

/// The same for work of a store.
pub(crate) fn produce(
    uri: StoreUri,
    write: impl FnOnce(&mut dyn Write) -> Result<(), StoreError> + Send + 'static,
) -> NarStream {
    writer_stream(write, |error| lost(uri, &error))
}

fn lost(store: StoreUri, error: &tokio::task::JoinError) -> StoreError {
    StoreError::Bug {
        store,
        message: format!("work on a blocking thread was lost: {error}"),
    }
}

/// Sends the bytes that are written to it as chunks. Writing fails once the receiver is dropped.
struct ChunkWriter(mpsc::Sender<Bytes>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
