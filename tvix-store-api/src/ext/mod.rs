//! What can be made from the methods of any store.

mod closure;
mod copying;
mod local_path;
pub(crate) mod many;
mod source;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::StreamExt as _;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StorePath, StorePathName};

pub use self::local_path::LocalPath;
pub(crate) use self::source::add_tree;
#[cfg(all(unix, feature = "local-fs"))]
pub(crate) use self::source::expect;
use crate::verify::NarVerifier;
use crate::{Becomes, SourceTree, Store, StoreError};

/// What can be made from the methods of any [`Store`]. Implemented for all of them.
///
/// Where nothing else is said, dropping a future leaves each path that it works on added or not.
#[async_trait]
pub trait StoreExt: Store {
    /// Whether `path` is valid.
    async fn is_valid(&self, path: &StorePath) -> Result<bool, StoreError> {
        Ok(self.path_info(path).await?.is_some())
    }

    /// What is known of `path`, which must be valid.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`].
    async fn require(&self, path: &StorePath) -> Result<Arc<PathInfo>, StoreError> {
        self.path_info(path)
            .await?
            .ok_or_else(|| StoreError::NotFound {
                store: self.uri().clone(),
                path: path.clone(),
            })
    }

    /// The closure of `paths`: they and all that they refer to, directly or not, each after
    /// everything that it refers to (itself and cycles excepted).
    async fn closure(&self, paths: &[StorePath]) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        closure::closure(self, paths).await
    }

    /// Makes the closure of `paths` valid in `to`, references first, several at once. What is
    /// valid there is not looked at here, and need not be here. Returns what was copied, in order.
    ///
    /// # Errors
    ///
    /// Those of either store, and [`StoreError::OtherStoreDir`]. What was copied before stays.
    async fn copy_closure(
        &self,
        to: &dyn Store,
        paths: &[StorePath],
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        closure::copy_closure(self, to, paths).await
    }

    /// Makes the path that `info` of this store is about valid in `to`, where what it refers to
    /// must be.
    ///
    /// # Errors
    ///
    /// Those of either store; [`StoreError::Lie`] if the contents are not what `info` says.
    async fn copy_path(&self, to: &dyn Store, info: &PathInfo) -> Result<(), StoreError> {
        copying::copy(self, to, info).await
    }

    /// Reads the contents of `path` and checks that they still are what its info says.
    ///
    /// # Errors
    ///
    /// [`StoreError::HashMismatch`], [`StoreError::SizeMismatch`] or
    /// [`StoreError::MalformedNar`] if they are not, and those of reading.
    async fn verify(&self, path: &StorePath) -> Result<(), StoreError> {
        let info = self.require(path).await?;
        let mut nar = self.nar(path).await?;
        let mut verifier = NarVerifier::new(&info);
        while let Some(chunk) = nar.next().await.transpose()? {
            verifier.update(&chunk, |_| Ok(()))?;
            tokio::task::yield_now().await;
        }
        verifier.finish()
    }

    /// What is known of an output by the first of its derivation's `keys` by which anything is.
    ///
    /// # Errors
    ///
    /// As [`Store::realisation`], if none of them leads to anything.
    async fn realisation_of(
        &self,
        keys: Vec<DrvKey>,
        output: &OutputName,
    ) -> Result<Option<Realisation>, StoreError> {
        let mut failed = None;
        for drv in keys {
            let output = output.clone();
            match self.realisation(&DrvOutput { drv, output }).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Adds a text, such as a `.drv` file, under the path that follows from its contents and
    /// `references`, which must be valid.
    async fn add_text(
        &self,
        name: StorePathName,
        contents: &[u8],
        references: SortedSet<StorePath>,
    ) -> Result<StorePath, StoreError> {
        source::add_text(self, name, contents, references).await
    }

    /// Adds the file or tree at `file` under the path that follows from its contents, hashed with
    /// SHA-256: [`Store::add_source`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] if it cannot be read, holds what a store cannot, is not a plain file
    /// though `method` wants one, or changes meanwhile.
    async fn add_tree(
        &self,
        file: &Path,
        name: StorePathName,
        method: ContentAddressMethod,
    ) -> Result<StorePath, StoreError> {
        let tree = SourceTree {
            file: file.to_owned(),
            becomes: Becomes::Name(name),
            method,
            references: SortedSet::new(),
        };
        self.add_source(tree).await
    }

    /// As [`add_tree`](Self::add_tree), under a path that was computed before. `references` are
    /// what a text refers to.
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] also if it is not that path any more. Nothing is added then.
    async fn add_tree_as(
        &self,
        file: &Path,
        path: &StorePath,
        method: ContentAddressMethod,
        references: SortedSet<StorePath>,
    ) -> Result<(), StoreError> {
        let tree = SourceTree {
            file: file.to_owned(),
            becomes: Becomes::Path(path.clone()),
            method,
            references,
        };
        self.add_source(tree).await?;
        Ok(())
    }

    /// Adds a tree that is in memory as a NAR, under a path that was computed of it before.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`] if it is not that path, [`StoreError::MalformedNar`].
    async fn add_archive_as(
        &self,
        nar: Bytes,
        path: &StorePath,
        references: SortedSet<StorePath>,
    ) -> Result<(), StoreError> {
        source::add_known(
            self,
            nar,
            path,
            ContentAddressMethod::NixArchive,
            references,
        )
        .await
    }

    /// Adds a file that is in memory, under a path that was computed of its contents before.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`] if it is not that path.
    async fn add_file_as(&self, contents: Bytes, path: &StorePath) -> Result<(), StoreError> {
        let method = ContentAddressMethod::Flat;
        source::add_known(self, contents, path, method, SortedSet::new()).await
    }

    /// `path` as files on this file system: where the store keeps it, or unpacked to a temporary
    /// directory, for as long as what is returned is held. What was unpacked has the modes and
    /// times of a store object.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], those of reading, [`StoreError::Backend`] if it cannot be
    /// unpacked. Nothing is left then, nor if the future is dropped.
    async fn local_path(&self, path: &StorePath) -> Result<LocalPath, StoreError> {
        local_path::local_path(self, path).await
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
