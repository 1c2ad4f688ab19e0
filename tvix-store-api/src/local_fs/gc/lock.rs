//! The lock that says whether a collection is under way, as Nix takes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// `<state>/gc.lock`. A collector holds it alone; whoever holds roots shares it for a moment, to
/// find out whether there is a collector that has to be told.
#[derive(Debug)]
pub(in crate::local_fs) struct GcLock(File);

impl GcLock {
    /// Opens it, and makes it if it is missing.
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

    /// Whether nobody collects at this moment.
    pub fn nobody_collects(&self) -> io::Result<bool> {
        if !self.flock(FlockOperation::NonBlockingLockShared)? {
            return Ok(false);
        }
        self.flock(FlockOperation::Unlock)
    }

    /// Takes it alone, if nobody else has it. It is free again once this is dropped.
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
