//! Asking a cache: tried again, not asked while it is down, and resumed where it broke off.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt as _};
use tokio::sync::Semaphore;

use super::codec;
use super::options::Tuning;
use super::transport::{Body, Object, SmallFile, Transport, TransportError};

/// Between two bytes more that are worth another try of a transfer that breaks off.
const WORTH_A_TRY: u64 = 4 * 1024 * 1024;

/// A cache's files, asked for with patience.
#[derive(Debug)]
pub(super) struct Requests {
    transport: Arc<dyn Transport>,
    tuning: Tuning,
    /// For requests of small files.
    permits: Semaphore,
    /// Until when it is not asked, and why.
    down: Mutex<Option<(Instant, String)>>,
}

impl Requests {
    pub fn new(transport: Arc<dyn Transport>, tuning: Tuning) -> Self {
        Self {
            transport,
            permits: Semaphore::new(tuning.requests.max(1)),
            tuning,
            down: Mutex::default(),
        }
    }

    pub fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    fn check_up(&self) -> Result<(), TransportError> {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        match &*down {
            Some((until, why)) if *until > Instant::now() => {
                let message = format!("it did not answer before ({why}), and is not asked for now");
                Err(TransportError::new(message, true))
            }
            _ => {
                *down = None;
                Ok(())
            }
        }
    }

    /// It failed in a way that may pass, as often as it is tried.
    fn is_down(&self, error: &TransportError) {
        let mut why = error.message.clone();
        if let Some(source) = &error.source {
            why = format!("{why}: {source}");
        }
        let until = Instant::now() + self.tuning.down_for;
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, why));
    }

    /// The pause after `failed` tries: longer each time, and never the same for two clients, so
    /// that those that a server turned away do not come back all at once.
    fn pause(&self, failed: u32, error: &TransportError) -> Duration {
        let factor = 1u32
            .checked_shl(failed.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let pause = self.tuning.first_pause.saturating_mul(factor);
        let pause = pause.max(error.not_before.unwrap_or_default());
        let pause = pause.min(self.tuning.longest_pause);
        let chance = RandomState::new().build_hasher().finish() % 1024;
        pause / 2 + pause.mul_f64(chance as f64 / 2048.0)
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
                Ok(done) => return Ok(done),
                Err(error) if !error.retryable => return Err(error),
                Err(error) => error,
            };
            failed += 1;
            if failed >= self.tuning.attempts {
                self.is_down(&error);
                return Err(error);
            }
            tokio::time::sleep(self.pause(failed, &error)).await;
            self.check_up()?;
        }
    }

    /// Reads a small file; `None` if there is none.
    pub async fn small(&self, key: &str, limit: usize) -> Result<Option<Bytes>, TransportError> {
        self.patiently(|| {
            Box::pin(async move {
                // It is never closed.
                let _permit = self.permits.acquire().await;
                let read = read_small(&*self.transport, key, limit);
                let limit = self.tuning.small_timeout;
                match tokio::time::timeout(limit, read).await {
                    Ok(read) => read,
                    Err(_) => {
                        let message = format!("'{key}' did not come within {limit:?}");
                        Err(TransportError::new(message, true))
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

    async fn open(&self, key: &str, offset: u64) -> Result<Option<Object>, TransportError> {
        self.patiently(|| Box::pin(self.transport.get(key, offset)))
            .await
    }
}

async fn read_small(
    transport: &dyn Transport,
    key: &str,
    limit: usize,
) -> Result<Option<Bytes>, TransportError> {
    let Some(mut object) = transport.get(key, 0).await? else {
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
    let contents = contents.freeze();
    match object.encoding {
        None => Ok(Some(contents)),
        Some(encoding) => codec::decode_small(&encoding, contents, limit)
            .map(Some)
            .map_err(|error| TransportError::io("decode", key, error)),
    }
}

/// A transfer of a large file.
struct Transfer {
    requests: Arc<Requests>,
    key: String,
    /// The size, where it is known, in bytes.
    size: Option<u64>,
    /// More than this never comes.
    most: u64,
    body: Option<Body>,
    /// So many bytes have come.
    position: u64,
    /// So many bytes of the body came before.
    skip: u64,
    breaks: u32,
}

/// Reads a large file, of which more than `most` bytes are an error. What breaks off is resumed
/// where it did. `None` if there is no such file.
pub(super) async fn large(
    requests: Arc<Requests>,
    key: String,
    size: Option<u64>,
    most: u64,
) -> Result<Option<Body>, TransportError> {
    let mut transfer = Transfer {
        requests,
        key,
        size,
        most,
        body: None,
        position: 0,
        skip: 0,
        breaks: 0,
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

impl Transfer {
    /// Asks for what is missing. False if it is not there.
    async fn begin(&mut self) -> Result<bool, TransportError> {
        let Some(object) = self.requests.open(&self.key, self.position).await? else {
            return Ok(false);
        };
        if let Some(encoding) = object.encoding {
            let message = format!("'{}' is encoded as '{encoding}'", self.key);
            return Err(TransportError::new(message, false));
        }
        self.skip = self.position.saturating_sub(object.starts_at);
        self.body = Some(object.body);
        Ok(true)
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
                    None if self.size.is_none_or(|size| self.position >= size) => return Ok(None),
                    None => Some(TransportError::new(
                        format!("'{}' ends after {} bytes", self.key, self.position),
                        true,
                    )),
                    Some(Err(error)) if error.retryable => Some(error),
                    Some(Err(error)) => return Err(error),
                },
            };
            if let Some(error) = broken {
                self.body = None;
                self.breaks += 1;
                let tries = u64::from(self.requests.tuning.attempts) + self.position / WORTH_A_TRY;
                if u64::from(self.breaks) >= tries {
                    return Err(error);
                }
                tokio::time::sleep(self.requests.pause(self.breaks.min(4), &error)).await;
            }
            if !self.begin().await? {
                let message = format!("'{}' is gone", self.key);
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
        if self.position > self.most {
            let message = format!("'{}' has more than {} bytes", self.key, self.most);
            return Err(TransportError::new(message, false));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}
