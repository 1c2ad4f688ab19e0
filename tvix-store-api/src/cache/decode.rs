//! Decoding of downloads into NARs.

use std::io;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use nix_compat::narinfo::NarInfo;
use nix_compat::store_path::StorePath;
use tvix_http::decode::{DecodeError, Limits};

use super::bridge::{self, Failure};
use super::codec;
use super::transport::{Body, TransportError};
use crate::{NarStream, StoreError, StoreUri};

/// The store and path of a NAR, for errors.
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
        let action = format!("read the contents of '{}'", self.path());
        super::backend(&self.store, action, error)
    }

    fn failed(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Transport(error) => self.transport_failed(error),
            Failure::Decode(DecodeError::OutputLimit { limit }) => {
                self.wrong_size(limit.saturating_add(1))
            }
            // The file itself may be intact.
            Failure::Decode(error @ DecodeError::MemoryLimit { .. }) => {
                let message = format!("{error} (parameter 'decode-memory-limit')");
                self.transport_failed(TransportError::new(message, false))
            }
            Failure::Decode(error) => self.undecodable(error.into()),
            Failure::Lost(error) => StoreError::Bug {
                store: self.store.clone(),
                message: format!("a blocking thread was lost while decompressing: {error}"),
            },
        }
    }

    fn undecodable(&self, error: io::Error) -> StoreError {
        let source = StoreError::MalformedNar {
            path: self.path().clone(),
            source: error.into(),
        };
        source.blame(&self.store)
    }

    /// The size differs from the announced one.
    fn wrong_size(&self, actual: u64) -> StoreError {
        let source = StoreError::SizeMismatch {
            path: self.path().clone(),
            expected: self.info.info.nar_size,
            actual,
        };
        source.blame(&self.store)
    }
}

/// The NAR in `body`. It yields at most the announced number of bytes, however well the file is
/// compressed.
pub(super) fn decode(origin: Origin, body: Body, memory: u64) -> NarStream {
    let codings = match codec::coding(&origin.info.compression) {
        Ok(coding) => Vec::from_iter(coding),
        Err(error) => return stream::iter([Err(origin.undecodable(error.into()))]).boxed(),
    };
    let limits = Limits::default().with_memory(memory);
    let limits = limits.with_output(origin.info.info.nar_size);
    let contents = bridge::decode(codings, body, limits);
    let state = Some((origin, contents, 0u64));
    let chunks = stream::unfold(state, |state| async move {
        let (origin, mut contents, before) = state?;
        match contents.next().await {
            Some(Ok(chunk)) => {
                let size = before + chunk.len() as u64;
                match size > origin.info.info.nar_size {
                    true => Some((Err(origin.wrong_size(size)), None)),
                    false => Some((Ok(chunk), Some((origin, contents, size)))),
                }
            }
            Some(Err(failure)) => Some((Err(origin.failed(failure)), None)),
            None if before == origin.info.info.nar_size => None,
            None => Some((Err(origin.wrong_size(before)), None)),
        }
    });
    chunks.boxed()
}
