//! Store paths as files of this file system.

use std::path::{Path, PathBuf};

use nix_compat::nar::NarError;
use nix_compat::store_path::StorePath;
use tempfile::TempDir;
use tvix_tree::{RestoreOptions, TreeError, Unpacker};

use super::StoreExt;
use crate::blocking::{Abandoned, blocking, consume};
use crate::verify::{NarVerifier, malformed};
use crate::{Store, StoreError};

/// A store path as files on this file system, for the lifetime of this value. The files are those
/// of the store, or a copy that was unpacked to a temporary directory; dropping the value removes
/// the temporary directory.
#[derive(Debug)]
pub struct LocalPath {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl LocalPath {
    /// The path of the files. They must not be changed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the files are a temporary copy, which is removed on drop.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }
}

impl AsRef<Path> for LocalPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalPath {
    fn drop(&mut self) {
        let Some(temporary) = self.temporary.take() else {
            return;
        };
        let remove = move || {
            make_removable(temporary.path());
            drop(temporary);
        };
        // The tree may be large, and the drop may happen on a thread that must not block.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Makes read-only directories writable, so that the tree can be removed. Errors are ignored: the
/// removal reports them.
fn make_removable(directory: &Path) {
    let entries = std::fs::read_dir(directory);
    for entry in entries.into_iter().flatten().flatten() {
        // The type of a symlink itself, not of its target.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if let Ok(metadata) = entry.metadata() {
                let mut permissions = metadata.permissions();
                #[cfg(unix)]
                std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o700);
                #[cfg(not(unix))]
                permissions.set_readonly(false);
                let _ = std::fs::set_permissions(&path, permissions);
            }
            // The recursion is bounded by the depth limit of archives.
            make_removable(&path);
        }
    }
}

pub(super) async fn local_path<S: Store + ?Sized>(
    store: &S,
    path: &StorePath,
) -> Result<LocalPath, StoreError> {
    if let Some(path) = store.on_disk(path).await? {
        let temporary = None;
        return Ok(LocalPath { path, temporary });
    }
    let info = store.require(path).await?;
    let nar = store.nar(path).await?;
    let uri = store.uri().clone();
    let failed = move |source: std::io::Error| StoreError::Backend {
        store: uri.clone(),
        action: "create a temporary directory to unpack to".into(),
        retryable: false,
        source: source.into(),
    };
    let temporary = blocking(store.uri(), move || {
        tempfile::Builder::new()
            .prefix("tvix-")
            .tempdir()
            .map_err(failed)
    })
    .await?;
    let uri = store.uri().clone();
    consume(store.uri(), nar, move |mut chunks| {
        let path = temporary.path().join(info.path.to_string());
        let failed = |error: TreeError| match error {
            TreeError::Nar(error @ NarError::Malformed { .. }) => malformed(&info.path, error),
            error => StoreError::Backend {
                store: uri.clone(),
                action: format!("unpack '{}' to '{}'", info.path, path.display()),
                retryable: false,
                source: error.into(),
            },
        };
        // With the modes and times of a store object on disk.
        let unpacker = Unpacker::new(&path, RestoreOptions::default().with_canonical(true));
        let mut unpacker = unpacker.map_err(failed)?;
        let mut verifier = NarVerifier::new(&info);
        loop {
            match chunks.next() {
                Ok(None) => break,
                Ok(Some(chunk)) => {
                    verifier.update(&chunk, |event| unpacker.event(event).map_err(failed))?;
                }
                Err(Abandoned) => {
                    let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Err(failed(NarError::Io(error).into()));
                }
            }
        }
        verifier.finish()?;
        unpacker.finish().map_err(failed)?;
        let temporary = Some(temporary);
        Ok(LocalPath { path, temporary })
    })
    .await
}
