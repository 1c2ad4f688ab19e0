//! `--check-cache-status`: whether outputs are in the store or in a substituter.

use std::collections::HashSet;
use std::sync::Arc;

use nix_compat::store_path::StorePath;
use tvix_store_api::Store;

use super::line::Line;
use crate::args::BuildingArgs;
use crate::caches;
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores::MainStore;

/// The store and the substituters, in the order in which they are queried.
pub struct CacheStatus {
    store: MainStore,
    substituters: Vec<Arc<dyn Store>>,
}

impl CacheStatus {
    pub async fn new(building: &BuildingArgs, store: &MainStore) -> Self {
        let mut substituters = caches::substituters(building, &**store).await;
        substituters.sort_by_key(|(priority, _)| *priority);
        Self {
            store: store.clone(),
            substituters: substituters.into_iter().map(|(_, it)| it).collect(),
        }
    }

    /// Adds the status of each job. Each store is queried once for all lines.
    pub async fn annotate(&self, lines: &mut [Line]) -> Result<(), CliError> {
        let paths = lines.iter().flat_map(|line| line.outputs.iter().flatten());
        let paths: HashSet<StorePath> = paths.cloned().collect();
        let paths: Vec<_> = paths.into_iter().collect();
        let local = self.store.valid_paths(&paths).await;
        let local = local.map_err(CliError::store)?;
        let mut cached = local.clone();
        for substituter in &self.substituters {
            let missing = paths.iter().filter(|path| !cached.contains(*path));
            let missing: Vec<_> = missing.cloned().collect();
            if missing.is_empty() {
                break;
            }
            match substituter.valid_paths(&missing).await {
                Ok(found) => cached.extend(found),
                Err(error) => say!("warning: {}", describe(&error)),
            }
        }
        for line in lines.iter_mut().filter(|line| !line.outputs.is_empty()) {
            let all_in = |paths: &HashSet<StorePath>| {
                let mut outputs = line.outputs.iter();
                outputs.all(|path| path.as_ref().is_some_and(|path| paths.contains(path)))
            };
            let status = match () {
                () if all_in(&local) => "local",
                () if all_in(&cached) => "cached",
                () => "notBuilt",
            };
            line.set("cacheStatus", status);
            line.set("isCached", status != "notBuilt");
        }
        Ok(())
    }
}
