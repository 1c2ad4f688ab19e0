//! Room on the disk that is kept for collecting garbage: `db/reserved`, as Nix has it.
//!
//! Whoever wants to free space needs some: for the log of the database, and for directories. A store
//! whose disk is full gives this up when it is opened, and every collection does at its beginning.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::FallocateFlags;

use crate::StoreError;

/// As much as Nix reserves by default.
const SIZE: u64 = 8 << 20;

/// Reserves room, if there is plenty. Nothing depends on it.
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

/// Frees it. `false` if there is none.
pub(super) fn give_up(state: &Path) -> bool {
    fs::remove_file(state.join("db/reserved")).is_ok()
}

/// Whether something failed because the disk is full, or may have.
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
                // The latter for its index in shared memory.
                rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure
            )
        {
            return true;
        }
        source = error.source();
    }
    false
}
