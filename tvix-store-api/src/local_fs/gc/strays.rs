//! Strays: entries of the store directory that are not valid paths.

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

/// An entry that is not a valid path.
pub(super) struct Stray {
    pub name: String,
    /// The store path in its name, if there is one.
    pub path: Option<StorePath>,
}

/// All strays, according to the graph. A stray may have become valid since.
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
            // A name that is not UTF-8 cannot be listed in a report, and was not created by a
            // store.
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
        let action = format!("list '{}'", inner.layout.store.display());
        inner.layout.failed(action, std::io::Error::from(error))
    })?;
    Ok(strays)
}

/// The way that a stray can be removed.
pub(super) enum Verdict {
    /// A lock file that is not locked.
    Lock {
        /// Removes the file on drop.
        _lock: FileLock,
    },
    /// Anything else.
    Remove,
}

impl Stray {
    /// Whether it is one of `paths`; `None` for all.
    pub fn is_among(&self, paths: Option<&[StorePath]>) -> bool {
        paths.is_none_or(|paths| self.path.as_ref().is_some_and(|it| paths.contains(it)))
    }

    /// The way that the stray can be removed; `None` if it has to stay. Adding the path as a root
    /// blocks as long as the returned value is held.
    pub fn judge<'s>(
        &self,
        inner: &Inner,
        shared: &'s Shared,
    ) -> Result<Option<(Verdict, Option<Pending<'s>>)>, StoreError> {
        let mut pending = None;
        if let Some(path) = &self.path {
            let digest: Digest = *path.digest();
            pending = shared.begin_quietly(digest);
            // The path may have been added since the graph was built.
            if pending.is_none() || inner.database.is_valid(path)? {
                return Ok(None);
            }
        }
        if let Some(of) = self.name.strip_suffix(".lock") {
            let lock = FileLock::try_acquire(&inner.store_fd, of);
            let lock = lock.map_err(|error| {
                let action = format!("lock '{}'", self.name);
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

/// Directories with such a name, of Nix or of this crate, are locked by their process for its
/// lifetime.
fn is_in_use(inner: &Inner, name: &str) -> bool {
    match open_directory(inner.store_fd.as_fd(), name) {
        Ok(directory) => {
            let directory = File::from(directory);
            rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_err()
        }
        // A file of that name is left from the removal of a deep tree.
        Err(error) => error != Errno::NOTDIR,
    }
}
