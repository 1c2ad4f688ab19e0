//! Reading NARs from the files of the store.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt as _};
use nix_compat::nar::NarError;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tokio::sync::Semaphore;

use super::add_group::again;
use super::{Inner, LocalStore};
use crate::blocking::{blocking, produce};
use crate::local_fs::stop::StopOnDrop;
use crate::object::small_nar;
use crate::{NarStream, StoreError, StoreUri, VerifiedObject};

/// Packs `file`, the files of `path`, as a NAR stream. Holds one of `permits` while it packs,
/// because each stream takes a thread.
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
            tvix_tree::dump_path(&file, chunks).map_err(|error| failed(&uri, &path, error))
        })
    };
    stream::once(started).flatten().boxed()
}

fn failed(uri: &StoreUri, path: &StorePath, error: NarError) -> StoreError {
    StoreError::Backend {
        store: uri.clone(),
        action: format!("read '{path}'"),
        retryable: false,
        source: error.into(),
    }
}

impl LocalStore {
    /// Reads small objects one by one, on a single thread.
    pub(super) async fn read_objects(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        let stop = StopOnDrop::default();
        let (inner, stopped, wanted) = (self.0.clone(), stop.flag(), infos.clone());
        let permit = self.0.reads.clone().acquire_owned().await;
        let read = blocking(&self.0.uri, move || {
            let _held = permit;
            let paths: Vec<StorePath> = wanted.iter().map(|info| info.path.clone()).collect();
            inner.hold(&paths)?;
            let valid = inner.database.valid_paths(&paths)?;
            let objects = wanted.iter().map(|info| match valid.contains(&info.path) {
                // The future was dropped.
                _ if stopped.load(Ordering::Relaxed) => Err(inner.not_found(&info.path)),
                true => inner.read_object(info),
                false => Err(inner.not_found(&info.path)),
            });
            Ok(objects.collect())
        });
        read.await.unwrap_or_else(|error| {
            let failed = infos.iter().map(|_| Err(again(&self.0.uri, &error)));
            failed.collect()
        })
    }
}

impl Inner {
    fn read_object(&self, info: &PathInfo) -> Result<VerifiedObject, StoreError> {
        let path = &info.path;
        let limit = usize::try_from(info.nar_size).unwrap_or(usize::MAX);
        let nar = small_nar(&self.layout.store.join(path.to_string()), limit);
        match nar.map_err(|error| failed(&self.uri, path, error))? {
            Some(nar) => VerifiedObject::verify(&self.store_dir, info.clone(), nar),
            None => Err(StoreError::SizeMismatch {
                path: path.clone(),
                expected: info.nar_size,
                actual: info.nar_size.saturating_add(1),
            }),
        }
    }

    pub(super) fn not_found(&self, path: &StorePath) -> StoreError {
        StoreError::NotFound {
            store: self.uri.clone(),
            path: path.clone(),
        }
    }
}
