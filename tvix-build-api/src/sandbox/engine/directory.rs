//! The engine's own directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::EngineError;
use super::remove::remove_contents;

const PREFIX: &str = "sandbox-";

/// A private directory for one engine, removed with it. What engines of dead processes left
/// behind is removed when the next one starts.
#[derive(Debug)]
pub(super) struct EngineDirectory {
    path: PathBuf,
    _lock: File,
}

impl EngineDirectory {
    pub(super) fn create(parent: &Path) -> Result<Self, EngineError> {
        let step = || {
            EngineError::setup::<io::Error>(format!(
                "creating a sandbox directory in {}",
                parent.display()
            ))
        };
        fs::create_dir_all(parent).map_err(step())?;
        // Builders refer to mounts by absolute paths, from another working directory.
        let parent = parent.canonicalize().map_err(step())?;
        remove_stale(&parent);
        loop {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                .tempdir_in(&parent)
                .map_err(step())?
                .keep();
            // Another process that starts now may take the directory for a stale one, as long as
            // it is not locked. Then there is one more try.
            let lock = match File::open(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock.map_err(step())?,
            };
            let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
            if locked.is_ok() && directory.exists() {
                return Ok(EngineDirectory {
                    path: directory,
                    _lock: lock,
                });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for EngineDirectory {
    fn drop(&mut self) {
        // A failure is for the next engine to mend.
        let _ = remove_directory(&self.path);
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    let directory = File::open(path)?;
    remove_contents(directory.as_fd(), |_, _| false)?;
    fs::remove_dir(path)
}

/// Removes the directories of engines that are no more: the lock goes with the process.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !ours {
            continue;
        }
        let Ok(lock) = File::open(entry.path()) else {
            continue;
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = remove_directory(&entry.path());
        }
    }
}
