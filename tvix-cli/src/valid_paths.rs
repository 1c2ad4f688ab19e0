//! Queries of evaluation to the store.

use std::io;
use std::sync::{Arc, OnceLock};

use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use tokio::runtime::Handle;
use tvix_eval::valid_paths::ValidPaths;
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{Store as _, StoreUri};

use crate::stores;

/// Looks up paths in a store that is opened once there is something to look up.
pub struct StorePaths {
    uri: Option<StoreUri>,
    runtime: Handle,
    store: OnceLock<Arc<LocalStore>>,
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
                    self.store.get_or_init(|| Arc::new(store)).clone()
                }
            };
            let info = store.path_info(path).await.map_err(io::Error::other)?;
            Ok(info.map(|info| info.references.clone()))
        })
    }
}
