//! The trait.

use std::collections::HashSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath, StorePathName};

use crate::ext::{add_tree, many};
use crate::{StoreError, StoreUri, VerifiedObject};

/// A NAR as it comes, in chunks of any size. After an error nothing more comes.
pub type NarStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// A file or tree of this machine that is to be added, and hashed with SHA-256 for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTree {
    /// Where it is. A symlink is not followed.
    pub file: PathBuf,
    /// What it is to become.
    pub becomes: Becomes,
    /// How it is hashed.
    pub method: ContentAddressMethod,
    /// What it refers to, as only texts do.
    pub references: SortedSet<StorePath>,
}

/// What a [`SourceTree`] becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Becomes {
    /// The path that follows from its contents and this name.
    Name(StorePathName),
    /// This path, which was computed of its contents before.
    Path(StorePath),
}

impl Becomes {
    /// The name of its path.
    pub fn name(&self) -> &StorePathName {
        match self {
            Self::Name(name) => name,
            Self::Path(path) => path.name(),
        }
    }
}

/// Store objects under store paths, and what is known of them.
///
/// # Contract
///
/// - **Valid** means: [`Store::path_info`] answers. A valid path has contents that match its
///   info, and all its references are valid, itself excepted.
/// - **Atomic.** [`Store::add`] makes a path valid as a whole or not at all. No reader ever sees
///   a part of it, and a failed or abandoned `add` leaves nothing that a reader could see.
/// - **Idempotent.** Adding a path that is valid succeeds and changes nothing; the NAR need not
///   be read. Two `add`s of one path at once both succeed.
/// - **Cancellation.** Every future may be dropped at any point. A dropped `add` happens as a
///   whole, perhaps a moment later, or not at all; not if its NAR had not come to its end.
/// - **Concurrency.** All methods may be called at once from many tasks.
/// - **No blocking.** Nothing blocks the thread that polls; back ends that do blocking work move
///   it elsewhere.
/// - Realisations may be forgotten: a store that keeps none answers `None`, and what depends on
///   it is built again.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// Which store this is. Whoever is given it can tell whether it knows how to reach the store.
    fn uri(&self) -> &StoreUri;

    /// The directory that the store's paths are in, logically.
    fn store_dir(&self) -> &StoreDir;

    /// What is known of `path`; `None` if it is not valid.
    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError>;

    /// What is known of the path whose hash part these 20 bytes are; `None` if none such is valid.
    ///
    /// That is how binary caches are asked. No two valid paths have the same hash part.
    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError>;

    /// Which of `paths` are valid, in one round trip as far as the back end can.
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError>;

    /// As [`path_info`](Self::path_info) for each of `paths`, in their order, in one round trip as far
    /// as the back end can. Fails if that would fail for one of them.
    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        many::path_infos(self, paths).await
    }

    /// The NAR of `path`.
    ///
    /// Fails with [`StoreError::NotFound`] if it is not valid, at once or in the stream.
    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError>;

    /// The paths that `infos` are about, with contents that were checked against these, in their order;
    /// the counterpart of [`add_many`](Self::add_many). All of them are in memory at once: for what is
    /// small.
    ///
    /// # Errors
    ///
    /// Of each, alone: [`StoreError::NotFound`]; what [`VerifiedObject::verify`] fails with if it is not
    /// what its info says; those of reading.
    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        many::read_many(self, infos).await
    }

    /// Makes `info.path` valid with the contents of `nar`.
    ///
    /// Checks that the NAR is well-formed and has the hash and size of `info`, that the
    /// references are valid ([`StoreError::InvalidReference`]), and that the path is the one its
    /// content address gives, if it has one ([`StoreError::AddressMismatch`]), and that the address
    /// is that of the contents ([`StoreError::HashMismatch`]). What is checked of contents alone is
    /// in [`crate::verify`]. An error of the stream is passed on. `info.registration_time` is the
    /// store's to set.
    async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError>;

    /// As [`add`](Self::add) for each of `objects` in turn, and the result of each: one may refer
    /// to those before it, and one that is refused does not keep others from being added. Each
    /// path is added as a whole or not at all; that holds for no group of them.
    ///
    /// For many small objects: a back end sees to it that they cost far less together than each
    /// alone. Their contents are not verified again.
    async fn add_many(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::with_capacity(objects.len());
        for object in objects {
            results.push(match object.store_dir() == self.store_dir() {
                true => {
                    let (info, nar) = object.into_parts();
                    self.add(info, stream::iter([Ok(nar)]).boxed()).await
                }
                false => Err(StoreError::OtherStoreDir {
                    store: self.uri().clone(),
                    actual: self.store_dir().clone(),
                    expected: object.store_dir().clone(),
                }),
            });
        }
        results
    }

    /// Adds a file or tree of this machine, and returns its path. Nothing of it but a few pieces is
    /// ever in memory.
    ///
    /// It is read twice, once to find its path out. A back end that finds the path out while it takes
    /// the contents reads it once.
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] if it cannot be read, holds what a store cannot, is not a plain file
    /// though the method wants one, changes meanwhile, or would not become the path that it should.
    /// [`StoreError::InvalidReference`]. Nothing is added then.
    async fn add_source(&self, tree: SourceTree) -> Result<StorePath, StoreError> {
        add_tree(self, tree).await
    }

    /// Where `path` can be read on this file system, if the store keeps it there as files.
    /// `None` if it does not or the path is not valid; [`StoreExt::local_path`] unpacks then.
    ///
    /// [`StoreExt::local_path`]: crate::StoreExt::local_path
    async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError>;

    /// Which path an output turned out to have, if this store remembers. The path need not be valid
    /// any more.
    ///
    /// What is known by one of the keys of an output ([`DrvKey`]) need not be known by the other.
    ///
    /// [`DrvKey`]: nix_compat::realisation::DrvKey
    ///
    /// # Errors
    ///
    /// [`StoreError::UntrustedRealisation`], [`StoreError::BadRealisation`]; those of reading.
    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError>;

    /// Remembers which path an output turned out to have, as far as this store remembers such
    /// things. The path must be valid ([`StoreError::NotFound`]). What is remembered of the output
    /// already stays.
    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError>;
}
