//! The trait [`Store`].

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

/// A NAR, in chunks of any size. The stream ends after an error.
pub type NarStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// A file or tree of this machine to be added to a store. It is hashed with SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceTree {
    /// The file or directory. A symlink is added as such, not followed.
    pub file: PathBuf,
    /// The expected store path, or its name.
    pub expected: ExpectedPath,
    /// The hashing method.
    pub method: ContentAddressMethod,
    /// The references. Only texts have any.
    pub references: SortedSet<StorePath>,
}

impl SourceTree {
    /// A source without references.
    pub fn new(
        file: impl Into<PathBuf>,
        expected: ExpectedPath,
        method: ContentAddressMethod,
    ) -> Self {
        Self {
            file: file.into(),
            expected,
            method,
            references: SortedSet::new(),
        }
    }

    /// Sets the references, which only texts have.
    #[must_use]
    pub fn with_references(mut self, references: SortedSet<StorePath>) -> Self {
        self.references = references;
        self
    }
}

/// The store path of a [`SourceTree`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedPath {
    /// The path that follows from the contents and this name.
    Name(StorePathName),
    /// This path, which was computed from the contents earlier.
    Path(StorePath),
}

impl ExpectedPath {
    /// The name of the path.
    pub fn name(&self) -> &StorePathName {
        match self {
            Self::Name(name) => name,
            Self::Path(path) => path.name(),
        }
    }
}

/// A collection of store objects under store paths, with a [`PathInfo`] for each.
///
/// # Contract
///
/// - **Valid** means that [`Store::path_info`] returns an info. The contents of a valid path match
///   its info, and all its references are valid; a reference to itself counts as valid.
/// - **Atomic.** [`Store::add`] makes a path valid as a whole or not at all. A reader never sees a
///   part of it. An `add` that fails or is abandoned leaves nothing visible to readers.
/// - **Idempotent.** Adding a valid path succeeds and changes nothing; the NAR need not be read.
///   Two concurrent `add`s of one path both succeed.
/// - **Cancellation.** Every future may be dropped at any point. A dropped `add` completes as a
///   whole, perhaps a moment later, or has no effect. It has no effect if its NAR stream had not
///   ended.
/// - **Concurrency.** All methods may be called concurrently from many tasks.
/// - **No blocking.** No method blocks the thread that polls it; a back end moves blocking work to
///   other threads.
/// - **Realisations** may be forgotten. A store that keeps none returns `None`, and builds that
///   depend on them are repeated.
#[async_trait]
pub trait Store: Send + Sync + Debug {
    /// The URI of this store. A builder decides by it whether it can reach the store itself.
    fn uri(&self) -> &StoreUri;

    /// The store directory: the logical prefix of the store's paths, such as `/nix/store`.
    fn store_dir(&self) -> &StoreDir;

    /// The info of `path`; `None` if the path is not valid.
    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError>;

    /// The info of the path with this hash part (20 bytes); `None` if no such path is valid.
    ///
    /// Binary caches are queried by hash part. No two valid paths have the same hash part.
    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError>;

    /// The subset of `paths` that is valid, in one round trip if the back end can.
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError>;

    /// The result of [`path_info`](Self::path_info) for each of `paths`, in order, in one round
    /// trip if the back end can. Fails if the look-up of any path fails.
    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        many::path_infos(self, paths).await
    }

    /// The NAR of `path`.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the path is not valid, from the call or in the stream.
    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError>;

    /// The objects of `infos`, in order, with contents that are verified against them; the
    /// counterpart of [`add_many`](Self::add_many). Meant for small objects: all contents are in
    /// memory at once.
    ///
    /// # Errors
    ///
    /// One result for each info: [`StoreError::NotFound`], the errors of
    /// [`VerifiedObject::verify`], or those of reading.
    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        many::read_many(self, infos).await
    }

    /// Makes `info.path` valid with the contents of `nar`.
    ///
    /// The store sets `info.registration_time`. The checks on the contents alone are in
    /// [`crate::verify`].
    ///
    /// # Errors
    ///
    /// - [`StoreError::MalformedNar`], [`StoreError::SizeMismatch`] or [`StoreError::HashMismatch`]
    ///   if the NAR is not well-formed, or does not have the size and hash of `info`.
    /// - [`StoreError::InvalidReference`] if a reference is not valid.
    /// - [`StoreError::AddressMismatch`] if the path does not follow from the content address, and
    ///   [`StoreError::HashMismatch`] if the content address is not that of the contents, for paths
    ///   that have one.
    /// - An error of the stream is returned unchanged.
    async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError>;

    /// The results of [`add`](Self::add) for each of `objects`, in order. An object may refer to
    /// earlier ones, and the refusal of one object does not prevent the addition of others. Each
    /// path is added as a whole or not at all; a batch is not atomic.
    ///
    /// Meant for many small objects: a back end makes a batch much cheaper than single additions.
    /// The contents are not verified again.
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

    /// Adds a file or tree of this machine, and returns its path. Only a few chunks of it are in
    /// memory at a time.
    ///
    /// The default implementation reads the tree twice, first to compute its path. A back end that
    /// computes the path while it receives the contents reads the tree once.
    ///
    /// # Errors
    ///
    /// - [`StoreError::Source`] if the tree cannot be read, contains a file type that a store
    ///   cannot hold, is not a regular file although the method requires one, changes while it is
    ///   read, or has another path than the expected one.
    /// - [`StoreError::InvalidReference`].
    ///
    /// Nothing is added in any of these cases.
    async fn add_source(&self, tree: SourceTree) -> Result<StorePath, StoreError> {
        add_tree(self, tree).await
    }

    /// The location of `path` on this file system, if the store keeps it there as files. `None`
    /// otherwise, and if the path is not valid; [`StoreExt::local_path`] unpacks such a path.
    ///
    /// [`StoreExt::local_path`]: crate::StoreExt::local_path
    async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError>;

    /// The path of an output, if this store remembers its realisation. The path need not be valid
    /// any more.
    ///
    /// An output has a realisation for each of its keys ([`DrvKey`]); one may be known without the
    /// other.
    ///
    /// # Errors
    ///
    /// [`StoreError::UntrustedRealisation`], [`StoreError::BadRealisation`], and those of reading.
    ///
    /// [`DrvKey`]: nix_compat::realisation::DrvKey
    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError>;

    /// Remembers the path of an output, if this store keeps realisations. An existing realisation
    /// of the output stays.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the path of the output is not valid, and those of writing.
    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError>;
}
