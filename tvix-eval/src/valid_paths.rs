//! Which paths are valid in the store, and what they refer to.

use std::fmt;
use std::io;
use std::sync::Arc;

use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;

/// Looks up paths of the store that an evaluation works for.
///
/// Copies of what is in the store keep its references, a string that is read from there has those
/// that occur in it as its context, and `import` of a valid `.drv` file gives the derivation. The
/// evaluator knows the references of what it made or had built itself; of everything else it asks
/// here. Without an implementation such paths have none.
///
/// # Contract
///
/// Methods are called on the evaluation's own thread and may block it.
pub trait ValidPaths: Send + Sync {
    /// The store paths that a valid path refers to, itself among them if it does; `None` if the
    /// path is not valid.
    ///
    /// # Errors
    ///
    /// The store cannot be queried.
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
