//! The lock of the garbage collector, compatible with Nix.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// `<state>/gc.lock`. A collector holds it exclusively. A process that adds roots takes it shared
/// for a moment, to find out whether a collector is running and must be told.
#[derive(Debug)]
pub(in crate::local_fs) struct GcLock(File);

impl GcLock {
    /// Opens the lock file, and creates it if it is missing.
    pub fn open(state: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(state.join("gc.lock"))?;
        Ok(Self(file))
    }

    /// Whether no collection is running at this moment.
    pub fn nobody_collects(&self) -> io::Result<bool> {
        if !self.flock(FlockOperation::NonBlockingLockShared)? {
            return Ok(false);
        }
        self.flock(FlockOperation::Unlock)
    }

    /// Takes the lock exclusively if it is free. Dropping this value releases it.
    pub fn try_alone(&self) -> io::Result<bool> {
        self.flock(FlockOperation::NonBlockingLockExclusive)
    }

    fn flock(&self, operation: FlockOperation) -> io::Result<bool> {
        loop {
            match rustix::fs::flock(&self.0, operation) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(false),
                result => {
                    result?;
                    return Ok(true);
                }
            }
        }
    }
}
