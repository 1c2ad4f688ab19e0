//! Getting rid of files: out of the store directory at once, off the disk beside that.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use rustix::io::Errno;

use super::options::GcFailure;
use crate::local_fs::Inner;
use crate::local_fs::files::{move_tree, remove_counted, remove_file_counted};
use crate::local_fs::scratch::Scratch;

/// How many threads remove trees.
const THREADS: usize = 2;

/// How many trees may wait for them.
const WAITING: usize = 256;

/// What has left the store directory, and is on its way off the disk.
pub(super) struct Trash<'a> {
    inner: &'a Inner,
    sender: SyncSender<Trashed>,
    results: &'a Results,
}

pub(super) struct Trashed {
    place: Scratch,
    path: PathBuf,
}

/// What has become of it.
#[derive(Default)]
pub(super) struct Results(Mutex<Removed>);

#[derive(Default)]
pub(super) struct Removed {
    pub bytes: u64,
    pub failures: Vec<GcFailure>,
}

impl Results {
    fn add(&self, path: PathBuf, removed: Result<u64, Errno>) {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match removed {
            Ok(bytes) => results.bytes += bytes,
            Err(error) => results.failures.push(GcFailure {
                path,
                source: error.into(),
            }),
        }
    }

    pub fn into_removed(self) -> Removed {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is on its way from the collector to those who remove it.
pub(super) fn way() -> (SyncSender<Trashed>, Mutex<Receiver<Trashed>>) {
    let (sender, receiver) = sync_channel(WAITING);
    (sender, Mutex::new(receiver))
}

/// Starts the threads that remove what comes. They end when nothing more can come.
pub(super) fn start_removing<'scope, 'a>(
    scope: &'scope Scope<'scope, 'a>,
    receiver: &'a Mutex<Receiver<Trashed>>,
    results: &'a Results,
) -> io::Result<()> {
    for _ in 0..THREADS {
        std::thread::Builder::new()
            .name("gc-remove".into())
            .spawn_scoped(scope, move || remove_all(receiver, results))?;
    }
    Ok(())
}

impl<'a> Trash<'a> {
    pub fn new(inner: &'a Inner, sender: SyncSender<Trashed>, results: &'a Results) -> Self {
        Self {
            inner,
            sender,
            results,
        }
    }

    /// Removes what has that name in the store directory from there. What is in it goes later.
    /// Bytes and failures are in the results in the end.
    pub fn take(&self, name: &CStr) {
        let path = self
            .inner
            .layout
            .store
            .join(name.to_string_lossy().as_ref());
        match self.try_take(name, &path) {
            Ok(Some(bytes)) => self.results.add(path, Ok(bytes)),
            Ok(None) => {}
            Err(error) => self.results.add(path, Err(error)),
        }
    }

    fn try_take(&self, name: &CStr, path: &Path) -> Result<Option<u64>, Errno> {
        let store = self.inner.store_fd.as_fd();
        if let Some(bytes) = remove_file_counted(store, name)? {
            return Ok(Some(bytes));
        }
        let Ok(scratch) = self.inner.scratch() else {
            return Err(Errno::ROFS);
        };
        let place = scratch.reserve();
        match move_tree((store, name), place.place()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(Some(0)),
            // If it cannot be moved it goes where it is: nobody can take it for valid.
            Err(_) => return remove_counted(store, name).map(Some),
        }
        let path = path.to_owned();
        if let Err(unsent) = self.sender.send(Trashed { place, path }) {
            let (directory, name) = unsent.0.place.place();
            return remove_counted(directory, name).map(Some);
        }
        Ok(None)
    }
}

fn remove_all(receiver: &Mutex<Receiver<Trashed>>, results: &Results) {
    loop {
        let next = receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(trashed) = next else { return };
        let (directory, name) = trashed.place.place();
        let removed = remove_counted(directory, name);
        results.add(trashed.path, removed);
    }
}

/// The name as the system wants it. None in the store directory has a NUL.
pub(super) fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}
