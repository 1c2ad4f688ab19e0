//! The in-memory store.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};

use crate::ext::many::receive;
use crate::verify::check_address;
use crate::{NarStream, Store, StoreError, StoreUri};

/// Number of shards, so that readers and writers on different cores seldom contend. A power of two.
const SHARDS: usize = 16;

/// A store in memory: for tests, for builds that leave nothing on disk, and as the fast tier of a
/// [`TieredStore`](crate::TieredStore).
///
/// It keeps the whole contract of [`Store`], verification included. Clones are handles on the same
/// store. Objects are never deleted.
#[derive(Clone)]
pub struct MemoryStore(Arc<Inner>);

struct Inner {
    uri: StoreUri,
    store_dir: StoreDir,
    shards: [RwLock<HashMap<StorePath, Object>>; SHARDS],
    hash: std::hash::RandomState,
    realisations: RwLock<HashMap<DrvOutput, Realisation>>,
}

#[derive(Clone)]
struct Object {
    info: Arc<PathInfo>,
    nar: Bytes,
}

impl MemoryStore {
    /// An empty store with a name that is unique in this process.
    pub fn new(store_dir: StoreDir) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        // The name includes the process id, because the URI may reach another process.
        let name = format!("{}-{number}", std::process::id());
        Self::with_name(store_dir, name)
    }

    /// An empty store with the URI `memory://<name>`.
    ///
    /// The caller ensures that names are unique.
    pub fn with_name(store_dir: StoreDir, name: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            uri: StoreUri::memory(name),
            store_dir,
            shards: Default::default(),
            hash: std::hash::RandomState::new(),
            realisations: RwLock::default(),
        }))
    }

    /// The number of valid paths.
    pub fn len(&self) -> usize {
        let shards = self.0.shards.iter();
        shards.map(|shard| read(shard).len()).sum()
    }

    /// Whether the store has no valid path.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, digest: &[u8; 20]) -> &RwLock<HashMap<StorePath, Object>> {
        // Different bits than those that the map in the shard uses first.
        let hash = self.0.hash.hash_one(digest);
        &self.0.shards[(hash >> 32) as usize % SHARDS]
    }

    fn object(&self, path: &StorePath) -> Option<Object> {
        read(self.shard(path.digest())).get(path).cloned()
    }

    fn contains(&self, path: &StorePath) -> bool {
        read(self.shard(path.digest())).contains_key(path)
    }

    fn not_found(&self, path: &StorePath) -> StoreError {
        StoreError::NotFound {
            store: self.0.uri.clone(),
            path: path.clone(),
        }
    }

    fn check_references(&self, info: &PathInfo) -> Result<(), StoreError> {
        let mut references = info.references.iter();
        match references.find(|path| **path != info.path && !self.contains(path)) {
            None => Ok(()),
            Some(reference) => Err(StoreError::InvalidReference {
                store: self.0.uri.clone(),
                path: info.path.clone(),
                reference: reference.clone(),
            }),
        }
    }
}

// A panic while the lock is held cannot leave the map in an inconsistent state, so poisoning is
// ignored.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore")
            .field("uri", &self.0.uri)
            .field("paths", &self.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn uri(&self) -> &StoreUri {
        &self.0.uri
    }

    fn store_dir(&self) -> &StoreDir {
        &self.0.store_dir
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        Ok(read(self.shard(path.digest()))
            .get(path)
            .map(|o| o.info.clone()))
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let shard = read(self.shard(digest));
        let mut objects = shard.iter();
        let found = objects.find(|(path, _)| path.digest() == digest);
        Ok(found.map(|(_, object)| object.info.clone()))
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        let valid = paths.iter().filter(|path| self.contains(path));
        Ok(valid.cloned().collect())
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        let object = self.object(path).ok_or_else(|| self.not_found(path))?;
        Ok(stream::iter([Ok(object.nar)]).boxed())
    }

    async fn add(&self, mut info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        if self.contains(&info.path) {
            return Ok(());
        }
        check_address(&self.0.store_dir, &info)?;
        self.check_references(&info)?;
        let nar = receive(&info, nar).await?;
        info.registration_time = Some(now());
        let mut shard = write(self.shard(info.path.digest()));
        // Of two concurrent additions, the first stays.
        shard.entry(info.path.clone()).or_insert_with(|| Object {
            info: Arc::new(info),
            nar,
        });
        Ok(())
    }

    async fn on_disk(&self, _path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        Ok(None)
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        Ok(read(&self.0.realisations).get(id).cloned())
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        if !self.contains(&realisation.out_path) {
            return Err(self.not_found(&realisation.out_path));
        }
        let mut realisations = write(&self.0.realisations);
        let known = realisations.entry(realisation.id.clone());
        known.or_insert_with(|| realisation.clone());
        Ok(())
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
