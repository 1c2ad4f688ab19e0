//! Options for opening a local store.

use std::path::PathBuf;
use std::time::Duration;

use nix_compat::store_path::StoreDir;

/// Options for opening a [`LocalStore`](super::LocalStore).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalStoreOptions {
    /// The directory that contains `nix/store` and `nix/var/nix`; `/` for the system's store.
    /// Created if it is missing.
    pub root: PathBuf,
    /// The logical store directory. It is part of every path, so it is `/nix/store` unless all of a
    /// closure is built for another one. The files are in `<root>/nix/store` regardless.
    pub store_dir: StoreDir,
    /// The directory of the files (`<root>/nix/store` by default). Nix's parameter `real`.
    pub real_store_dir: Option<PathBuf>,
    /// The state directory, with the database and the roots (`<root>/nix/var/nix` by default). It must be on the file
    /// system of the files. Nix's parameter `state`.
    pub state_dir: Option<PathBuf>,
    /// The directory of build logs, which are in its subdirectory `drvs` [default: `log/nix` beside the state
    /// directory's own `nix`, such as `/nix/var/log/nix`]. Nix's parameter `log`.
    pub log_dir: Option<PathBuf>,
    /// Changes nothing, creates no file and takes no lock. Works on a read-only file system.
    pub read_only: bool,
    /// Guarantees after a power failure.
    pub durability: Durability,
    /// How long to wait while another process writes to the database.
    pub busy_timeout: Duration,
    /// Number of additions that are unpacked concurrently; further ones wait.
    pub concurrent_additions: usize,
}

/// Guarantees after a power failure. A killed process never loses or corrupts anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Nix's default. The database stays consistent but may lose the last paths, and files of paths
    /// registered shortly before may be incomplete ([`StoreExt::verify`](crate::StoreExt::verify)
    /// detects that).
    #[default]
    Relaxed,
    /// The files of a path are on disk before it is registered, and the registration is on disk
    /// before `add` returns. Costs a sync of the file system for each group of additions.
    Full,
}

impl LocalStoreOptions {
    /// The store below `root`, with default options.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            store_dir: StoreDir::default(),
            real_store_dir: None,
            state_dir: None,
            log_dir: None,
            read_only: false,
            durability: Durability::default(),
            busy_timeout: Duration::from_secs(60),
            concurrent_additions: 32,
        }
    }

    /// Sets [`store_dir`](Self::store_dir).
    pub fn with_store_dir(mut self, store_dir: StoreDir) -> Self {
        self.store_dir = store_dir;
        self
    }

    /// Sets [`real_store_dir`](Self::real_store_dir).
    pub fn with_real_store_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.real_store_dir = Some(directory.into());
        self
    }

    /// Sets [`state_dir`](Self::state_dir).
    pub fn with_state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }

    /// Sets [`log_dir`](Self::log_dir).
    pub fn with_log_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.log_dir = Some(directory.into());
        self
    }

    /// Sets [`read_only`](Self::read_only).
    pub fn with_read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets [`durability`](Self::durability).
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets [`busy_timeout`](Self::busy_timeout).
    pub fn with_busy_timeout(mut self, busy_timeout: Duration) -> Self {
        self.busy_timeout = busy_timeout;
        self
    }

    /// Sets [`concurrent_additions`](Self::concurrent_additions).
    pub fn with_concurrent_additions(mut self, concurrent_additions: usize) -> Self {
        self.concurrent_additions = concurrent_additions;
        self
    }
}
