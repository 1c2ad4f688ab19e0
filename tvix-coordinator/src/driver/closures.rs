//! Closures of build inputs.

use std::sync::{Arc, Mutex, PoisonError};

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use rustc_hash::{FxHashMap, FxHashSet};
use tvix_store_api::{Store, StoreError, StoreExt as _};

/// Infos that are kept, twice: when the newer half is full it becomes the older one.
const HALF: usize = 8192;

/// What is known of paths that were used lately, so that the closures of builds that share inputs
/// cost the store one look-up each. What is valid stays valid during a session, so nothing in it
/// goes stale.
#[derive(Debug, Default)]
pub(super) struct Closures {
    halves: Mutex<[FxHashMap<StorePath, Arc<PathInfo>>; 2]>,
}

impl Closures {
    pub(super) fn learn(&self, info: Arc<PathInfo>) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let [newer, older] = &mut *halves;
        if newer.len() >= HALF {
            std::mem::swap(newer, older);
            newer.clear();
        }
        newer.insert(info.path.clone(), info);
    }

    fn known(&self, path: &StorePath) -> Option<Arc<PathInfo>> {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.iter().find_map(|half| half.get(path)).cloned()
    }

    /// All that `paths` refer to, directly or not, and they themselves.
    pub(super) async fn of(
        &self,
        store: &dyn Store,
        paths: Vec<StorePath>,
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        let mut closure = Vec::with_capacity(paths.len());
        let mut seen: FxHashSet<StorePath> = paths.iter().cloned().collect();
        let mut open = paths;
        while !open.is_empty() {
            let mut unknown = Vec::new();
            while let Some(path) = open.pop() {
                let Some(info) = self.known(&path) else {
                    unknown.push(path);
                    continue;
                };
                for reference in info.references.iter() {
                    if seen.insert(reference.clone()) {
                        open.push(reference.clone());
                    }
                }
                closure.push(info);
            }
            match &unknown[..] {
                [] => {}
                [path] => {
                    self.learn(store.require(path).await?);
                    open = unknown;
                }
                // The store looks up many at once better than one after the other.
                _ => {
                    let found = store.closure(&unknown).await?;
                    for info in found {
                        self.learn(info.clone());
                        if seen.insert(info.path.clone()) || unknown.contains(&info.path) {
                            closure.push(info);
                        }
                    }
                }
            }
        }
        Ok(closure)
    }
}
