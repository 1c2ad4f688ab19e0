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

/// A cache of infos of recently used paths, so that the closures of builds that share inputs cost
/// the store one look-up for each path. Valid paths stay valid during a session, so no entry goes
/// stale.
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

    /// Adds the cached infos of `paths` to `infos`, and leaves the other paths in `paths`.
    fn take_known(&self, paths: &mut Vec<StorePath>, infos: &mut Vec<Arc<PathInfo>>) {
        if paths.is_empty() {
            return;
        }
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|path| {
            let hash = digest_hash(path);
            let mut known = halves.iter();
            let found = known.find_map(|half| half.find(hash, |info| info.path == *path));
            infos.extend(found.cloned());
            found.is_none()
        });
    }

    /// The closure of `paths`, which are distinct, as far as it is cached.
    pub(super) fn of(&self, paths: Vec<StorePath>) -> Closure {
        let mut closure = Closure {
            infos: Vec::with_capacity(paths.len()),
            seen: FxHashSet::default(),
            followed: 0,
            open: paths,
        };
        self.advance(&mut closure);
        closure
    }

    fn advance(&self, closure: &mut Closure) {
        self.take_known(&mut closure.open, &mut closure.infos);
        while closure.open.is_empty() && closure.followed < closure.infos.len() {
            closure.follow();
            self.take_known(&mut closure.open, &mut closure.infos);
        }
    }

    /// Completes a closure with look-ups in `store`.
    pub(super) async fn complete(
        &self,
        store: &dyn Store,
        mut closure: Closure,
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        while !closure.open.is_empty() {
            for unknown in closure.open.chunks(LOOK_UPS_AT_ONCE) {
                let found = match unknown {
                    [path] => vec![store.require(path).await?],
                    _ => try_join_all(unknown.iter().map(|path| store.require(path))).await?,
                };
                self.learn(found.iter().cloned());
                closure.infos.extend(found);
            }
            closure.open.clear();
            self.advance(&mut closure);
        }
        Ok(closure.infos)
    }
}

/// A closure that may not be complete yet.
#[derive(Debug)]
pub(super) struct Closure {
    infos: Vec<Arc<PathInfo>>,
    /// All of `infos` and `open`. Filled once something refers to something else, which in many
    /// graphs nothing does.
    seen: FxHashSet<StorePath>,
    /// The number of `infos` with followed references.
    followed: usize,
    /// Members without an info in `infos` yet.
    open: Vec<StorePath>,
}

impl Closure {
    /// All of it, if nothing is missing.
    pub(super) fn into_complete(self) -> Result<Vec<Arc<PathInfo>>, Self> {
        if self.open.is_empty() {
            Ok(self.infos)
        } else {
            Err(self)
        }
    }

    /// Opens the references of the infos. Nothing else is open.
    fn follow(&mut self) {
        while let Some(info) = self.infos.get(self.followed) {
            self.followed += 1;
            for reference in info.references.iter().filter(|path| **path != info.path) {
                if self.seen.is_empty() {
                    let infos = self.infos.iter();
                    self.seen.extend(infos.map(|info| info.path.clone()));
                }
                if !self.seen.contains(reference) {
                    self.seen.insert(reference.clone());
                    self.open.push(reference.clone());
                }
            }
        }
    }
}
