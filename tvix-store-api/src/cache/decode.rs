//! From what a cache sends to a NAR.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::narinfo::{Compression, NarInfo};
use nix_compat::store_path::StorePath;
use tokio::sync::mpsc;

use super::codec;
use super::transport::{Body, TransportError};
use crate::{NarStream, StoreError, StoreUri};

/// What is received up to this size before any thread is busy with it.
const SMALL: usize = 64 * 1024;
const CHUNK: usize = 128 * 1024;
const CHUNKS_IN_FLIGHT: usize = 8;

/// Whose NAR it is, for errors.
#[derive(Clone)]
pub(super) struct Origin {
    pub store: StoreUri,
    pub info: Arc<NarInfo>,
}

impl Origin {
    fn path(&self) -> &StorePath {
        &self.info.info.path
    }

    pub fn transport_failed(&self, error: TransportError) -> StoreError {
        StoreError::Backend {
            store: self.store.clone(),
            action: format!("reading the contents of '{}'", self.path()),
            retryable: error.retryable,
            source: error.into(),
        }
    }

    fn undecodable(&self, error: io::Error) -> StoreError {
        let source = StoreError::MalformedNar {
            path: self.path().clone(),
            source: error.into(),
        };
        source.blame(&self.store)
    }

    /// It has another size than was announced.
    fn wrong_size(&self, actual: u64) -> StoreError {
        let source = StoreError::SizeMismatch {
            path: self.path().clone(),
            expected: self.info.info.nar_size,
            actual,
        };
        source.blame(&self.store)
    }
}

/// The NAR in `body`. What is more than its announced size never comes out, however small it is
/// while it is compressed.
pub(super) fn decode(origin: Origin, body: Body) -> NarStream {
    if origin.info.compression == Compression::None {
        return plain(origin, body);
    }
    stream::once(start(origin, body)).flatten().boxed()
}

fn plain(origin: Origin, body: Body) -> NarStream {
    let state = Some((origin, body, 0u64));
    let chunks = stream::unfold(state, |state| async move {
        let (origin, mut body, before) = state?;
        match body.next().await {
            Some(Ok(chunk)) => {
                let size = before + chunk.len() as u64;
                match size > origin.info.info.nar_size {
                    true => Some((Err(origin.wrong_size(size)), None)),
                    false => Some((Ok(chunk), Some((origin, body, size)))),
                }
            }
            Some(Err(error)) => Some((Err(origin.transport_failed(error)), None)),
            None if before == origin.info.info.nar_size => None,
            None => Some((Err(origin.wrong_size(before)), None)),
        }
    });
    chunks.boxed()
}

/// An error of the transport on its way around the decoder, which knows of `io::Error` only.
type Failure = Arc<Mutex<Option<TransportError>>>;

async fn start(origin: Origin, mut body: Body) -> NarStream {
    let mut head = Vec::new();
    let mut size = 0;
    let mut whole = false;
    while size <= SMALL && !whole {
        match body.next().await {
            Some(Ok(chunk)) => {
                size += chunk.len();
                head.push(chunk);
            }
            Some(Err(error)) => {
                return stream::iter([Err(origin.transport_failed(error))]).boxed();
            }
            None => whole = true,
        }
    }
    let failure = Failure::default();
    let (feed, rest) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let source = Source {
        head: head.into_iter(),
        current: Bytes::new(),
        rest,
        complete: false,
    };
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let failed = failure.clone();
    let store = origin.store.clone();
    let decoding = tokio::task::spawn_blocking(move || {
        if let Err(error) = run(&origin, source, &sender) {
            let error = match failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(error) => origin.transport_failed(error),
                None => error,
            };
            // Nobody wants to know if it fails.
            let _ = sender.blocking_send(Err(error));
        }
    });
    let feeding = stream::once(async move {
        loop {
            // What has ended must not be asked for more.
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
    let end = stream::once(decoding).filter_map(move |ended| {
        let message = |error| format!("decompressing on a blocking thread was lost: {error}");
        let lost = ended.err().map(|error| StoreError::Bug {
            store: store.clone(),
            message: message(error),
        });
        async move { lost.map(Err) }
    });
    let decoded = decoded.chain(end);
    stream::select(feeding, decoded).boxed()
}

enum Piece {
    Chunk(Bytes),
    /// All has come. Without it, the transfer has failed or nobody is interested any more.
    End,
}

/// What comes, on a thread that may block.
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
    origin: &Origin,
    source: Source,
    sender: &mpsc::Sender<Result<Bytes, StoreError>>,
) -> Result<(), StoreError> {
    let failed = |error| origin.undecodable(error);
    let mut decoder = codec::decoder(&origin.info.compression, source).map_err(failed)?;
    let expected = origin.info.info.nar_size;
    let mut size = 0;
    loop {
        // One byte more than there should be shows that there is more.
        let room = usize::try_from(expected - size + 1).unwrap_or(CHUNK);
        let mut chunk = Vec::with_capacity(room.min(CHUNK));
        let room = chunk.capacity() as u64;
        (&mut decoder)
            .take(room)
            .read_to_end(&mut chunk)
            .map_err(failed)?;
        size += chunk.len() as u64;
        if size > expected {
            return Err(origin.wrong_size(size));
        }
        if chunk.is_empty() {
            break;
        }
        if sender.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
    match size == expected {
        true => Ok(()),
        false => Err(origin.wrong_size(size)),
    }
}
