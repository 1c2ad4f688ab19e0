//! Runs blocking decoders on asynchronous streams.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tvix_http::decode::{Coding, DecodeError, Limits, decode_all};

use super::transport::{Body, TransportError};

/// Number of bytes that are received before a blocking thread is used.
const SMALL: usize = 64 * 1024;
const CHUNK: usize = 128 * 1024;
const CHUNKS_IN_FLIGHT: usize = 8;

/// The reason that decoding ended early.
pub(super) enum Failure {
    Transport(TransportError),
    Decode(DecodeError),
    /// The blocking thread was lost.
    Lost(tokio::task::JoinError),
}

/// The contents of `body`, to which `codings` were applied in this order. The stream ends after an
/// error.
pub(super) fn decode(
    codings: Vec<Coding>,
    body: Body,
    limits: Limits,
) -> BoxStream<'static, Result<Bytes, Failure>> {
    if codings.is_empty() {
        return body.map(|chunk| chunk.map_err(Failure::Transport)).boxed();
    }
    stream::once(start(codings, body, limits)).flatten().boxed()
}

/// Passes an error of the transport around the decoder, which only supports `io::Error`.
type Detour = Arc<Mutex<Option<TransportError>>>;

async fn start(
    codings: Vec<Coding>,
    mut body: Body,
    limits: Limits,
) -> BoxStream<'static, Result<Bytes, Failure>> {
    let mut head = Vec::new();
    let mut size = 0;
    let mut whole = false;
    while size <= SMALL && !whole {
        match body.next().await {
            Some(Ok(chunk)) => {
                size += chunk.len();
                head.push(chunk);
            }
            Some(Err(error)) => return stream::iter([Err(Failure::Transport(error))]).boxed(),
            None => whole = true,
        }
    }
    let failure = Detour::default();
    let (feed, rest) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let source = Source {
        head: head.into_iter(),
        current: Bytes::new(),
        rest,
        complete: false,
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let failed = failure.clone();
    let decoding = tokio::task::spawn_blocking(move || {
        if let Err(error) = run(&codings, source, &limits, &sender) {
            let error = match failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(error) => Failure::Transport(error),
                None => Failure::Decode(error),
            };
            // A dropped receiver does not need the error.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let feeding = stream::once(async move {
        loop {
            // A stream that has ended must not be polled again.
            let next = if whole { None } else { body.next().await };
            let message = match next {
                Some(Ok(chunk)) => Piece::Chunk(chunk),
                None => Piece::End,
                Some(Err(error)) => {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    // The decoder sees that the channel is closed.
                    return;
                }
            };
            let last = matches!(message, Piece::End);
            if feed.send(message).await.is_err() || last {
                return;
            }
        }
    });
    let feeding = feeding.filter_map(|()| async { None });
    let decoded = stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    let end = stream::once(decoding)
        .filter_map(|ended| async { ended.err().map(|error| Err(Failure::Lost(error))) });
    let decoded = decoded.chain(end);
    stream::select(feeding, decoded).boxed()
}

enum Piece {
    Chunk(Bytes),
    /// The transfer is complete. A channel that closes without this piece means that the transfer
    /// failed or that the reader was dropped.
    End,
}

/// Received chunks, on a thread that may block.
struct Source {
    head: std::vec::IntoIter<Bytes>,
    current: Bytes,
    rest: mpsc::Receiver<Piece>,
    complete: bool,
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.complete {
            match self.head.next() {
                Some(chunk) => self.current = chunk,
                None => match self.rest.blocking_recv() {
                    Some(Piece::Chunk(chunk)) => self.current = chunk,
                    Some(Piece::End) => self.complete = true,
                    None => return Err(io::ErrorKind::ConnectionAborted.into()),
                },
            }
        }
        let size = buffer.len().min(self.current.len());
        buffer[..size].copy_from_slice(&self.current.split_to(size));
        Ok(size)
    }
}

fn run(
    codings: &[Coding],
    source: Source,
    limits: &Limits,
    sender: &mpsc::Sender<Result<Bytes, Failure>>,
) -> Result<(), DecodeError> {
    let mut decoder = decode_all(codings, source, limits)?;
    let mut produced = 0;
    loop {
        // Small contents use small buffers. One extra byte lets the decoder detect that the limit
        // is exceeded.
        let left = limits.output.map(|limit| limit.saturating_sub(produced));
        let room = left.map_or(CHUNK as u64, |left| left.saturating_add(1));
        let mut chunk = Vec::with_capacity(usize::try_from(room).unwrap_or(CHUNK).min(CHUNK));
        let room = chunk.capacity() as u64;
        let read = (&mut decoder).take(room).read_to_end(&mut chunk);
        read.map_err(DecodeError::from_io)?;
        if chunk.is_empty() {
            return Ok(());
        }
        produced += chunk.len() as u64;
        if sender.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}
