//! Settings of an evaluation.

use std::path::PathBuf;

use nix_compat::store_path::StoreDir;

use crate::limits::Limits;

/// Settings of an evaluation: the store, and the accessible parts of the environment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The store directory.
    pub store_dir: StoreDir,
    /// Root of the local store, below which `store_dir` is read, if store paths are not at
    /// [`Settings::store_dir`] on this file system.
    pub store_root: Option<PathBuf>,
    /// `builtins.currentSystem` (default: the system of this machine).
    pub system: String,
    /// Search path entries: prefix, which may be empty, and path or URL.
    pub search_path: Vec<(String, String)>,
    /// Pure evaluation: hides the environment, the time, the search path, and all files except
    /// those that evaluation itself has copied, fetched or had built. Fetches must be locked by a
    /// hash or commit (default: false).
    pub pure: bool,
    /// Restricted evaluation, if not `None`: only these directories, the search path, and paths
    /// that evaluation itself has copied, fetched or had built are readable. The environment is
    /// hidden, and only `allowed_uris` may be fetched.
    pub allowed_paths: Option<Vec<PathBuf>>,
    /// URIs that may be fetched, or prefixes of them, if `allowed_paths` is set.
    pub allowed_uris: Vec<String>,
    /// Whether the store is read-only (default: true). `builtins.storePath` then accepts paths that
    /// are not valid.
    pub read_only: bool,
    /// Whether import from derivation is allowed (default: true).
    pub import_from_derivation: bool,
    /// Home directory, for paths that start with `~` (default: the user's).
    pub home: Option<PathBuf>,
    /// `builtins.currentTime`, in seconds since 1970 (default: the current time).
    pub time: i64,
    /// Whether `traceVerbose` prints (default: false).
    pub trace_verbose: bool,
    /// Whether `warn` is an error (default: false).
    pub abort_on_warn: bool,
    /// Whether errors show complete traces, including every function call (default: false). Calls
    /// in tail position then take memory.
    pub show_trace: bool,
    /// Limits of the evaluation.
    pub limits: Limits,
    /// For tests: collects garbage at every call of this number, and overwrites what it frees
    /// (default: the environment variable `TVIX_EVAL_COLLECT_EVERY`).
    pub collect_every: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        let since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            store_dir: StoreDir::default(),
            store_root: None,
            system: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            search_path: Vec::new(),
            pure: false,
            allowed_paths: None,
            allowed_uris: Vec::new(),
            read_only: true,
            import_from_derivation: true,
            home: std::env::home_dir(),
            time: since_1970.as_secs() as i64,
            trace_verbose: false,
            abort_on_warn: false,
            show_trace: false,
            limits: Limits::default(),
            collect_every: std::env::var("TVIX_EVAL_COLLECT_EVERY")
                .ok()
                .and_then(|number| number.parse().ok()),
        }
    }
}

impl Settings {
    /// Sets the store directory.
    #[must_use]
    pub fn with_store_dir(mut self, store_dir: StoreDir) -> Self {
        self.store_dir = store_dir;
        self
    }

    /// Sets the root of the local store.
    #[must_use]
    pub fn with_store_root(mut self, store_root: impl Into<Option<PathBuf>>) -> Self {
        self.store_root = store_root.into();
        self
    }

    /// Sets `builtins.currentSystem`.
    #[must_use]
    pub fn with_system(mut self, system: impl Into<String>) -> Self {
        self.system = system.into();
        self
    }

    /// Sets the entries of the search path.
    #[must_use]
    pub fn with_search_path(mut self, search_path: Vec<(String, String)>) -> Self {
        self.search_path = search_path;
        self
    }

    /// Sets whether evaluation is pure.
    #[must_use]
    pub fn with_pure(mut self, pure: bool) -> Self {
        self.pure = pure;
        self
    }

    /// Sets the readable directories of restricted evaluation.
    #[must_use]
    pub fn with_allowed_paths(mut self, allowed_paths: impl Into<Option<Vec<PathBuf>>>) -> Self {
        self.allowed_paths = allowed_paths.into();
        self
    }

    /// Sets the URIs that restricted evaluation may fetch.
    #[must_use]
    pub fn with_allowed_uris(mut self, allowed_uris: Vec<String>) -> Self {
        self.allowed_uris = allowed_uris;
        self
    }

    /// Sets whether the store is read-only.
    #[must_use]
    pub fn with_read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets whether import from derivation is allowed.
    #[must_use]
    pub fn with_import_from_derivation(mut self, import_from_derivation: bool) -> Self {
        self.import_from_derivation = import_from_derivation;
        self
    }

    /// Sets the home directory.
    #[must_use]
    pub fn with_home(mut self, home: impl Into<Option<PathBuf>>) -> Self {
        self.home = home.into();
        self
    }

    /// Sets `builtins.currentTime`.
    #[must_use]
    pub fn with_time(mut self, time: i64) -> Self {
        self.time = time;
        self
    }

    /// Sets whether `traceVerbose` prints.
    #[must_use]
    pub fn with_trace_verbose(mut self, trace_verbose: bool) -> Self {
        self.trace_verbose = trace_verbose;
        self
    }

    /// Sets whether `warn` is an error.
    #[must_use]
    pub fn with_abort_on_warn(mut self, abort_on_warn: bool) -> Self {
        self.abort_on_warn = abort_on_warn;
        self
    }

    /// Sets whether errors show complete traces.
    #[must_use]
    pub fn with_show_trace(mut self, show_trace: bool) -> Self {
        self.show_trace = show_trace;
        self
    }

    /// Sets the limits of the evaluation.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how often garbage is collected, for tests.
    #[must_use]
    pub fn with_collect_every(mut self, collect_every: impl Into<Option<u32>>) -> Self {
        self.collect_every = collect_every.into();
        self
    }
}
