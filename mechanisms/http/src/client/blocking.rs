//! Downloads for code that blocks.
//!
//! Exchanges run on a thread with a runtime of its own, so this may be used on any thread, also on
//! one that belongs to another runtime, which it then blocks.

use std::fmt;
use std::future::Future;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use url::Url;

use super::{Answer, Body, ClientOptions, Get, HttpError, Response};
use crate::TransferSettings;
use crate::decode::{DecodeError, Decoder, Limits};

/// Chunks of a body that wait for the reader.
const CHUNKS: usize = 8;
/// How often a waiting download checks whether it was cancelled.
const POLL: Duration = Duration::from_millis(20);

/// A client for code that blocks. Clones share its thread and its connections.
#[derive(Debug, Clone)]
pub struct Client {
    client: super::Client,
    worker: Arc<Worker>,
}

/// A file to download.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Download {
    /// The URL.
    pub url: Url,
    /// The `ETag` of a copy that is still useful if the file has not changed.
    pub unless_etag: Option<String>,
    /// Whether the server may apply content codings. They are undone in any case.
    pub coded: bool,
    /// Largest size in bytes, decoded. No limit by default.
    pub limit: Option<u64>,
}

impl Download {
    /// The file at `url`, as it is.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            unless_etag: None,
            coded: false,
            limit: None,
        }
    }

    /// Sets [`unless_etag`](Self::unless_etag).
    #[must_use]
    pub fn with_known_etag(mut self, etag: Option<String>) -> Self {
        self.unless_etag = etag;
        self
    }

    /// Sets [`coded`](Self::coded).
    #[must_use]
    pub fn with_content_codings(mut self, welcome: bool) -> Self {
        self.coded = welcome;
        self
    }

    /// Sets [`limit`](Self::limit).
    #[must_use]
    pub fn with_limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }
}

/// The result of a download.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Downloaded {
    /// The file was written.
    Written {
        /// Its `ETag`.
        etag: Option<String>,
    },
    /// The file still has the [`Download::unless_etag`].
    Unchanged,
}

/// The caller's side of a download.
pub trait Target {
    /// The writer that the contents go to.
    type Writer: Write;

    /// Starts from the beginning: returns a writer without contents. Called before the first byte,
    /// and again whenever earlier bytes cannot be used.
    ///
    /// # Errors
    ///
    /// The download fails with [`HttpError::Write`].
    fn restart(&mut self) -> io::Result<Self::Writer>;

    /// Whether the download is no longer wanted.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Called before another attempt.
    fn retrying(&mut self, _error: &HttpError, _pause: Duration) {}
}

impl Client {
    /// A client with a thread of its own.
    ///
    /// # Errors
    ///
    /// Those of [`super::Client::new`]; [`HttpError::Setup`] if no thread can be started.
    pub fn new(options: &ClientOptions) -> Result<Self, HttpError> {
        Ok(Self {
            client: super::Client::new(options)?,
            worker: Arc::new(Worker::start().map_err(HttpError::setup)?),
        })
    }

    /// Downloads a file, with retries as [`TransferSettings`] has them. A transfer that breaks off is
    /// resumed if the server can tell that the file is still the same, else it starts again.
    ///
    /// # Errors
    ///
    /// [`HttpError`]: that of the last attempt.
    pub fn download<T: Target>(
        &self,
        download: &Download,
        target: &mut T,
    ) -> Result<Downloaded, HttpError> {
        let mut progress = Progress {
            writer: None,
            position: 0,
            validator: None,
        };
        let mut failed = 0;
        loop {
            let error = match self.attempt(download, target, &mut progress) {
                Ok(done) => return Ok(done),
                Err(error) if target.is_cancelled() => {
                    tracing::debug!("cancelled: {error}");
                    return Err(HttpError::Cancelled);
                }
                Err(error) => error,
            };
            failed += 1;
            let settings = self.client.transfer();
            let attempts = error.attempts(settings.download_attempts);
            let attempts = match error.is_retryable() {
                true => TransferSettings::attempts_of_transfer(attempts, progress.position),
                false => 1,
            };
            match settings.pause(failed, error.not_before()) {
                Some(pause) if u64::from(failed) < attempts => {
                    target.retrying(&error, pause);
                    sleep(pause, target)?;
                }
                _ => return Err(error),
            }
        }
    }

    fn attempt<T: Target>(
        &self,
        download: &Download,
        target: &mut T,
        progress: &mut Progress<T::Writer>,
    ) -> Result<Downloaded, HttpError> {
        let resumed = progress.writer.is_some() && progress.validator.is_some();
        let get = Get {
            offset: if resumed { progress.position } else { 0 },
            coded: download.coded,
            unless_etag: download.unless_etag.clone(),
            if_version: progress.validator.clone().filter(|_| resumed),
        };
        let response = match self.worker.get(&self.client, &download.url, get, target)? {
            Answer::Contents(response) => response,
            Answer::Unchanged => return Ok(Downloaded::Unchanged),
        };
        let Response {
            body,
            starts_at,
            codings,
            etag,
            validator,
            ..
        } = response;
        if starts_at == 0 || !codings.is_empty() || progress.position != starts_at {
            progress.position = 0;
            progress.writer = Some(target.restart().map_err(HttpError::Write)?);
            if starts_at > 0 {
                // A part of coded contents continues nothing. Without a validator, the whole file
                // is requested.
                progress.validator = None;
                return self.attempt(download, target, progress);
            }
        }
        // Positions are those in the contents, and ranges those in the file.
        progress.validator = validator.filter(|_| codings.is_empty());
        let mut body = self.worker.read(body, target);
        // Without contents there is nothing that a coding was applied to.
        let empty = !body.fill().map_err(read_error)?;
        let mut reader: Box<dyn Read + '_> = Box::new(body);
        for coding in codings.iter().rev().filter(|_| !empty) {
            let decoder = Decoder::new(Some(*coding), reader, &Limits::default());
            reader = Box::new(decoder.map_err(HttpError::Decode)?);
        }
        progress.copy(&mut *reader, download.limit)?;
        Ok(Downloaded::Written { etag })
    }
}

/// The part of a file that has arrived.
struct Progress<W> {
    writer: Option<W>,
    position: u64,
    validator: Option<String>,
}

impl<W: Write> Progress<W> {
    fn copy(&mut self, from: &mut dyn Read, limit: Option<u64>) -> Result<(), HttpError> {
        let Some(writer) = &mut self.writer else {
            return Ok(());
        };
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => return Err(read_error(error)),
            };
            self.position += count as u64;
            if let Some(limit) = limit.filter(|limit| self.position > *limit) {
                return Err(HttpError::TooLarge { limit });
            }
            writer
                .write_all(&buffer[..count])
                .map_err(HttpError::Write)?;
        }
        writer.flush().map_err(HttpError::Write)
    }
}

/// The error in one of a reader: of the transfer, or of a decoder.
fn read_error(error: io::Error) -> HttpError {
    let error = match error.downcast::<HttpError>() {
        Ok(error) => return error,
        Err(error) => error,
    };
    match DecodeError::from_io(error) {
        DecodeError::Read(source) => HttpError::Transfer {
            source: source.into(),
            retryable: true,
        },
        error => HttpError::Decode(error),
    }
}

fn sleep(pause: Duration, target: &impl Target) -> Result<(), HttpError> {
    let until = Instant::now() + pause;
    loop {
        if target.is_cancelled() {
            return Err(HttpError::Cancelled);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// A thread with a runtime. It ends when this is dropped.
struct Worker {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Worker")
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("tvix-http".to_owned());
        thread.spawn(move || {
            // It is an error because the sender is gone.
            let _ = runtime.block_on(stopped);
            // Looking a name up may take long, and nothing waits for it any more.
            runtime.shutdown_background();
        })?;
        Ok(Self {
            handle,
            _stop: stop,
        })
    }

    fn get(
        &self,
        client: &super::Client,
        url: &Url,
        get: Get,
        target: &impl Target,
    ) -> Result<Answer, HttpError> {
        let (client, url) = (client.clone(), url.clone());
        let (sender, receiver) = channel();
        let _task = self.spawn(async move {
            // Nobody waits for it after a cancellation.
            let _ = sender.send(client.get(&url, &get).await);
        });
        wait(&receiver, &|| target.is_cancelled())?
    }

    fn read<'a>(&self, mut body: Body, target: &'a impl Target) -> BodyReader<'a> {
        let (sender, receiver): (Sender<Chunk>, _) = channel();
        let room = Arc::new(Semaphore::new(CHUNKS));
        let task = self.spawn(async move {
            // The semaphore is never closed.
            while let Ok(permit) = room.clone().acquire_owned().await {
                let Some(chunk) = body.next().await else {
                    let _ = sender.send(Chunk::End);
                    return;
                };
                let last = chunk.is_err();
                let chunk = chunk.map_or_else(Chunk::Failed, |it| Chunk::Bytes(it, permit));
                if sender.send(chunk).is_err() || last {
                    return;
                }
            }
        });
        BodyReader {
            receiver,
            cancelled: Box::new(|| target.is_cancelled()),
            chunk: Bytes::new(),
            ended: false,
            _task: task,
        }
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(self.handle.spawn(future).abort_handle())
    }
}

/// A task that ends when this is dropped.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Chunk {
    Bytes(Bytes, OwnedSemaphorePermit),
    Failed(HttpError),
    End,
}

fn wait<T>(receiver: &Receiver<T>, cancelled: &dyn Fn() -> bool) -> Result<T, HttpError> {
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(received) => return Ok(received),
            Err(RecvTimeoutError::Timeout) if cancelled() => return Err(HttpError::Cancelled),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(HttpError::Transfer {
                    source: "the runtime of the HTTP client has ended".into(),
                    retryable: false,
                });
            }
        }
    }
}

/// The contents of a body, with errors that hold an [`HttpError`].
struct BodyReader<'a> {
    receiver: Receiver<Chunk>,
    cancelled: Box<dyn Fn() -> bool + 'a>,
    chunk: Bytes,
    ended: bool,
    _task: Task,
}

impl BodyReader<'_> {
    /// Waits for contents; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        while self.chunk.is_empty() && !self.ended {
            match wait(&self.receiver, &*self.cancelled).map_err(io::Error::other)? {
                // The permit is dropped, so that the next chunk may come.
                Chunk::Bytes(chunk, _permit) => self.chunk = chunk,
                Chunk::End => self.ended = true,
                Chunk::Failed(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(!self.chunk.is_empty())
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill()?;
        let count = self.chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}
