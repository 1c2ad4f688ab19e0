//! Stores of another user.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::layout::Layout;
use crate::StoreError;

/// Names the owner of the store, if opening failed because the store belongs to another user.
pub(super) fn explain(error: StoreError, layout: &Layout) -> StoreError {
    let ours = rustix::process::geteuid().as_raw();
    let owner = [&layout.state, &layout.store]
        .into_iter()
        .find_map(|directory| fs::metadata(directory).ok())
        .map(|metadata| metadata.uid());
    match (error, owner) {
        (
            StoreError::Backend {
                store,
                action,
                retryable,
                source,
            },
            Some(owner),
        ) if owner != ours && is_refused(&*source) => StoreError::Backend {
            store,
            action: format!(
                "{action} (it belongs to user {owner}, this is user {ours}; it can only be opened read-only)"
            ),
            retryable,
            source,
        },
        (error, _) => error,
    }
}

fn is_refused(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        )
    })
}
