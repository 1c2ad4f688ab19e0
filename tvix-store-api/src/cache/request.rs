//! Asking a cache: tried again, not asked while it is down, and resumed where it broke off.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use tokio::sync::Semaphore;
use tvix_http::decode::{DecodeError, Limits};
use tvix_http::{TransferSettings, Unreachable};

use super::bridge::{self, Failure};
use super::codec;
use super::options::Tuning;
use super::transport::{Body, Fetch, Object, SmallFile, Transport, TransportError};

/// A cache's files, asked for with patience.
#[derive(Debug)]
pub(super) struct Requests {
    transport: Arc<dyn Transport>,
    tuning: Tuning,
    /// For requests of small files.
    permits: Semaphore,
    /// Until when it is not asked, and why.
    down: Mutex<Option<(Instant, TransportError)>>,
    /// Whether it has ever answered.
    answered: AtomicBool,
}

impl Requests {
    pub fn new(transport: Arc<dyn Transport>, tuning: Tuning) -> Self {
        Self {
            transport,
            permits: Semaphore::new(tuning.requests.max(1)),
            tuning,
            down: Mutex::default(),
            answered: AtomicBool::new(false),
        }
    }

    pub fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    fn check_up(&self) -> Result<(), TransportError> {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        match &*down {
            Some((until, why)) if *until > Instant::now() => Err(why.again()),
            _ => {
                *down = None;
                Ok(())
            }
        }
    }

    /// It failed in a way that may pass, as often as it is tried.
    fn is_down(&self, error: &TransportError) {
        let until = Instant::now() + self.tuning.down_for;
        let why = (until, error.again());
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Attempts that make sense after `error`.
    fn attempts(&self, error: &TransportError) -> u32 {
        let settings = self.tuning.transfer.download_attempts.max(1);
        // One that has never answered is not likely to do so in a second.
        let never = error.unreachable && !self.answered.load(Ordering::Relaxed);
        match error.attempts {
            Some(most) if error.silent && never => settings.min(most).min(1),
            Some(most) => settings.min(most),
            None => settings,
        }
    }

    /// Tries until it succeeds, fails for good or has been tried often enough.
    async fn patiently<'a, T>(
        &'a self,
        attempt: impl Fn() -> BoxFuture<'a, Result<T, TransportError>> + Send + Sync,
    ) -> Result<T, TransportError> {
        self.check_up()?;
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Ok(done) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(done);
                }
                Err(error) if !error.retryable => return Err(error),
                Err(error) => error,
            };
            failed += 1;
            let pause = self.tuning.transfer.pause(failed, error.not_before);
            match pause {
                Some(pause) if failed < self.attempts(&error) => tokio::time::sleep(pause).await,
                _ => {
                    self.is_down(&error);
                    return Err(error);
                }
            }
            self.check_up()?;
        }
    }

    /// How long a small file may take to come: less for a cache that has never answered.
    fn small_limit(&self) -> Duration {
        let small = self.tuning.small_timeout;
        let settings = &self.tuning.transfer;
        let small = settings
            .stalled_download_timeout
            .map_or(small, |limit| small.min(limit));
        match self.answered.load(Ordering::Relaxed) {
            true => small,
            false => small.min(settings.first_answer()),
        }
    }

    /// Reads a small file; `None` if there is none.
    pub async fn small(&self, key: &str, limit: usize) -> Result<Option<Bytes>, TransportError> {
        self.patiently(|| {
            Box::pin(async move {
                // It is never closed.
                let _permit = self.permits.acquire().await;
                let read = read_small(&*self.transport, key, limit);
                let limit = self.small_limit();
                match tokio::time::timeout(limit, read).await {
                    Ok(read) => read,
                    Err(_) => {
                        let why = Unreachable::silent(key, limit);
                        Err(TransportError::unreachable(why))
                    }
                }
            })
        })
        .await
    }

    pub async fn exists(&self, key: &str) -> Result<bool, TransportError> {
        self.patiently(|| Box::pin(self.transport.exists(key)))
            .await
    }

    /// Writes a small file.
    pub async fn put_small(
        &self,
        key: &str,
        contents: Bytes,
        content_type: &'static str,
    ) -> Result<(), TransportError> {
        let key = key.to_owned();
        self.put_in_turn(vec![SmallFile {
            key,
            contents,
            content_type,
        }])
        .await
    }

    /// Writes small files, each after the one before it.
    pub async fn put_in_turn(&self, files: Vec<SmallFile>) -> Result<(), TransportError> {
        self.patiently(|| self.transport.put_in_turn(files.clone()))
            .await
    }

    async fn open(&self, key: &str, fetch: Fetch) -> Result<Option<Object>, TransportError> {
        self.patiently(|| Box::pin(self.transport.get(key, fetch)))
            .await
    }
}

async fn read_small(
    transport: &dyn Transport,
    key: &str,
    limit: usize,
) -> Result<Option<Bytes>, TransportError> {
    let Some(mut object) = transport.get(key, Fetch::whole()).await? else {
        return Ok(None);
    };
    let mut contents = BytesMut::new();
    while let Some(chunk) = object.body.next().await.transpose()? {
        if contents.len() + chunk.len() > limit {
            let message = format!("'{key}' has more than {limit} bytes");
            return Err(TransportError::new(message, false));
        }
        contents.extend_from_slice(&chunk);
    }
    let decoded = codec::decode_small(&object.codings, contents.freeze(), limit);
    decoded.map(Some).map_err(|error| undecodable(key, error))
}

/// The error for contents whose content coding cannot be undone. A stream may be cut off by a
/// connection that broke.
fn undecodable(key: &str, error: DecodeError) -> TransportError {
    let retryable = matches!(error, DecodeError::Truncated { .. });
    TransportError::new(format!("cannot decode '{key}'"), retryable).caused(error)
}

/// A large file that is wanted.
pub(super) struct Large {
    /// Its name.
    pub key: String,
    /// Its size in bytes, if the cache has said so, which may be wrong.
    pub size: Option<u64>,
    /// The most bytes that are read.
    pub most: u64,
    /// Whether content codings are asked for. They are decoded in any case.
    pub coded: bool,
}

/// A transfer of a large file. Positions are those in its contents, without content codings.
struct Transfer {
    requests: Arc<Requests>,
    file: Large,
    body: Option<Body>,
    /// The server marks the end of the body, so that one that ends early is an error.
    delimited: bool,
    /// The number of bytes that have come.
    position: u64,
    /// The number of bytes of the body that came before.
    skip: u64,
    /// A part of it would be one of coded contents, which continues nothing.
    no_parts: bool,
    breaks: u32,
    /// Where it ended before its announced size.
    ended_at: Option<u64>,
}

/// Reads a large file. A transfer that breaks off is resumed at that point. `None` if there is no
/// such file.
pub(super) async fn large(
    requests: Arc<Requests>,
    file: Large,
) -> Result<Option<Body>, TransportError> {
    let mut transfer = Transfer {
        requests,
        file,
        body: None,
        delimited: true,
        position: 0,
        skip: 0,
        no_parts: false,
        breaks: 0,
        ended_at: None,
    };
    if !transfer.begin().await? {
        return Ok(None);
    }
    let chunks = stream::unfold(Some(transfer), |transfer| async {
        let mut transfer = transfer?;
        match transfer.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(transfer))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Some(chunks.boxed()))
}

/// A body of which more than `most` bytes are an error.
fn capped(body: Body, key: String, most: u64) -> Body {
    let chunks = body.scan(0u64, move |position, chunk| {
        let chunk = chunk.and_then(|chunk| {
            *position += chunk.len() as u64;
            match *position > most {
                true => Err(too_large(&key, most)),
                false => Ok(chunk),
            }
        });
        std::future::ready(Some(chunk))
    });
    chunks.boxed()
}

fn too_large(key: &str, most: u64) -> TransportError {
    TransportError::new(format!("'{key}' has more than {most} bytes"), false)
}

impl Transfer {
    /// Asks for the contents from the current position on. False if there is no such file.
    async fn begin(&mut self) -> Result<bool, TransportError> {
        let object = loop {
            let fetch = Fetch {
                offset: if self.no_parts { 0 } else { self.position },
                coded: self.file.coded,
            };
            let Some(object) = self.requests.open(&self.file.key, fetch).await? else {
                return Ok(false);
            };
            if object.codings.is_empty() {
                break object;
            }
            self.no_parts = true;
            if object.starts_at == 0 {
                break object;
            }
        };
        self.skip = self.position.saturating_sub(object.starts_at);
        self.delimited = object.delimited;
        let (key, most) = (self.file.key.clone(), self.file.most);
        let raw = capped(object.body, key.clone(), most);
        if object.codings.is_empty() {
            self.body = Some(raw);
            return Ok(true);
        }
        let limits = Limits::default().with_memory(self.requests.tuning.decode_memory);
        let decoded = bridge::decode(object.codings, raw, limits.with_output(most));
        let chunks = decoded.map(move |chunk| {
            chunk.map_err(|failure| match failure {
                Failure::Transport(error) => error,
                Failure::Decode(DecodeError::OutputLimit { limit }) => too_large(&key, limit),
                Failure::Decode(error) => undecodable(&key, error),
                Failure::Lost(error) => {
                    TransportError::new(format!("cannot decode '{key}'"), false).caused(error)
                }
            })
        });
        self.body = Some(chunks.boxed());
        Ok(true)
    }

    /// Whether the end of the body is the end of the file. Of a server that does not mark the end,
    /// it may be a connection that broke; twice at the same place it is the end, and the announced
    /// size is wrong.
    fn is_end(&mut self) -> bool {
        let short = self.file.size.is_some_and(|size| self.position < size);
        let end = self.delimited || !short || self.ended_at == Some(self.position);
        self.ended_at = Some(self.position);
        end
    }

    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            let broken = match &mut self.body {
                None => None,
                Some(body) => match body.next().await {
                    Some(Ok(chunk)) => match self.take(chunk)? {
                        Some(chunk) => return Ok(Some(chunk)),
                        None => continue,
                    },
                    None if self.is_end() => return Ok(None),
                    None => Some(TransportError::new(
                        format!("'{}' ends after {} bytes", self.file.key, self.position),
                        true,
                    )),
                    Some(Err(error)) if error.retryable => Some(error),
                    Some(Err(error)) => return Err(error),
                },
            };
            if let Some(error) = broken {
                self.body = None;
                self.breaks += 1;
                let attempts = self.requests.attempts(&error);
                let attempts = TransferSettings::attempts_of_transfer(attempts, self.position);
                let settings = &self.requests.tuning.transfer;
                let pause = settings.pause(self.breaks.min(4), error.not_before);
                match pause {
                    Some(pause) if u64::from(self.breaks) < attempts => {
                        tokio::time::sleep(pause).await;
                    }
                    _ => return Err(error),
                }
            }
            if !self.begin().await? {
                let message = format!("'{}' is gone", self.file.key);
                return Err(TransportError::new(message, false));
            }
        }
    }

    /// What of a chunk has not come before.
    fn take(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, TransportError> {
        let skipped = self.skip.min(chunk.len() as u64);
        self.skip -= skipped;
        let chunk = chunk.split_off(skipped as usize);
        self.position += chunk.len() as u64;
        if self.position > self.file.most {
            return Err(too_large(&self.file.key, self.file.most));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}
