//! How a local store is opened.

use std::path::PathBuf;
use std::time::Duration;

use nix_compat::store_path::StoreDir;

/// How a [`LocalStore`](super::LocalStore) is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStoreOptions {
    /// The directory that `nix/store` and `nix/var/nix` are in; `/` for the system's store. It is
    /// made if it is missing.
    pub root: PathBuf,
    /// The directory that paths are in logically. It is part of every path, so `/nix/store`
    /// unless all of a closure is built for another one. Files are in `<root>/nix/store` even so.
    pub store_dir: StoreDir,
    /// Changes nothing, not even by creating or locking something. Works on a read-only file
    /// system.
    pub read_only: bool,
    /// What survives a power failure.
    pub durability: Durability,
    /// How long to wait while another process writes to the database.
    pub busy_timeout: Duration,
    /// How many additions are unpacked at once; more wait.
    pub concurrent_additions: usize,
}

/// What survives a power failure. A killed process never loses or corrupts anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// What Nix does by default: the database stays consistent and may forget the last paths,
    /// and files of paths registered shortly before may be incomplete
    /// ([`StoreExt::verify`](crate::StoreExt::verify) finds them).
    #[default]
    Relaxed,
    /// Before a path is registered its files are on the disk, and before `add` returns its
    /// registration is. Costs a sync of the file system for each group of additions.
    Full,
}

impl LocalStoreOptions {
    /// The store below `root`, with everything else as by default.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            store_dir: StoreDir::default(),
            read_only: false,
            durability: Durability::default(),
            busy_timeout: Duration::from_secs(60),
            concurrent_additions: 32,
        }
    }

    /// Sets [`store_dir`](Self::store_dir).
    pub fn store_dir(mut self, store_dir: StoreDir) -> Self {
        self.store_dir = store_dir;
        self
    }

    /// Sets [`read_only`](Self::read_only).
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets [`durability`](Self::durability).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets [`busy_timeout`](Self::busy_timeout).
    pub fn busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    /// Sets [`concurrent_additions`](Self::concurrent_additions).
    pub fn concurrent_additions(mut self, concurrent_additions: usize) -> Self {
        self.concurrent_additions = concurrent_additions;
        self
    }
}
