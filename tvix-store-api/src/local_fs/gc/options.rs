//! Options and report of a collection.

use std::path::PathBuf;

use nix_compat::store_path::StorePath;

/// The action of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GcAction {
    /// Remove garbage.
    #[default]
    Delete,
    /// List the paths that would be removed.
    ListDead,
    /// List the paths that would stay.
    ListLive,
}

/// Options of a collection. The defaults are Nix's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcOptions {
    /// The action.
    pub action: GcAction,
    /// Disk space, in bytes, after which the collection stops. Unlimited by default.
    pub max_freed: Option<u64>,
    /// The paths that may be removed; `None` for all. A path stays if another one refers to it that stays.
    pub only: Option<Vec<StorePath>>,
    /// Whether a live derivation keeps its valid outputs. Nix's `keep-outputs`; false by default.
    pub keep_outputs: bool,
    /// Whether a live path keeps its deriver. Nix's `keep-derivations`; true by default.
    pub keep_derivations: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            action: GcAction::Delete,
            max_freed: None,
            only: None,
            keep_outputs: false,
            keep_derivations: true,
        }
    }
}

impl GcOptions {
    /// Sets [`action`](Self::action).
    pub fn with_action(mut self, action: GcAction) -> Self {
        self.action = action;
        self
    }

    /// Sets [`max_freed`](Self::max_freed).
    pub fn with_max_freed(mut self, bytes: u64) -> Self {
        self.max_freed = Some(bytes);
        self
    }

    /// Sets [`only`](Self::only).
    pub fn with_only(mut self, paths: Vec<StorePath>) -> Self {
        self.only = Some(paths);
        self
    }

    /// Sets [`keep_outputs`](Self::keep_outputs).
    pub fn with_keep_outputs(mut self, keep: bool) -> Self {
        self.keep_outputs = keep;
        self
    }

    /// Sets [`keep_derivations`](Self::keep_derivations).
    pub fn with_keep_derivations(mut self, keep: bool) -> Self {
        self.keep_derivations = keep;
        self
    }
}

/// The result of a collection.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// The valid paths that were removed, would be removed, or would stay, depending on the action.
    pub paths: Vec<StorePath>,
    /// Entries of the store directory that were not valid and were removed, or would be.
    pub strays: Vec<String>,
    /// The paths among [`GcOptions::only`] that something needs. If there are any, none of the others is removed.
    pub alive: Vec<StorePath>,
    /// Freed disk space, in bytes.
    pub bytes_freed: u64,
    /// Number of files removed from `.links` because no path used them any more.
    pub unused_links: u64,
    /// Disk space, in bytes, that hard links to files in `.links` save, less that of `.links` itself.
    pub link_savings: i64,
    /// Entries that are not valid but could not be removed.
    pub failures: Vec<GcFailure>,
}

/// An entry that could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove '{}'", path.display())]
#[non_exhaustive]
pub struct GcFailure {
    /// The file or directory.
    pub path: PathBuf,
    /// The cause.
    pub source: std::io::Error,
}
