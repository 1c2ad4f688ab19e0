//! Removal of files: first out of the store directory, then off the disk in the background.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use rustix::io::Errno;

use super::options::GcFailure;
use super::server::Pending;
use crate::local_fs::Inner;
use crate::local_fs::files::{move_tree, remove_counted, remove_file_counted};
use crate::local_fs::scratch::Scratch;

/// Number of removing threads.
const THREADS: usize = 2;

/// Number of names that a thread takes at a time.
const CHUNK: usize = 256;

/// Number of queued chunks, and number of queued trees that have left the store directory. With
/// more queued trees, trees are removed first.
const WAITING_CHUNKS: usize = 40;
const WAITING_TREES: usize = 512;

/// The queues of removals, and their results.
pub(super) struct Trash<'a> {
    inner: &'a Inner,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

#[derive(Default)]
struct State<'a> {
    chunks: VecDeque<Chunk<'a>>,
    trees: Vec<Tree>,
    removed: Removed,
    /// No more work follows.
    closed: bool,
}

/// Entries of the store directory, and the pending removal, which ends once all entries of the
/// group have left the store directory.
struct Chunk<'a> {
    names: Vec<CString>,
    _pending: Arc<Pending<'a>>,
}

/// A tree outside the store directory.
struct Tree {
    place: Scratch,
    path: PathBuf,
}

/// The results of the removals.
#[derive(Default)]
pub(super) struct Removed {
    pub bytes: u64,
    pub failures: Vec<GcFailure>,
}

/// Closes the queue on drop. The threads end once the queues are empty.
pub(super) struct Closing<'t, 'a>(&'t Trash<'a>);

impl<'a> Trash<'a> {
    pub fn new(inner: &'a Inner) -> Self {
        Self {
            inner,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Starts the removing threads.
    pub fn start<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
    ) -> io::Result<Closing<'env, 'a>>
    where
        'a: 'env,
    {
        let closing = Closing(self);
        for _ in 0..THREADS {
            Builder::new()
                .name("gc-remove".into())
                .spawn_scoped(scope, || self.work())?;
        }
        Ok(closing)
    }

    /// Moves the entry `name` out of the store directory, and queues its contents for removal.
    pub fn take(&self, name: &CStr) {
        if let Some(tree) = self.leave(name) {
            self.lock().trees.push(tree);
            self.changed.notify_all();
        }
    }

    /// Queues the removal of all `names`. `pending` is dropped once they have left the store
    /// directory. Blocks while the queue is full.
    pub fn take_all(&self, names: Vec<CString>, pending: Pending<'a>) {
        let pending = Arc::new(pending);
        let mut state = self.lock();
        while state.chunks.len() > WAITING_CHUNKS {
            state = self.wait(state);
        }
        state.chunks.extend(names.chunks(CHUNK).map(|names| Chunk {
            names: names.to_vec(),
            _pending: pending.clone(),
        }));
        drop(state);
        self.changed.notify_all();
    }

    pub fn into_removed(self) -> Removed {
        let state = self.state.into_inner();
        state.unwrap_or_else(PoisonError::into_inner).removed
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            let trees_first = state.trees.len() > WAITING_TREES;
            if !trees_first && let Some(chunk) = state.chunks.pop_front() {
                drop(state);
                // The caller of `take_all` may be waiting for room.
                self.changed.notify_all();
                let trees: Vec<Tree> = chunk
                    .names
                    .iter()
                    .filter_map(|name| self.leave(name))
                    .collect();
                drop(chunk);
                state = self.lock();
                state.trees.extend(trees);
            } else if let Some(Tree { place, path }) = state.trees.pop() {
                drop(state);
                let (directory, name) = place.place();
                self.record(path, remove_counted(directory, name));
                state = self.lock();
            } else if state.closed {
                return;
            } else {
                state = self.wait(state);
            }
        }
    }

    /// Moves an entry out of the store directory. Returns the tree if it still has to be removed.
    fn leave(&self, name: &CStr) -> Option<Tree> {
        let path = self.inner.layout.store.join(&*name.to_string_lossy());
        match self.try_leave(name) {
            Ok(Ok(bytes)) => self.record(path, Ok(bytes)),
            Ok(Err(place)) => return Some(Tree { place, path }),
            Err(error) => self.record(path, Err(error)),
        }
        None
    }

    /// The freed bytes, or the new place of a tree.
    fn try_leave(&self, name: &CStr) -> Result<Result<u64, Scratch>, Errno> {
        let store = self.inner.store_fd.as_fd();
        if let Some(bytes) = remove_file_counted(store, name)? {
            return Ok(Ok(bytes));
        }
        let Ok(scratch) = self.inner.scratch() else {
            return Err(Errno::ROFS);
        };
        let place = scratch.reserve();
        match move_tree((store, name), place.place()) {
            Ok(()) => Ok(Err(place)),
            Err(Errno::NOENT) => Ok(Ok(0)),
            // A tree that cannot be moved is removed in place: without a row it is not valid.
            Err(_) => remove_counted(store, name).map(Ok),
        }
    }

    fn record(&self, path: PathBuf, removed: Result<u64, Errno>) {
        let removed_before = &mut self.lock().removed;
        match removed {
            Ok(bytes) => removed_before.bytes += bytes,
            Err(error) => removed_before.failures.push(GcFailure {
                path,
                source: error.into(),
            }),
        }
    }

    fn wait<'g>(&self, state: MutexGuard<'g, State<'a>>) -> MutexGuard<'g, State<'a>> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Closing<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// The name as a C string. File names contain no NUL.
pub(super) fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}
