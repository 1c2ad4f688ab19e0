//! Directories with read-only contents, such as stores.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Makes a directory removable by an ordinary user.
pub fn make_writable(directory: &Path) {
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}
