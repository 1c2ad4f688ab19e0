//! Helpers of the tests of the sandbox builder.
#![allow(dead_code, clippy::unwrap_used)]

use std::ops::Deref;
use std::path::PathBuf;

use tempfile::TempDir;
use tvix_test_support::directory::make_writable;

/// A temporary directory, removed on drop even if it contains read-only directories, as stores do.
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    /// Outside `/tmp`, because each sandbox has its own.
    pub fn outside_of_tmp() -> Self {
        Self(TempDir::new_in("/var/tmp").unwrap())
    }
}

impl Deref for Directory {
    type Target = TempDir;

    fn deref(&self) -> &TempDir {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        make_writable(self.0.path());
    }
}

pub fn busybox() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|directory| directory.join("busybox"));
    found
        .find(|file| file.is_file())
        .expect("these tests need a statically linked busybox in PATH")
}

/// Runs this test program once more as an unprivileged user, if it runs as root. The tests must
/// remove all that they make.
pub fn again_as_an_ordinary_user() {
    let left = tvix_test_support::ordinary_user::run_again();
    assert!(left.is_empty(), "left behind: {left:?}");
}
