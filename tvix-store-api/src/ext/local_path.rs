//! Reading what is in a store as files.

use std::path::{Path, PathBuf};

use nix_compat::nar::NarError;
use nix_compat::store_path::StorePath;
use tempfile::TempDir;
use tvix_tree::{RestoreOptions, Unpacker};

use super::StoreExt;
use crate::blocking::{Abandoned, blocking, consume};
use crate::verify::{NarVerifier, malformed};
use crate::{Store, StoreError};

/// A store path as files on this file system, for as long as this is held: where the store keeps
/// it, or unpacked to a temporary directory, which is removed when this is dropped.
#[derive(Debug)]
pub struct LocalPath {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl LocalPath {
    /// Where to read it. It must not be changed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was unpacked, and will be gone.
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
        // It may be large, and whoever drops this may be a thread that must not block.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Gives the owner of read-only directories what removing them takes. What fails shows as what
/// stays behind.
fn make_removable(directory: &Path) {
    let entries = std::fs::read_dir(directory);
    for entry in entries.into_iter().flatten().flatten() {
        // That of a link, not of what it points to.
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
            // As deep as archives can be, which is not deep.
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
        action: "making a temporary directory to unpack to".into(),
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
        let failed = |error: NarError| match error {
            NarError::Malformed { .. } => malformed(&info.path, error),
            error => StoreError::Backend {
                store: uri.clone(),
                action: format!("unpacking '{}' to '{}'", info.path, path.display()),
                retryable: false,
                source: error.into(),
            },
        };
        // As builds find it in a store on disk, times included.
        let unpacker = Unpacker::new(&path, RestoreOptions::default().canonical(true));
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
                    return Err(failed(NarError::Io(error)));
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
