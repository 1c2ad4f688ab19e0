//! What a collection is to do, and what it has done.

use std::path::PathBuf;

use nix_compat::store_path::StorePath;

/// What to do about garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GcAction {
    /// Remove it.
    #[default]
    Delete,
    /// Say what would be removed.
    ListDead,
    /// Say what would stay.
    ListLive,
}

/// How to collect. The defaults are Nix's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcOptions {
    /// What to do.
    pub action: GcAction,
    /// Bytes on the disk after which it ends, if that much can be freed at all.
    pub max_freed: Option<u64>,
    /// Whether a derivation that is alive keeps its valid outputs. Nix's `keep-outputs`, by default
    /// not.
    pub keep_outputs: bool,
    /// Whether a path that is alive keeps the derivation that it was built by. Nix's
    /// `keep-derivations`, by default so.
    pub keep_derivations: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            action: GcAction::Delete,
            max_freed: None,
            keep_outputs: false,
            keep_derivations: true,
        }
    }
}

impl GcOptions {
    /// Sets [`action`](Self::action).
    pub fn action(mut self, action: GcAction) -> Self {
        self.action = action;
        self
    }

    /// Sets [`max_freed`](Self::max_freed).
    pub fn max_freed(mut self, bytes: u64) -> Self {
        self.max_freed = Some(bytes);
        self
    }

    /// Sets [`keep_outputs`](Self::keep_outputs).
    pub fn keep_outputs(mut self, keep: bool) -> Self {
        self.keep_outputs = keep;
        self
    }

    /// Sets [`keep_derivations`](Self::keep_derivations).
    pub fn keep_derivations(mut self, keep: bool) -> Self {
        self.keep_derivations = keep;
        self
    }
}

/// What a collection has done or found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// Paths that were valid and are removed; or would be; or would stay.
    pub paths: Vec<StorePath>,
    /// Names of what was in the store directory without being valid, and is removed; or would be.
    pub strays: Vec<String>,
    /// Bytes on the disk that were freed.
    pub bytes_freed: u64,
    /// Files in `.links` that nothing shared any more, and are removed.
    pub unused_links: u64,
    /// What is not valid any more, or never was, but could not be removed.
    pub failures: Vec<GcFailure>,
}

/// Something that could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot remove '{}'", path.display())]
pub struct GcFailure {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: std::io::Error,
}
