//! Looking up and reading many paths in a store that has no batch operation.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use crate::verify::{NarVerifier, check_address};
use crate::{NarStream, Store, StoreError, VerifiedObject};

/// Number of concurrent look-ups.
const LOOK_UPS_IN_FLIGHT: usize = 64;

/// Number of concurrent reads.
const READS_IN_FLIGHT: usize = 32;

/// Number of bytes that are hashed before the task yields.
const TURN: usize = 256 * 1024;

pub(crate) async fn path_infos<S: Store + ?Sized>(
    store: &S,
    paths: &[StorePath],
) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
    stream::iter(paths.to_vec())
        .map(|path| async move { store.path_info(&path).await })
        .buffered(LOOK_UPS_IN_FLIGHT)
        .try_collect()
        .await
}

pub(crate) async fn read_many<S: Store + ?Sized>(
    store: &S,
    infos: Vec<Arc<PathInfo>>,
) -> Vec<Result<VerifiedObject, StoreError>> {
    stream::iter(infos)
        .map(|info| async move {
            check_address(store.store_dir(), &info)?;
            let nar = store.nar(&info.path).await?;
            let nar = receive(&info, nar).await?;
            let info = PathInfo::clone(&info);
            Ok(VerifiedObject::checked(store.store_dir(), info, nar))
        })
        .buffered(READS_IN_FLIGHT)
        .collect()
        .await
}

/// Reads and verifies all of `nar`. The verifier fails as soon as there are more bytes than `info`
/// announces, so memory use is bounded by `info.nar_size`.
pub(crate) async fn receive(info: &PathInfo, mut nar: NarStream) -> Result<Bytes, StoreError> {
    let mut verifier = NarVerifier::new(info);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(chunk) = nar.next().await.transpose()? {
        for piece in chunk.chunks(TURN) {
            verifier.update(piece, |_| Ok(()))?;
            if piece.len() == TURN {
                tokio::task::yield_now().await;
            }
        }
        // A NAR in a single chunk is not copied.
        if first.is_empty() && joined.is_empty() {
            first = chunk;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&std::mem::take(&mut first));
            }
            joined.extend_from_slice(&chunk);
        }
    }
    verifier.finish()?;
    Ok(if joined.is_empty() {
        first
    } else {
        joined.freeze()
    })
}
