//! The local store, with the layout and database of Nix.

mod add;
mod add_group;
mod add_many;
mod db;
mod files;
mod foreign;
mod gc;
mod import;
mod import_many;
mod layout;
mod locks;
mod optimise;
mod options;
mod output_locks;
mod outputs;
mod read;
mod realisations;
mod repair;
mod reserve;
mod roots;
mod scratch;
mod stop;
mod temp_roots;
mod verify_all;
mod waits;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::signature::Signature;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio::sync::Semaphore;

use self::db::{Database, DatabaseOptions, READERS};
pub use self::gc::{GcAction, GcFailure, GcOptions, GcReport};
use self::layout::{Layout, SchemaLock};
use self::locks::PathLocks;
pub use self::optimise::{OptimiseOptions, OptimiseReport};
pub use self::options::{Durability, LocalStoreOptions};
pub use self::output_locks::{LockedOutputs, OutputLocks};
pub use self::outputs::{OutputTree, ScannedTree};
pub use self::roots::{Root, RootSource};
pub use self::scratch::Scratch;
use self::scratch::ScratchRoot;
use self::temp_roots::TempRoots;
pub use self::verify_all::{Damage, DamagedPath, VerifyOptions, VerifyReport};
pub use self::waits::observe_lock_waits;
use crate::blocking::blocking;
use crate::ext::add_tree;
use crate::{ExpectedPath, NarStream, SourceTree, Store, StoreError, StoreUri, VerifiedObject};

/// Number of NARs that are read concurrently; further reads wait. Each takes a thread.
const CONCURRENT_READS: usize = 64;

/// The store on this file system, with the layout and database of Nix: `<root>/nix/store` and
/// `<root>/nix/var/nix/db/db.sqlite`. Nix may use it at the same time.
///
/// **Validity.** A path is valid if the database has a row for it. Files are unpacked outside the
/// store directory, verified, given canonical metadata, moved into place and then registered.
/// [`add_many`](Store::add_many) takes verified objects, and writes single files directly to their
/// place under the path's lock. So a process that is killed at any point leaves no incomplete valid
/// path. Its leftovers are removed when the path is added again or the store is opened again.
/// Registering a derivation also registers its known outputs.
///
/// **Handles.** Clones are handles on the same store. All blocking work runs on tokio's blocking
/// threads.
///
/// **Collection.** Paths that methods of [`Store`] find valid or add are not collected as long as a
/// handle lives, neither by [`collect_garbage`](Self::collect_garbage) nor by Nix: they are
/// temporary roots, in Nix's own format. This does not hold for
/// [`all_valid_paths`](Self::all_valid_paths) and [`referrers`](Self::referrers), nor for a
/// read-only store.
///
/// **Builds.** Besides [`Store`], there are [`import_outputs`](Self::import_outputs) and
/// [`register_trees`](Self::register_trees) for trees that are already on the store's file system,
/// [`scratch`](Self::scratch) for a place to create them in, and
/// [`lock_outputs`](Self::lock_outputs) to exclude other processes that build the same outputs.
#[derive(Clone)]
pub struct LocalStore(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    uri: StoreUri,
    store_dir: StoreDir,
    layout: Layout,
    store_fd: Arc<OwnedFd>,
    /// `None` if the store is read-only.
    scratch: Option<Arc<ScratchRoot>>,
    /// `None` if the store is read-only.
    temp_roots: Option<Arc<TempRoots>>,
    /// Whether paths that are looked up become temporary roots.
    holds_lookups: bool,
    database: Arc<Database>,
    locks: PathLocks,
    additions: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    queries: Arc<Semaphore>,
    /// Released last, so declared last.
    _schema_lock: Option<Arc<SchemaLock>>,
}

impl LocalStore {
    /// Opens a store, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`] if the directories or the database cannot be created or read, or
    /// have an unsupported schema version; the message names the file.
    pub async fn open(options: LocalStoreOptions) -> Result<Self, StoreError> {
        let uri = StoreUri::local(&options.root);
        blocking(&uri, move || Self::open_blocking(options)).await
    }

    /// As [`open`](Self::open), for callers that may block.
    pub fn open_blocking(options: LocalStoreOptions) -> Result<Self, StoreError> {
        let layout = Layout::new(&options, &options.root);
        if options.read_only {
            layout.wait_until_made();
        }
        let opened = Self::open_once(options.clone());
        match opened {
            // Frees the reserved disk space: without it, not even a garbage collection could run.
            Err(error) if reserve::is_full(&error) && reserve::give_up(&layout.state) => {
                Self::open_once(options)
            }
            Ok(store) => {
                if !options.read_only {
                    reserve::keep(&store.0.layout.state);
                }
                Ok(store)
            }
            Err(error) => Err(foreign::explain(error, &layout)),
        }
    }

    fn open_once(options: LocalStoreOptions) -> Result<Self, StoreError> {
        let root = absolute(&options)?;
        let layout = Layout::new(&options, &root);
        let uri = layout.uri.clone();
        let schema_lock = if options.read_only {
            layout.check_schema_version()?;
            None
        } else {
            let (path, timeout) = (layout.database(), options.busy_timeout);
            let initialise = || Database::create(&uri, &path, timeout);
            let add_realisations = || Database::add_realisations(&uri, &path, timeout);
            Some(Arc::new(layout.prepare(initialise, add_realisations)?))
        };
        let opening = || format!("open '{}'", layout.store.display());
        let open_store = || {
            files::open_directory(rustix::fs::CWD, &layout.store)
                .map_err(|error| layout.failed(opening(), std::io::Error::from(error)))
        };
        let store_fd = open_store()?;
        let scratch = if options.read_only {
            None
        } else {
            use std::os::fd::AsFd as _;
            let made = ScratchRoot::create(store_fd.as_fd(), &layout.store, &layout.state);
            Some(Arc::new(made.map_err(|error| {
                layout.failed("create a scratch directory".to_owned(), error)
            })?))
        };
        let temp_roots = if options.read_only {
            None
        } else {
            let roots = TempRoots::of(&layout.state);
            Some(roots.map_err(|error| layout.failed(opening(), error))?)
        };
        let database = Database::open(DatabaseOptions {
            uri: uri.clone(),
            path: layout.database(),
            store_dir: options.store_dir.clone(),
            read_only: options.read_only,
            durability: options.durability,
            busy_timeout: options.busy_timeout,
            before_commit: match options.durability {
                Durability::Relaxed => Box::new(|| Ok(())),
                Durability::Full => {
                    let store = open_store()?;
                    Box::new(move || Ok(rustix::fs::syncfs(&store)?))
                }
            },
        })?;
        Ok(Self(Arc::new(Inner {
            uri,
            store_dir: options.store_dir,
            layout,
            store_fd: Arc::new(store_fd),
            scratch,
            temp_roots,
            holds_lookups: true,
            database: Arc::new(database),
            locks: PathLocks::default(),
            additions: Arc::new(Semaphore::new(options.concurrent_additions.max(1))),
            reads: Arc::new(Semaphore::new(CONCURRENT_READS)),
            queries: Arc::new(Semaphore::new(READERS)),
            _schema_lock: schema_lock,
        })))
    }

    /// The directory that holds the files of store paths: `<root>/nix/store`.
    pub fn real_store_dir(&self) -> &Path {
        &self.0.layout.store
    }

    /// The state directory: `<root>/nix/var/nix`.
    pub fn state_dir(&self) -> &Path {
        &self.0.layout.state
    }

    /// The directory of build logs: `<root>/nix/var/log/nix`. It need not exist.
    pub fn log_dir(&self) -> &Path {
        &self.0.layout.log
    }

    /// The location of the files of `path`. The path need not be valid.
    pub fn real_path(&self, path: &StorePath) -> PathBuf {
        self.0.layout.store.join(path.to_string())
    }

    /// All valid paths, sorted.
    pub async fn all_valid_paths(&self) -> Result<Vec<StorePath>, StoreError> {
        self.read(|database| database.all_paths()).await
    }

    /// The valid paths that refer to `path`, sorted.
    pub async fn referrers(&self, path: &StorePath) -> Result<Vec<StorePath>, StoreError> {
        let path = path.clone();
        self.read(move |database| database.referrers(&path)).await
    }

    /// Adds signatures to the info of a path. They are not verified; signatures that the info has
    /// already are ignored.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the path is not valid.
    pub async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: Vec<Signature>,
    ) -> Result<(), StoreError> {
        let path = path.clone();
        self.write(move |inner| inner.database.add_signatures(path, signatures))
            .await
    }

    /// Another handle on this store, for one of several parties that a process serves: its temporary roots are its own,
    /// and end with its last clone. Only paths that it adds, and those given to [`hold`](Self::hold), become temporary
    /// roots; paths that it looks up do not.
    #[must_use]
    pub fn session(&self) -> Self {
        let inner = Inner {
            temp_roots: self.0.temp_roots.as_ref().map(|it| it.separate()),
            holds_lookups: false,
            ..Inner::clone(&self.0)
        };
        Self(Arc::new(inner))
    }

    /// Makes paths that are looked up temporary roots, too, as for a handle that [`open`](Self::open) returns.
    #[must_use]
    pub fn with_held_lookups(self) -> Self {
        let holds_lookups = true;
        let inner = Inner::clone(&self.0);
        Self(Arc::new(Inner {
            holds_lookups,
            ..inner
        }))
    }

    /// Makes paths temporary roots of this handle and its clones. They need not be valid.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn hold(&self, paths: Vec<StorePath>) -> Result<(), StoreError> {
        self.write(move |inner| inner.hold(&paths)).await
    }

    /// Ends the temporary roots of this handle and its clones. Paths that are held afterwards are temporary roots
    /// again. Meant for a handle that serves one party after the other, once nothing runs.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn release(&self) -> Result<(), StoreError> {
        self.write(|inner| {
            if let Some(roots) = &inner.temp_roots {
                roots.release();
            }
            Ok(())
        })
        .await
    }

    /// Whether the directory of this store is still the one that was opened: another process may have deleted the store,
    /// and made a new one.
    pub async fn is_current(&self) -> bool {
        let inner = self.0.clone();
        let same = move || {
            use std::os::unix::fs::MetadataExt as _;
            let now = std::fs::metadata(&inner.layout.store);
            let opened = rustix::fs::fstat(&inner.store_fd);
            let store = matches!((now, opened), (Ok(now), Ok(opened))
                if (now.dev(), now.ino()) == (opened.st_dev, opened.st_ino));
            Ok(store && inner.database.is_there())
        };
        blocking(&self.0.uri, same).await.unwrap_or(false)
    }

    /// The valid derivations with `path` among their known outputs, sorted.
    pub async fn derivers(&self, path: &StorePath) -> Result<Vec<StorePath>, StoreError> {
        let path = path.clone();
        self.read(move |database| database.derivers(&path)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_held(Vec::new(), |database, _| query(database))
            .await
    }

    /// As [`read`](Self::read), for `paths`, which become temporary roots first.
    async fn read_held<T: Send + 'static>(
        &self,
        paths: Vec<StorePath>,
        query: impl FnOnce(&Database, &[StorePath]) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.0.queries.clone().acquire_owned().await;
        let inner = self.0.clone();
        blocking(&self.0.uri, move || {
            let _held = permit;
            if inner.holds_lookups {
                inner.hold(&paths)?;
            }
            query(&inner.database, &paths)
        })
        .await
    }

    /// Writes to the database.
    async fn write(
        &self,
        write: impl FnOnce(&Inner) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let inner = self.0.clone();
        blocking(&self.0.uri, move || write(&inner)).await
    }

    async fn is_valid(&self, path: &StorePath) -> Result<bool, StoreError> {
        let paths = vec![path.clone()];
        self.read_held(paths, |database, paths| database.is_valid(&paths[0]))
            .await
    }
}

impl Inner {
    /// Makes `paths` temporary roots, so that they are not collected. Must precede the look-up of
    /// their validity. Blocks.
    fn hold(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        let Some(roots) = &self.temp_roots else {
            return Ok(());
        };
        roots.hold(&self.store_dir, paths).map_err(|error| {
            let folder = self.layout.state.join("temproots");
            let action = format!("record temporary roots in '{}'", folder.display());
            self.layout.failed(action, error)
        })
    }

    /// As [`hold`](Self::hold), and also announces paths that were held already to a collector that
    /// is running now. Blocks.
    fn hold_again(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        self.hold(paths)?;
        let Some(roots) = &self.temp_roots else {
            return Ok(());
        };
        roots.tell(&self.store_dir, paths).map_err(|error| {
            let socket = self.layout.state.join("gc-socket");
            let action = format!("announce roots through '{}'", socket.display());
            self.layout.failed(action, error)
        })
    }

    fn scratch(&self) -> Result<&Arc<ScratchRoot>, StoreError> {
        self.scratch.as_ref().ok_or_else(|| StoreError::ReadOnly {
            store: self.uri.clone(),
        })
    }
}

#[async_trait]
impl Store for LocalStore {
    fn uri(&self) -> &StoreUri {
        &self.0.uri
    }

    fn store_dir(&self) -> &StoreDir {
        &self.0.store_dir
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let paths = vec![path.clone()];
        self.read_held(paths, |database, paths| database.path_info(&paths[0]))
            .await
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let digest = *digest;
        self.read(move |database| database.find(&digest)).await
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        self.read_held(paths.to_vec(), Database::valid_paths).await
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        self.read_held(paths.to_vec(), Database::path_infos).await
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        if !self.is_valid(path).await? {
            return Err(self.0.not_found(path));
        }
        Ok(read::stream_nar(
            self.0.uri.clone(),
            path.clone(),
            self.real_path(path),
            self.0.reads.clone(),
        ))
    }

    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        self.read_objects(infos).await
    }

    async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        let guard = self.0.locks.lock(&info.path).await;
        if !self.0.holds_lookups {
            self.hold(vec![info.path.clone()]).await?;
        }
        if self.is_valid(&info.path).await? {
            return Ok(());
        }
        self.0.scratch()?;
        self.0.add_nar(info, nar, guard).await
    }

    async fn add_many(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        self.add_verified(objects).await
    }

    async fn add_source(&self, tree: SourceTree) -> Result<StorePath, StoreError> {
        let known = match &tree.expected {
            ExpectedPath::Path(path) => self.is_valid(path).await?,
            ExpectedPath::Name(_) => false,
        };
        // Only hashed: the result would not be kept, or the store is read-only.
        if known || self.0.scratch.is_none() {
            return add_tree(self, tree).await;
        }
        let info = self.import_source(tree).await?;
        Ok(info.path.clone())
    }

    async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        let valid = self.is_valid(path).await?;
        Ok(valid.then(|| self.real_path(path)))
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        let (inner, id) = (self.0.clone(), id.clone());
        blocking(&self.0.uri, move || {
            let Some(found) = inner.database.realisation(&id)? else {
                return Ok(None);
            };
            inner.hold(std::slice::from_ref(&found.out_path))?;
            // The path may have been collected just before.
            inner.database.realisation(&id)
        })
        .await
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        let realisation = realisation.clone();
        self.write(move |inner| {
            inner.hold(std::slice::from_ref(&realisation.out_path))?;
            inner.database.add_realisation(realisation)
        })
        .await
    }
}

impl std::fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalStore")
            .field("uri", &self.0.uri)
            .finish_non_exhaustive()
    }
}

/// The absolute path of the root, so that equal stores have equal URIs.
fn absolute(options: &LocalStoreOptions) -> Result<PathBuf, StoreError> {
    let failed = |action: &str, source: std::io::Error| StoreError::Backend {
        store: StoreUri::local(&options.root),
        action: format!("{action} '{}'", options.root.display()),
        retryable: false,
        source: source.into(),
    };
    if !options.read_only {
        std::fs::create_dir_all(&options.root).map_err(|error| failed("create", error))?;
    }
    std::fs::canonicalize(&options.root).map_err(|error| failed("open", error))
}
