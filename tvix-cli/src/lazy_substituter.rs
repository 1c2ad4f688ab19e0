//! A substituter that is opened by the first question to it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};
use tokio::sync::OnceCell;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions};
use tvix_store_api::{NarStream, SourceTree, Store, StoreError, StoreUri, VerifiedObject};

use crate::error::describe;
use crate::output::say;

/// The binary cache that everybody has by default. Many commands need nothing of it, and it may be out of reach, which
/// is harmless: a warning says so once, and from then on it has nothing.
#[derive(Debug)]
pub struct LazySubstituter {
    options: BinaryCacheOptions,
    dir: StoreDir,
    opened: OnceCell<Option<BinaryCache>>,
}

impl LazySubstituter {
    /// A cache with the default store directory.
    pub fn new(options: BinaryCacheOptions) -> Self {
        Self {
            options,
            dir: StoreDir::default(),
            opened: OnceCell::new(),
        }
    }

    /// The cache; `None` if it cannot be used.
    async fn cache(&self) -> Option<&BinaryCache> {
        let open = || async {
            match BinaryCache::open(self.options.clone()).await {
                Ok(cache) if *cache.store_dir() == self.dir => Some(cache),
                Ok(cache) => {
                    let (uri, dir) = (cache.uri(), cache.store_dir());
                    say!(
                        "warning: substituter '{uri}' is not used: its store directory is '{dir}'"
                    );
                    None
                }
                Err(error) => {
                    say!("warning: {}", describe(&error));
                    None
                }
            }
        };
        self.opened.get_or_init(open).await.as_ref()
    }

    fn not_found(&self, path: &StorePath) -> StoreError {
        StoreError::NotFound {
            store: self.uri().clone(),
            path: path.clone(),
        }
    }

    fn read_only(&self) -> StoreError {
        StoreError::Backend {
            store: self.uri().clone(),
            action: "add to a substituter".to_owned(),
            retryable: false,
            source: "it is only read".into(),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for LazySubstituter {
    fn uri(&self) -> &StoreUri {
        &self.options.uri
    }

    fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        match self.cache().await {
            Some(cache) => cache.path_info(path).await,
            None => Ok(None),
        }
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        match self.cache().await {
            Some(cache) => cache.find(digest).await,
            None => Ok(None),
        }
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        if paths.is_empty() {
            return Ok(HashSet::new());
        }
        match self.cache().await {
            Some(cache) => cache.valid_paths(paths).await,
            None => Ok(HashSet::new()),
        }
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        match self.cache().await {
            Some(cache) => cache.path_infos(paths).await,
            None => Ok(vec![None; paths.len()]),
        }
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        match self.cache().await {
            Some(cache) => cache.nar(path).await,
            None => Err(self.not_found(path)),
        }
    }

    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        match self.cache().await {
            Some(cache) => cache.read_many(infos).await,
            None => {
                let infos = infos.iter();
                infos.map(|info| Err(self.not_found(&info.path))).collect()
            }
        }
    }

    async fn add(&self, _: PathInfo, _: NarStream) -> Result<(), StoreError> {
        Err(self.read_only())
    }

    async fn add_many(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        objects.iter().map(|_| Err(self.read_only())).collect()
    }

    async fn add_source(&self, _: SourceTree) -> Result<StorePath, StoreError> {
        Err(self.read_only())
    }

    async fn on_disk(&self, _: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        Ok(None)
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        match self.cache().await {
            Some(cache) => cache.realisation(id).await,
            None => Ok(None),
        }
    }

    async fn add_realisation(&self, _: &Realisation) -> Result<(), StoreError> {
        Err(self.read_only())
    }
}
