//! Helpers of several test files.

use std::path::Path;

use tempfile::TempDir;
use tvix_test_support::directory::make_writable;

/// A temporary directory for stores. Removed on drop, although stores are read-only.
pub struct Root(TempDir);

impl Root {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        make_writable(self.0.path());
    }
}
