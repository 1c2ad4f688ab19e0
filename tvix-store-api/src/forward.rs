//! `Store` for pointers to stores.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};

use crate::{NarStream, SourceTree, Store, StoreError, StoreUri, VerifiedObject};

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        // Every method is forwarded, including those with a default; clippy rejects a missing one.
        #[deny(clippy::missing_trait_methods)]
        impl<S: Store + ?Sized> Store for $pointer {
            fn uri(&self) -> &StoreUri {
                (**self).uri()
            }

            fn store_dir(&self) -> &StoreDir {
                (**self).store_dir()
            }

            async fn path_info(
                &self,
                path: &StorePath,
            ) -> Result<Option<Arc<PathInfo>>, StoreError> {
                (**self).path_info(path).await
            }

            async fn find(
                &self,
                digest: &[u8; 20],
            ) -> Result<Option<Arc<PathInfo>>, StoreError> {
                (**self).find(digest).await
            }

            async fn valid_paths(
                &self,
                paths: &[StorePath],
            ) -> Result<HashSet<StorePath>, StoreError> {
                (**self).valid_paths(paths).await
            }

            async fn path_infos(
                &self,
                paths: &[StorePath],
            ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
                (**self).path_infos(paths).await
            }

            async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
                (**self).nar(path).await
            }

            async fn read_many(
                &self,
                infos: Vec<Arc<PathInfo>>,
            ) -> Vec<Result<VerifiedObject, StoreError>> {
                (**self).read_many(infos).await
            }

            async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
                (**self).add(info, nar).await
            }

            async fn add_many(
                &self,
                objects: Vec<VerifiedObject>,
            ) -> Vec<Result<(), StoreError>> {
                (**self).add_many(objects).await
            }

            async fn add_source(&self, tree: SourceTree) -> Result<StorePath, StoreError> {
                (**self).add_source(tree).await
            }

            async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
                (**self).on_disk(path).await
            }

            async fn realisation(
                &self,
                id: &DrvOutput,
            ) -> Result<Option<Realisation>, StoreError> {
                (**self).realisation(id).await
            }

            async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
                (**self).add_realisation(realisation).await
            }
        }
    )*};
}

forward!(Box<S>, Arc<S>, &S);
