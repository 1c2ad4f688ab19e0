//! Several stores as one.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _};
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};

use crate::ext::many;
use crate::{NarStream, SourceTree, Store, StoreError, StoreExt as _, StoreUri, VerifiedObject};

/// Several stores as one, such as a local store before binary caches, or memory before a local
/// store.
///
/// - **Reads** query the tiers in order. An entry of an earlier tier hides those of later ones.
/// - **Writes** go to the first tier, which gives the URI. All references of a path must be valid
///   in it, so references that are only valid in later tiers are copied to it first, with their
///   closures.
/// - **A failing tier** is skipped as long as a later one has the requested object: a cache that is
///   down does not prevent the use of the others. If no later tier has it, the first failure is
///   returned rather than "not found", because the failing tier may have it. The same holds for a
///   failure before the first chunk of a NAR; a later failure is returned in the stream.
#[derive(Debug, Clone)]
pub struct TieredStore {
    first: Arc<dyn Store>,
    others: Arc<[Arc<dyn Store>]>,
}

impl TieredStore {
    /// Combines `first` and `others`.
    ///
    /// # Errors
    ///
    /// [`StoreError::OtherStoreDir`] if the store directories differ.
    pub fn new(
        first: Arc<dyn Store>,
        others: impl IntoIterator<Item = Arc<dyn Store>>,
    ) -> Result<Self, StoreError> {
        let others: Arc<[Arc<dyn Store>]> = others.into_iter().collect();
        let expected = first.store_dir();
        match others.iter().find(|other| other.store_dir() != expected) {
            None => Ok(Self { first, others }),
            Some(other) => Err(StoreError::OtherStoreDir {
                store: other.uri().clone(),
                actual: other.store_dir().clone(),
                expected: expected.clone(),
            }),
        }
    }

    /// The tiers, in order.
    pub fn tiers(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        std::iter::once(&self.first).chain(self.others.iter())
    }

    /// The first result of a tier that has one.
    async fn first_some<T>(&self, ask: impl AsyncTierQuery<T>) -> Result<Option<T>, StoreError> {
        let mut failure = None;
        for tier in self.tiers() {
            match ask.ask(&**tier).await {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Copies those of `paths` to the first tier that are only valid in a later one.
    async fn bring_up(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        if self.others.is_empty() || paths.is_empty() {
            return Ok(());
        }
        let there = self.first.valid_paths(paths).await?;
        let missing: Vec<StorePath> = paths
            .iter()
            .filter(|path| !there.contains(*path))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        // Paths that are valid nowhere are left for the first tier to refuse.
        let valid: Vec<StorePath> = self.valid_paths(&missing).await?.into_iter().collect();
        self.copy_closure(&*self.first, &valid).await?;
        Ok(())
    }
}

/// A query to one tier. A trait, because a closure cannot declare that its future is `Send`.
#[async_trait]
trait AsyncTierQuery<T>: Send + Sync {
    async fn ask(&self, tier: &dyn Store) -> Result<Option<T>, StoreError>;
}

struct InfoOf<'a>(&'a StorePath);

#[async_trait]
impl AsyncTierQuery<Arc<PathInfo>> for InfoOf<'_> {
    async fn ask(&self, tier: &dyn Store) -> Result<Option<Arc<PathInfo>>, StoreError> {
        tier.path_info(self.0).await
    }
}

struct Find<'a>(&'a [u8; 20]);

#[async_trait]
impl AsyncTierQuery<Arc<PathInfo>> for Find<'_> {
    async fn ask(&self, tier: &dyn Store) -> Result<Option<Arc<PathInfo>>, StoreError> {
        tier.find(self.0).await
    }
}

struct OnDisk<'a>(&'a StorePath);

#[async_trait]
impl AsyncTierQuery<PathBuf> for OnDisk<'_> {
    async fn ask(&self, tier: &dyn Store) -> Result<Option<PathBuf>, StoreError> {
        tier.on_disk(self.0).await
    }
}

struct RealisationOf<'a>(&'a DrvOutput);

#[async_trait]
impl AsyncTierQuery<Realisation> for RealisationOf<'_> {
    async fn ask(&self, tier: &dyn Store) -> Result<Option<Realisation>, StoreError> {
        tier.realisation(self.0).await
    }
}

struct NarOf<'a>(&'a StorePath);

#[async_trait]
impl AsyncTierQuery<NarStream> for NarOf<'_> {
    /// Reads up to the first chunk: only a chunk shows that the tier has the NAR.
    async fn ask(&self, tier: &dyn Store) -> Result<Option<NarStream>, StoreError> {
        let begun = async {
            let mut nar = tier.nar(self.0).await?;
            let first = nar.next().await.transpose()?;
            Ok::<NarStream, StoreError>(stream::iter(first.map(Ok)).chain(nar).boxed())
        };
        match begun.await {
            Ok(nar) => Ok(Some(nar)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for TieredStore {
    fn uri(&self) -> &StoreUri {
        self.first.uri()
    }

    fn store_dir(&self) -> &StoreDir {
        self.first.store_dir()
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.first_some(InfoOf(path)).await
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.first_some(Find(digest)).await
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        let mut valid = HashSet::with_capacity(paths.len());
        let mut left = paths.to_vec();
        let mut failure = None;
        for tier in self.tiers() {
            if left.is_empty() {
                break;
            }
            match tier.valid_paths(&left).await {
                Ok(found) => {
                    left.retain(|path| !found.contains(path));
                    valid.extend(found);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if !left.is_empty() => Err(error),
            _ => Ok(valid),
        }
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        let mut infos = vec![None; paths.len()];
        let mut left: Vec<usize> = (0..paths.len()).collect();
        for tier in self.tiers() {
            if left.is_empty() {
                break;
            }
            let asked: Vec<StorePath> = left.iter().map(|&index| paths[index].clone()).collect();
            let Ok(found) = tier.path_infos(&asked).await else {
                // One by one: the tier may fail for only one of the paths.
                return many::path_infos(self, paths).await;
            };
            for (index, info) in left.iter().zip(found) {
                infos[*index] = info;
            }
            left.retain(|&index| infos[index].is_none());
        }
        Ok(infos)
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        let found = self.first_some(NarOf(path)).await?;
        found.ok_or_else(|| StoreError::NotFound {
            store: self.uri().clone(),
            path: path.clone(),
        })
    }

    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        let not_found = |info: &Arc<PathInfo>| StoreError::NotFound {
            store: self.uri().clone(),
            path: info.path.clone(),
        };
        let mut results: Vec<_> = infos.iter().map(|info| Err(not_found(info))).collect();
        let mut left: Vec<usize> = (0..infos.len()).collect();
        for tier in self.tiers() {
            if left.is_empty() {
                break;
            }
            let wanted = left.iter().map(|&index| infos[index].clone()).collect();
            for (&index, result) in left.iter().zip(tier.read_many(wanted).await) {
                // The first failure is reported, unless a later tier has the path.
                if result.is_ok() || matches!(results[index], Err(StoreError::NotFound { .. })) {
                    results[index] = result;
                }
            }
            left.retain(|&index| results[index].is_err());
        }
        results
    }

    async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        let references = info.references.iter().filter(|path| **path != info.path);
        let references: Vec<StorePath> = references.cloned().collect();
        self.bring_up(&references).await?;
        self.first.add(info, nar).await
    }

    async fn add_many(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        // References between the objects are not valid anywhere yet.
        let own: HashSet<&StorePath> = objects.iter().map(VerifiedObject::path).collect();
        let references = objects.iter().flat_map(|it| it.info().references.iter());
        let references: HashSet<&StorePath> =
            references.filter(|path| !own.contains(path)).collect();
        let references: Vec<StorePath> = references.into_iter().cloned().collect();
        match self.bring_up(&references).await {
            Ok(()) => self.first.add_many(objects).await,
            // One by one: perhaps only one reference is unavailable.
            Err(_) => {
                let mut results = Vec::with_capacity(objects.len());
                for object in objects {
                    let (info, nar) = object.into_parts();
                    let nar = stream::iter([Ok(nar)]).boxed();
                    results.push(self.add(info, nar).await);
                }
                results
            }
        }
    }

    async fn add_source(&self, tree: SourceTree) -> Result<StorePath, StoreError> {
        let references: Vec<StorePath> = tree.references.iter().cloned().collect();
        self.bring_up(&references).await?;
        self.first.add_source(tree).await
    }

    async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        self.first_some(OnDisk(path)).await
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.first_some(RealisationOf(id)).await
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.bring_up(std::slice::from_ref(&realisation.out_path))
            .await?;
        self.first.add_realisation(realisation).await
    }
}
