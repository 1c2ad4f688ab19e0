//! Queries of evaluation to the store.

use std::io;
use std::sync::OnceLock;

use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use tokio::runtime::Handle;
use tvix_eval::valid_paths::ValidPaths;
use tvix_store_api::StoreUri;

use crate::stores::{self, MainStore};

/// Looks up paths in a store that is opened once there is something to look up.
pub struct StorePaths {
    uri: Option<StoreUri>,
    runtime: Handle,
    store: OnceLock<MainStore>,
}

impl StorePaths {
    /// Must be called on a runtime's thread.
    pub fn new(uri: Option<StoreUri>) -> Self {
        Self {
            uri,
            runtime: Handle::current(),
            store: OnceLock::new(),
        }
    }
}

impl ValidPaths for StorePaths {
    fn references(&self, path: &StorePath) -> io::Result<Option<SortedSet<StorePath>>> {
        // Called on the evaluation's thread, which is none of the runtime's.
        self.runtime.block_on(async {
            let store = match self.store.get() {
                Some(store) => store.clone(),
                None => {
                    // Without a store nothing is valid; a build may make one later.
                    let Ok(store) = stores::open_to_read(self.uri.clone()).await else {
                        return Ok(None);
                    };
                    self.store.get_or_init(|| store).clone()
                }
            };
            let info = store.path_info(path).await.map_err(io::Error::other)?;
            Ok(info.map(|info| info.references.clone()))
        })
    }
}
