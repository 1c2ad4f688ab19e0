//! What is in the store directory without being valid.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix_compat::store_path::StorePath;
use rustix::fs::{Dir, FlockOperation};
use rustix::io::Errno;

use super::graph::Graph;
use super::server::{Digest, Pending, Shared};
use crate::StoreError;
use crate::local_fs::Inner;
use crate::local_fs::files::open_directory;
use crate::local_fs::locks::FileLock;

/// Something that is not valid.
pub(super) struct Stray {
    pub name: String,
    /// What it is called after, if it is called like a store path.
    pub path: Option<StorePath>,
}

/// All of them, as far as the graph knows. It may be valid by now.
pub(super) fn find(inner: &Inner, graph: &Graph) -> Result<Vec<Stray>, StoreError> {
    let mut strays = Vec::new();
    let mut listed = || -> Result<(), Errno> {
        let mut listing = Dir::read_from(&*inner.store_fd)?;
        while let Some(entry) = listing.read() {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if matches!(bytes, b"." | b".." | b".links") {
                continue;
            }
            // Nobody could name it in a report, and nobody here made it.
            let Ok(name) = std::str::from_utf8(bytes) else {
                continue;
            };
            let path = StorePath::from_base_name(name).ok();
            if path.as_ref().is_some_and(|path| graph.contains(path)) {
                continue;
            }
            let name = name.to_owned();
            strays.push(Stray { name, path });
        }
        Ok(())
    };
    listed().map_err(|error| {
        let action = format!("listing '{}'", inner.layout.store.display());
        inner.layout.failed(action, std::io::Error::from(error))
    })?;
    Ok(strays)
}

/// What may go at once.
pub(super) enum Verdict {
    /// A lock that nobody holds any more.
    Lock {
        /// Removed when it is dropped.
        _lock: FileLock,
    },
    /// Something else.
    Remove,
}

impl Stray {
    /// How it may go; `None` if it has to stay. Whoever wants to make something of that name waits
    /// as long as what is returned is held.
    pub fn judge<'s>(
        &self,
        inner: &Inner,
        shared: &'s Shared,
    ) -> Result<Option<(Verdict, Option<Pending<'s>>)>, StoreError> {
        let mut pending = None;
        if let Some(path) = &self.path {
            let digest: Digest = *path.digest();
            pending = shared.begin_quietly(digest);
            // It may have come since the graph was made.
            if pending.is_none() || inner.database.is_valid(path)? {
                return Ok(None);
            }
        }
        if let Some(of) = self.name.strip_suffix(".lock") {
            let lock = FileLock::try_acquire(&inner.store_fd, of);
            let lock = lock.map_err(|error| {
                let action = format!("locking '{}'", self.name);
                inner.layout.failed(action, error)
            })?;
            return Ok(lock.map(|_lock| (Verdict::Lock { _lock }, pending)));
        }
        if self.name.starts_with("tmp-") && is_in_use(inner, &self.name) {
            return Ok(None);
        }
        Ok(Some((Verdict::Remove, pending)))
    }
}

/// Whoever makes a directory of such a name, Nix or we, has it locked as long as he lives.
fn is_in_use(inner: &Inner, name: &str) -> bool {
    match open_directory(inner.store_fd.as_fd(), name) {
        Ok(directory) => {
            let directory = File::from(directory);
            rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err()
        }
        // A file is what a removal of something deep has left.
        Err(error) => error != Errno::NOTDIR,
    }
}
