//! Locks of paths: within this process, and between processes.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix_compat::store_path::StorePath;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::waits::Wait;

type Locks = Mutex<HashMap<StorePath, Weak<AsyncMutex<()>>>>;

/// The paths that this process is adding.
#[derive(Debug, Default, Clone)]
pub(super) struct PathLocks(Arc<Locks>);

/// The lock of a path within this process.
#[derive(Debug)]
pub(super) struct PathGuard {
    locks: Arc<Locks>,
    path: StorePath,
    /// `None` during drop.
    guard: Option<OwnedMutexGuard<()>>,
}

impl PathLocks {
    /// Waits until no other task of this process adds `path`.
    pub async fn lock(&self, path: &StorePath) -> PathGuard {
        let mutex = {
            let mut locks = lock(&self.0);
            match locks.get(path).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    let mutex = Arc::new(AsyncMutex::new(()));
                    locks.insert(path.clone(), Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        PathGuard {
            locks: self.0.clone(),
            path: path.clone(),
            guard: Some(mutex.lock_owned().await),
        }
    }

    /// As [`lock`](Self::lock) for each of `paths`, in an order that prevents deadlocks.
    pub async fn lock_all(&self, paths: impl Iterator<Item = &StorePath>) -> Vec<PathGuard> {
        let mut paths: Vec<&StorePath> = paths.collect();
        paths.sort_unstable();
        paths.dedup();
        let mut guards = Vec::with_capacity(paths.len());
        for path in paths {
            guards.push(self.lock(path).await);
        }
        guards
    }
}

impl Drop for PathGuard {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut locks = lock(&self.locks);
        // Waiters hold a reference too.
        if locks
            .get(&self.path)
            .is_some_and(|lock| lock.strong_count() == 0)
        {
            locks.remove(&self.path);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lock between processes, by Nix's convention: the file `<name>.lock` in the store directory is
/// locked with `flock`. On release, the file is removed and made non-empty, which tells processes
/// that have it open that it is stale. The lock of a process that dies is released immediately.
///
/// Releasing it takes three short system calls.
#[derive(Debug)]
pub(super) struct FileLock {
    store: Arc<OwnedFd>,
    name: CString,
    file: File,
}

enum Attempt {
    Locked(FileLock),
    /// Another process holds the lock.
    Held,
    /// The file was removed before the lock was acquired.
    Stale,
}

impl FileLock {
    /// Waits for the lock of a path. `folder` is the path of the directory `store`. Blocks.
    pub fn acquire(store: &Arc<OwnedFd>, folder: &Path, path: &StorePath) -> io::Result<Self> {
        if let Some(lock) = Self::try_acquire(store, &path.to_string())? {
            return Ok(lock);
        }
        let _wait = Wait::begin(folder.join(format!("{path}.lock")));
        loop {
            let operation = FlockOperation::LockExclusive;
            if let Attempt::Locked(lock) = Self::attempt(store, &path.to_string(), operation)? {
                return Ok(lock);
            }
        }
    }

    /// Takes the lock of that name if it is free; `None` otherwise.
    pub fn try_acquire(store: &Arc<OwnedFd>, name: &str) -> io::Result<Option<Self>> {
        loop {
            let operation = FlockOperation::NonBlockingLockExclusive;
            match Self::attempt(store, name, operation)? {
                Attempt::Locked(lock) => return Ok(Some(lock)),
                Attempt::Held => return Ok(None),
                Attempt::Stale => {}
            }
        }
    }

    fn attempt(store: &Arc<OwnedFd>, name: &str, operation: FlockOperation) -> io::Result<Attempt> {
        let name = CString::new(format!("{name}.lock")).map_err(io::Error::other)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = File::from(rustix::fs::openat(&**store, &name, flags, mode)?);
        loop {
            match rustix::fs::flock(&file, operation) {
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Attempt::Held),
                locked => break locked?,
            }
        }
        Ok(match file.metadata()?.len() {
            0 => Attempt::Locked(Self {
                store: store.clone(),
                name,
                file,
            }),
            _ => Attempt::Stale,
        })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // A lock file that stays is harmless.
        let _ = rustix::fs::unlinkat(&*self.store, &self.name, AtFlags::empty());
        // Nix writes text to it. Only the size matters, and this allocates no page.
        let _ = self.file.set_len(1);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn a_lock_is_free_when_it_is_dropped_and_removed_with_it() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = super::super::files::open_directory(CWD, temporary.path());
        let store = Arc::new(directory.unwrap());
        let held = FileLock::try_acquire(&store, "x").unwrap().unwrap();
        assert!(FileLock::try_acquire(&store, "x").unwrap().is_none());
        let other = FileLock::try_acquire(&store, "y").unwrap().unwrap();
        // A process that opened the file before its removal must see that it is stale.
        let opened = File::options()
            .read(true)
            .open(temporary.path().join("x.lock"))
            .unwrap();
        drop(held);
        assert!(opened.metadata().unwrap().len() > 0);
        drop(FileLock::try_acquire(&store, "x").unwrap().unwrap());
        drop(other);
        assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    }
}
