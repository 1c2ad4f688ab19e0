//! Disk space that is reserved for garbage collection: `db/reserved`, as in Nix.
//!
//! Freeing space takes some space first, for the log of the database and for directories. The
//! reserved space is freed when a store on a full disk is opened, and at the beginning of every
//! collection.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::StoreError;

/// Size in bytes: Nix's default.
const SIZE: u64 = 8 << 20;

/// Reserves the space, if there is plenty. Errors are ignored.
pub(super) fn keep(state: &Path) {
    let path = state.join("db/reserved");
    if path.exists() {
        return;
    }
    let plenty = rustix::fs::statvfs(state)
        .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) > 16 * SIZE);
    if !plenty {
        return;
    }
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    if let Ok(file) = made
        && rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE).is_err()
    {
        let _ = fs::remove_file(&path);
    }
}

/// Frees the space. `false` if none is reserved.
pub(super) fn give_up(state: &Path) -> bool {
    fs::remove_file(state.join("db/reserved")).is_ok()
}

/// Whether the error is caused by a full disk, or may be.
pub(super) fn is_full(error: &StoreError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        {
            return true;
        }
        if let Some(rusqlite::Error::SqliteFailure(failure, _)) = error.downcast_ref()
            && matches!(
                failure.code,
                // `SystemIoFailure` occurs for SQLite's index in shared memory.
                rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure
            )
        {
            return true;
        }
        source = error.source();
    }
    false
}
