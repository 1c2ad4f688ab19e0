//! The store behind a daemon.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nix_compat::signature::Signature;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_store_api::{Store, StoreError};
use tvix_worker_protocol::CollectGarbage;

use crate::builds::{Builds, Drvs};
use crate::client::ClientSettings;
use crate::log::Log;

/// The stores of a daemon's connections.
#[async_trait]
pub trait Stores: Send + Sync + Debug {
    /// The store directory of all of them.
    fn store_dir(&self) -> &StoreDir;

    /// The store for a connection, which ends temporary roots when it is dropped. Called once for each connection, when it
    /// needs one.
    ///
    /// # Errors
    ///
    /// That the store cannot be opened, which the client gets.
    async fn open(&self) -> Result<Backend, StoreError>;
}

/// The store of a connection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Backend {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Operations that other stores may not have.
    pub maintenance: Option<Arc<dyn Maintenance>>,
    /// Builds and substitutions.
    pub builds: Option<Lease>,
    /// Stores that are queried for paths which `store` lacks, the first one first.
    pub substituters: Vec<Arc<dyn Store>>,
}

/// Access to builds. What it keeps is dropped with the connections that have built something.
#[derive(Clone)]
pub struct Lease {
    builds: Builds,
    begin: Arc<dyn Fn() -> Box<dyn Any + Send + Sync> + Send + Sync>,
}

impl Lease {
    /// Builds that nothing has to be done for.
    pub fn new(builds: Builds) -> Self {
        let begin = Arc::new(|| Box::new(()) as _);
        Self { builds, begin }
    }

    /// Builds for which `begin` is called when a connection builds for the first time. Its result is dropped when
    /// the connection ends.
    pub fn with_begin(
        builds: Builds,
        begin: impl Fn() -> Box<dyn Any + Send + Sync> + Send + Sync + 'static,
    ) -> Self {
        let begin = Arc::new(begin);
        Self { builds, begin }
    }

    pub(crate) fn drvs(&self) -> Arc<Drvs> {
        self.builds.drvs()
    }

    pub(crate) fn begin(&self) -> (Builds, Box<dyn Any + Send + Sync>) {
        (self.builds.clone(), (self.begin)())
    }
}

impl Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("builds", &self.builds)
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// A store that can be read and added to.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            maintenance: None,
            builds: None,
            substituters: Vec::new(),
        }
    }

    /// Sets the operations that other stores may not have.
    #[must_use]
    pub fn with_maintenance(mut self, maintenance: Arc<dyn Maintenance>) -> Self {
        self.maintenance = Some(maintenance);
        self
    }

    /// Sets builds.
    #[must_use]
    pub fn with_builds(mut self, builds: Lease) -> Self {
        self.builds = Some(builds);
        self
    }

    /// Sets the stores that are queried for paths which the store lacks.
    #[must_use]
    pub fn with_substituters(
        mut self,
        substituters: impl IntoIterator<Item = Arc<dyn Store>>,
    ) -> Self {
        self.substituters = substituters.into_iter().collect();
        self
    }
}

/// One store for all connections.
#[async_trait]
impl Stores for Backend {
    fn store_dir(&self) -> &StoreDir {
        self.store.store_dir()
    }

    async fn open(&self) -> Result<Backend, StoreError> {
        Ok(self.clone())
    }
}

/// A root of the garbage collector, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RootLink {
    /// The path.
    pub path: StorePath,
    /// The link, or a text for something else that keeps the path.
    pub link: Vec<u8>,
    /// Whether it tells about a process, which untrusted clients do not see.
    pub is_process: bool,
}

impl RootLink {
    /// A root.
    pub fn new(path: StorePath, link: impl Into<Vec<u8>>, is_process: bool) -> Self {
        let link = link.into();
        Self {
            path,
            link,
            is_process,
        }
    }
}

/// The result of a garbage collection.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Collection {
    /// The paths that were found or deleted, as names in the store directory.
    pub names: Vec<String>,
    /// Freed disk space, in bytes.
    pub bytes_freed: u64,
    /// Paths that were to be deleted, and that something needs.
    pub alive: Vec<StorePath>,
}

impl Collection {
    /// A collection that found or deleted these names.
    pub fn new(names: Vec<String>, bytes_freed: u64, alive: Vec<StorePath>) -> Self {
        Self {
            names,
            bytes_freed,
            alive,
        }
    }
}

/// Operations of a daemon that need more than a [`Store`].
///
/// Every future may be dropped at any point; work that goes on leaves a valid store. Messages for the client go to
/// `log`.
#[async_trait]
pub trait Maintenance: Send + Sync + Debug {
    /// Makes a path a temporary root until the connection ends. It need not be valid.
    async fn hold(&self, path: &StorePath) -> Result<(), StoreError>;

    /// The valid paths that refer to a path.
    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError>;

    /// The valid derivations that have a path as output.
    async fn derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError>;

    /// All valid paths.
    async fn all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError>;

    /// The roots of the garbage collector.
    async fn roots(&self) -> Result<Vec<RootLink>, StoreError>;

    /// Registers a symlink as a root.
    async fn add_indirect_root(&self, link: &Path) -> Result<(), StoreError>;

    /// Creates a symlink and registers it as a root.
    async fn add_permanent_root(&self, path: &StorePath, link: &Path) -> Result<(), StoreError>;

    /// Collects garbage. `ignore_liveness` is false.
    async fn collect_garbage(
        &self,
        request: CollectGarbage,
        settings: &ClientSettings,
        log: &Log,
    ) -> Result<Collection, StoreError>;

    /// Verifies the store. Returns whether errors are left.
    async fn verify(
        &self,
        check_contents: bool,
        repair: Option<Arc<dyn Store>>,
        log: &Log,
    ) -> Result<bool, StoreError>;

    /// Replaces equal files by hard links.
    async fn optimise(&self, log: &Log) -> Result<(), StoreError>;

    /// Adds signatures to a path.
    async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: Vec<Signature>,
    ) -> Result<(), StoreError>;

    /// Replaces the contents of a valid path by those of another store.
    async fn repair(&self, path: &StorePath, from: &dyn Store) -> Result<(), StoreError>;

    /// The file of a build's log, below a directory that exists. `None` if there is a log already.
    async fn new_log(&self, drv: &StorePath) -> Result<Option<std::path::PathBuf>, StoreError>;
}
