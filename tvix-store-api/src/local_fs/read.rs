//! Reading NARs from the files of the store.

use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use nix_compat::nar;
use nix_compat::store_path::StorePath;
use tokio::sync::Semaphore;

use crate::blocking::produce;
use crate::{NarStream, StoreError, StoreUri};

/// Packs the files at `file`, which `path` has. As long as it is being packed it has one of
/// `permits`, as each takes a thread.
pub(super) fn stream_nar(
    uri: StoreUri,
    path: StorePath,
    file: PathBuf,
    permits: Arc<Semaphore>,
) -> NarStream {
    let started = async move {
        let permit = permits.acquire_owned().await;
        produce(uri.clone(), move |chunks| {
            let _held = permit;
            nar::dump_path(&file, chunks).map_err(|error| StoreError::Backend {
                store: uri,
                action: format!("reading '{path}'"),
                retryable: false,
                source: error.into(),
            })
        })
    };
    stream::once(started).flatten().boxed()
}
