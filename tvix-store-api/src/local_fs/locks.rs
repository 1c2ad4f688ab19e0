//! One addition of a path at a time: within this process, and between processes.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix_compat::store_path::StorePath;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Locks = Mutex<HashMap<StorePath, Weak<AsyncMutex<()>>>>;

/// Who in this process is adding what.
#[derive(Debug, Default)]
pub(super) struct PathLocks(Arc<Locks>);

/// A path that nobody else in this process adds meanwhile.
#[derive(Debug)]
pub(super) struct PathGuard {
    locks: Arc<Locks>,
    path: StorePath,
    /// `None` while it is dropped.
    guard: Option<OwnedMutexGuard<()>>,
}

impl PathLocks {
    /// Waits until nobody else in this process adds `path`.
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

    /// As [`lock`](Self::lock) for each of `paths`, in an order that lets two callers never wait
    /// for each other.
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
        // Those who wait hold it too.
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

/// A path that no other process adds meanwhile, by Nix's convention: `<path>.lock` is locked,
/// and is removed afterwards, with something written to it, which tells those who have it open
/// that it is not the lock any more.
#[derive(Debug)]
pub(super) struct FileLock<'a> {
    store: BorrowedFd<'a>,
    name: CString,
    file: File,
}

impl<'a> FileLock<'a> {
    /// Waits for the lock of a path. Blocks.
    pub fn acquire(store: BorrowedFd<'a>, path: &StorePath) -> io::Result<Self> {
        let name = CString::new(format!("{path}.lock")).map_err(io::Error::other)?;
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = File::from(rustix::fs::openat(store, &name, flags, mode)?);
            loop {
                match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                    Err(Errno::INTR) => {}
                    locked => break locked?,
                }
            }
            if file.metadata()?.len() == 0 {
                return Ok(Self { store, name, file });
            }
        }
    }
}

impl Drop for FileLock<'_> {
    fn drop(&mut self) {
        // A lock file that stays is no harm.
        let _ = rustix::fs::unlinkat(self.store, &self.name, AtFlags::empty());
        let _ = self.file.write_all(b"d");
    }
}
