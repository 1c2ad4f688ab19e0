//! The times of store objects.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};

/// Second 1 for the modification; the access time stays.
pub(crate) const CANONICAL_TIMES: Timestamps = Timestamps {
    last_access: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    },
    last_modification: Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    },
};

/// Gives an open file or directory the modification time of store objects, which is second 1. The
/// access time stays.
///
/// # Errors
///
/// Those of `futimens`, for instance [`io::ErrorKind::PermissionDenied`] for another user's file.
pub fn set_canonical_times(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &CANONICAL_TIMES)?)
}
