//! Validity and references of paths in the store.

use std::fmt;
use std::io;
use std::sync::Arc;

use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;

/// Looks up valid paths in the store of an evaluation.
///
/// This preserves references: copies of a store path keep its references, a string read from it has
/// those that occur in the string as its context, and `import` of a valid `.drv` file evaluates to
/// the derivation. The evaluator knows the references of paths that it made or had built; for all
/// other paths it calls this trait. Without an implementation such paths have no references.
///
/// # Contract
///
/// Methods are called on the evaluation's own thread and may block.
pub trait ValidPaths: Send + Sync {
    /// The references of a valid path, including itself if there is a self-reference; `None` if the
    /// path is not valid.
    ///
    /// # Errors
    ///
    /// If the store cannot be queried.
    fn references(&self, path: &StorePath) -> io::Result<Option<SortedSet<StorePath>>>;
}

impl<V: ValidPaths + ?Sized> ValidPaths for Arc<V> {
    fn references(&self, path: &StorePath) -> io::Result<Option<SortedSet<StorePath>>> {
        (**self).references(path)
    }
}

impl fmt::Debug for dyn ValidPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ValidPaths")
    }
}
