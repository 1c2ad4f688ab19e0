//! `--gc-roots-dir`: a garbage collector root for the derivation of each job.

use std::path::PathBuf;

use nix_compat::store_path::StorePath;
use tvix_store_api::StoreError;

use crate::error::CliError;
use crate::stores::MainStore;

/// Links to derivations, named after them, in one directory.
pub struct GcRoots {
    dir: PathBuf,
    store: MainStore,
}

impl GcRoots {
    /// Creates the directory if it does not exist.
    pub fn new(dir: PathBuf, store: MainStore) -> Result<Self, CliError> {
        match std::fs::create_dir_all(&dir) {
            Ok(()) => Ok(Self { dir, store }),
            Err(source) => Err(CliError::File {
                action: "create the directory",
                file: dir,
                source,
            }),
        }
    }

    /// Adds a root for a derivation, if it is in the store.
    pub async fn add(&self, drv_path: &StorePath) -> Result<(), CliError> {
        let link = self.dir.join(drv_path.to_string());
        let added = self.store.add_root(&link, drv_path).await;
        match added {
            // The session failed, and says so itself.
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(CliError::out_link(&link, error)),
        }
    }
}
