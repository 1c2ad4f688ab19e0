//! Operations that are derived from the methods of [`Store`].

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
use crate::{ExpectedPath, SourceTree, Store, StoreError};

/// Operations that are derived from the methods of [`Store`], for every store.
///
/// Unless stated otherwise, each path that an operation works on is either added or not added when
/// its future is dropped.
#[async_trait]
pub trait StoreExt: Store {
    /// Whether `path` is valid.
    async fn is_valid(&self, path: &StorePath) -> Result<bool, StoreError> {
        Ok(self.path_info(path).await?.is_some())
    }

    /// The info of `path`, which must be valid.
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

    /// The closure of `paths`: the paths and their references, transitively. References come before
    /// their referrers, except in cycles and for references of a path to itself.
    async fn closure(&self, paths: &[StorePath]) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        closure::closure(self, paths).await
    }

    /// Makes the closure of `paths` valid in `to`, references first, with several copies in flight.
    /// A path that is valid in `to` is neither read here nor required to be valid here. Returns the
    /// infos of the copied paths in the order of [`closure`](Self::closure).
    ///
    /// # Errors
    ///
    /// Those of either store, and [`StoreError::OtherStoreDir`]. Paths that were copied before the
    /// error stay.
    async fn copy_closure(
        &self,
        to: &dyn Store,
        paths: &[StorePath],
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        closure::copy_closure(self, to, paths).await
    }

    /// Makes the paths of `infos`, infos of this store, valid in `to`, references first, with several
    /// copies in flight. Their other references must be valid in `to`, which is not asked what it has.
    ///
    /// # Errors
    ///
    /// As [`copy_closure`](Self::copy_closure).
    async fn copy_paths(
        &self,
        to: &dyn Store,
        infos: Vec<Arc<PathInfo>>,
    ) -> Result<(), StoreError> {
        closure::copy_paths(self, to, infos).await
    }

    /// Makes the path of `info`, an info of this store, valid in `to`. Its references must be valid
    /// in `to`.
    ///
    /// # Errors
    ///
    /// Those of either store; [`StoreError::Corrupt`] if the contents do not match `info`.
    async fn copy_path(&self, to: &dyn Store, info: &PathInfo) -> Result<(), StoreError> {
        copying::copy(self, to, info).await
    }

    /// Reads the contents of `path` and verifies them against its info.
    ///
    /// # Errors
    ///
    /// [`StoreError::HashMismatch`], [`StoreError::SizeMismatch`] or [`StoreError::MalformedNar`]
    /// if the contents do not match, and the errors of reading.
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

    /// The realisation of `output` under the first of `keys`, the keys of its derivation, that has one.
    ///
    /// # Errors
    ///
    /// Those of [`Store::realisation`], if no key has a realisation.
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

    /// Adds a text, such as a `.drv` file. The path follows from the contents and `references`,
    /// which must be valid.
    async fn add_text(
        &self,
        name: StorePathName,
        contents: &[u8],
        references: SortedSet<StorePath>,
    ) -> Result<StorePath, StoreError> {
        source::add_text(self, name, contents, references).await
    }

    /// Adds the file or tree at `file`, hashed with SHA-256, under the path that follows from its
    /// contents: [`Store::add_source`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] if the tree cannot be read, contains a file type that a store cannot
    /// hold, changes while it is read, or is not a regular file although `method` requires one.
    async fn add_tree(
        &self,
        file: &Path,
        name: StorePathName,
        method: ContentAddressMethod,
    ) -> Result<StorePath, StoreError> {
        let tree = SourceTree {
            file: file.to_owned(),
            expected: ExpectedPath::Name(name),
            method,
            references: SortedSet::new(),
        };
        self.add_source(tree).await
    }

    /// As [`add_tree`](Self::add_tree), under a path that was computed earlier. `references` are
    /// the references of a text.
    ///
    /// # Errors
    ///
    /// As [`add_tree`](Self::add_tree), and [`StoreError::Source`] if the path of the tree is no
    /// longer `path`. Nothing is added in that case.
    async fn add_tree_as(
        &self,
        file: &Path,
        path: &StorePath,
        method: ContentAddressMethod,
        references: SortedSet<StorePath>,
    ) -> Result<(), StoreError> {
        let tree = SourceTree {
            file: file.to_owned(),
            expected: ExpectedPath::Path(path.clone()),
            method,
            references,
        };
        self.add_source(tree).await?;
        Ok(())
    }

    /// Adds a tree that is in memory as a NAR, under a path that was computed from it earlier.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`] if the path does not follow from the NAR,
    /// [`StoreError::MalformedNar`].
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

    /// Adds a file that is in memory, under a path that was computed from its contents earlier.
    ///
    /// # Errors
    ///
    /// [`StoreError::AddressMismatch`] if the path does not follow from the contents.
    async fn add_file_as(&self, contents: Bytes, path: &StorePath) -> Result<(), StoreError> {
        let method = ContentAddressMethod::Flat;
        source::add_known(self, contents, path, method, SortedSet::new()).await
    }

    /// `path` as files on this file system, for the lifetime of the returned value: the store's own
    /// files, or a copy that is unpacked to a temporary directory. A copy has the modes and times
    /// of a store object.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], the errors of reading, and [`StoreError::Backend`] if unpacking
    /// fails. An error or a dropped future leaves no files behind.
    async fn local_path(&self, path: &StorePath) -> Result<LocalPath, StoreError> {
        local_path::local_path(self, path).await
    }
}

impl<S: Store + ?Sized> StoreExt for S {}
