//! Closures of build inputs.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::try_join_all;
use hashbrown::HashTable;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashSet;
use tvix_store_api::{Store, StoreError, StoreExt as _};

use crate::digest_hash;

/// Infos that are kept, twice: when the newer half is full it becomes the older one.
const HALF: usize = 8192;
/// Look-ups at once for one build.
const LOOK_UPS_AT_ONCE: usize = 16;

/// What is known of paths that were used lately, so that the closures of builds that share inputs
/// cost the store one look-up each. What is valid stays valid during a session, so nothing in it
/// goes stale.
#[derive(Debug, Default)]
pub(super) struct Closures {
    halves: Mutex<[HashTable<Arc<PathInfo>>; 2]>,
}

impl Closures {
    pub(super) fn learn(&self, infos: impl IntoIterator<Item = Arc<PathInfo>>) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let [newer, older] = &mut *halves;
        for info in infos {
            if newer.len() >= HALF {
                std::mem::swap(newer, older);
                newer.clear();
            }
            let rehash = |info: &Arc<PathInfo>| digest_hash(&info.path);
            newer
                .entry(
                    digest_hash(&info.path),
                    |known| known.path == info.path,
                    rehash,
                )
                .insert(info);
        }
    }

    /// Adds what is known of `paths` to `infos`, and leaves in `paths` what is not.
    fn take_known(&self, paths: &mut Vec<StorePath>, infos: &mut Vec<Arc<PathInfo>>) {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|path| {
            let hash = digest_hash(path);
            let mut known = halves.iter();
            let found = known.find_map(|half| half.find(hash, |info| info.path == *path));
            infos.extend(found.cloned());
            found.is_none()
        });
    }

    /// All that `paths`, which are different ones, refer to, directly or not, and they themselves.
    pub(super) async fn of(
        &self,
        store: &dyn Store,
        paths: Vec<StorePath>,
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        let mut closure = Vec::with_capacity(paths.len());
        // Filled once something refers to something else, which in many graphs nothing does.
        let mut seen: FxHashSet<StorePath> = FxHashSet::default();
        let mut followed = 0;
        let mut open = paths;
        while !open.is_empty() {
            self.take_known(&mut open, &mut closure);
            for unknown in open.chunks(LOOK_UPS_AT_ONCE) {
                let found = match unknown {
                    [path] => vec![store.require(path).await?],
                    _ => try_join_all(unknown.iter().map(|path| store.require(path))).await?,
                };
                self.learn(found.iter().cloned());
                closure.extend(found);
            }
            open.clear();
            while let Some(info) = closure.get(followed) {
                followed += 1;
                for reference in info.references.iter().filter(|path| **path != info.path) {
                    if seen.is_empty() {
                        seen.extend(closure.iter().map(|info| info.path.clone()));
                    }
                    if !seen.contains(reference) {
                        seen.insert(reference.clone());
                        open.push(reference.clone());
                    }
                }
            }
        }
        Ok(closure)
    }
}
