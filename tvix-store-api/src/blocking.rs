//! Between asynchronous streams and work that blocks.

use std::io::{self, Write};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::sync::mpsc;

use crate::{NarStream, StoreError, StoreUri};

/// Streams up to this size are received before any thread is busy with them.
const SMALL: usize = 64 * 1024;

/// How many chunks may wait for whoever takes them.
const CHUNKS_IN_FLIGHT: usize = 8;

/// Runs `work` on a thread that may block. It goes on if the future is dropped.
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
    async move {
        running.await.unwrap_or_else(|error| {
            Err(StoreError::Bug {
                store: uri,
                message: format!("work on a blocking thread was lost: {error}"),
            })
        })
    }
}

/// A NAR as it comes to a thread that may block.
pub(crate) struct Chunks {
    head: std::vec::IntoIter<Bytes>,
    /// `None` if `head` is all.
    rest: Option<mpsc::Receiver<Piece>>,
}

enum Piece {
    Chunk(Bytes),
    /// All has come. Without it, the stream has failed or nobody is interested any more.
    End,
}

/// The stream has failed, or whoever wanted what is made of it has gone. Nobody sees this error.
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

/// Has `consumer` take `nar` on a thread that may block.
///
/// If the stream fails, its error is returned, and the consumer finds it abandoned. So it does if
/// the future is dropped, unless all had come: then it goes on to its end.
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
            // The receiver is gone once the consumer has failed, and says so itself.
            if sender.send(piece).await.is_err() || last {
                return Ok(());
            }
        }
    };
    let (fed, consumed) = futures::join!(feed, consumed);
    fed.and(consumed)
}

/// What `produce` writes, as a stream: made on a thread that may block, not before the stream is
/// polled, and not further ahead than a few chunks. Once the stream is dropped writing fails.
pub(crate) fn produce(
    uri: StoreUri,
    produce: impl FnOnce(ChunkWriter) -> Result<(), StoreError> + Send + 'static,
) -> NarStream {
    let started = async move {
        let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let producing = blocking(&uri, move || produce(ChunkWriter(sender)));
        // What has been made comes first, then how it ended.
        let chunks = stream::unfold(receiver, |mut receiver| async move {
            let chunk = receiver.recv().await?;
            Some((Ok(chunk), receiver))
        });
        let end = stream::once(producing).filter_map(|ended| async move { ended.err().map(Err) });
        chunks.chain(end)
    };
    stream::once(started).flatten().boxed()
}

/// Sends what is written to it as chunks, and fails once nobody receives.
pub(crate) struct ChunkWriter(mpsc::Sender<Bytes>);

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
