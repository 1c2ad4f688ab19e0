//! Adding many local trees. Small ones pass through a pipeline of reading threads, a placing thread
//! and a registering thread, so that all processors are used.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StorePath, StorePathName};

use super::add_group::again;
use super::add_many::GROUP;
use super::import::SMALL;
use super::{Inner, LocalStore};
use crate::blocking::blocking;
use crate::local_fs::stop::StopOnDrop;
use crate::{ExpectedPath, SourceTree, StoreError, VerifiedObject};

/// Number of reading threads.
const READERS: usize = 2;

/// Approximate size, in bytes, of the NARs in a batch, which are held in memory.
const GROUP_BYTES: usize = 2 << 20;

/// A file, and the name of its store path.
type Named = (PathBuf, StorePathName);

impl LocalStore {
    /// As [`StoreExt::add_tree`](crate::StoreExt::add_tree) for each of `files`; returns one result for each, in
    /// order. Small trees are added in groups, which makes thousands of them much cheaper.
    ///
    /// If the future is dropped, no further trees are read.
    pub async fn import_trees(
        &self,
        files: Vec<Named>,
        method: ContentAddressMethod,
    ) -> Vec<Result<StorePath, StoreError>> {
        let count = files.len();
        let stop = StopOnDrop::default();
        let (inner, stopped) = (self.0.clone(), stop.flag());
        let permit = self.0.additions.clone().acquire_owned().await;
        let imported = blocking(&self.0.uri, move || {
            let _held = permit;
            Ok(inner.import_all(files, method, &stopped))
        });
        imported.await.unwrap_or_else(|error| {
            let failed = (0..count).map(|_| Err(again(&self.0.uri, &error)));
            failed.collect()
        })
    }
}

/// Small objects that were read, and the index of the file of each.
#[derive(Default)]
struct Batch {
    objects: Vec<VerifiedObject>,
    files: Vec<usize>,
    /// The position of each path in the batch.
    positions: HashMap<StorePath, usize>,
    /// Files with the same store path as an object of the batch, and the position of that object.
    same: Vec<(usize, usize)>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, file: usize, object: VerifiedObject) {
        if let Some(&position) = self.positions.get(object.path()) {
            self.same.push((file, position));
            return;
        }
        self.positions
            .insert(object.path().clone(), self.objects.len());
        self.bytes += object.nar().len();
        self.objects.push(object);
        self.files.push(file);
    }

    fn is_full(&self) -> bool {
        self.objects.len() + self.same.len() >= GROUP || self.bytes >= GROUP_BYTES
    }
}

impl AsRef<[VerifiedObject]> for Batch {
    fn as_ref(&self) -> &[VerifiedObject] {
        &self.objects
    }
}

/// The result for each file.
type Results = Mutex<Vec<Option<Result<StorePath, StoreError>>>>;

impl Inner {
    fn import_all(
        &self,
        files: Vec<Named>,
        method: ContentAddressMethod,
        stopped: &AtomicBool,
    ) -> Vec<Result<StorePath, StoreError>> {
        let results: Results = Mutex::new(files.iter().map(|_| None).collect());
        let files = Mutex::new(files.into_iter().enumerate());
        let next = || match stopped.load(Ordering::Relaxed) {
            true => None,
            false => lock(&files).next(),
        };
        thread::scope(|scope| {
            let (sender, batches) = sync_channel(0);
            let started = (0..READERS).map(|_| {
                let (sender, results, next) = (sender.clone(), &results, &next);
                let read = move || self.read_files(next, method, results, &sender);
                let thread = thread::Builder::new().name("read".into());
                thread.spawn_scoped(scope, read).map(drop)
            });
            // One started thread is enough.
            let started = started.reduce(Result::or);
            drop(sender);
            self.add_groups(batches.into_iter(), false, |batch, added| {
                self.record(&batch, added, &results);
            });
            if let Some(Err(error)) = started {
                let error = self.layout.failed("start a thread".to_owned(), error);
                for result in lock(&results).iter_mut() {
                    result.get_or_insert_with(|| Err(again(&self.uri, &error)));
                }
            }
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let abandoned = || StoreError::Bug {
            store: self.uri.clone(),
            message: "adding was abandoned".to_owned(),
        };
        let results = results.into_iter();
        results
            .map(|result| result.unwrap_or_else(|| Err(abandoned())))
            .collect()
    }

    /// Reads files one by one. Small ones are sent on in batches; large ones are added here.
    fn read_files(
        &self,
        next: impl Fn() -> Option<(usize, Named)>,
        method: ContentAddressMethod,
        results: &Results,
        batches: &SyncSender<Batch>,
    ) {
        let mut batch = Batch::default();
        while let Some((index, (file, name))) = next() {
            let added = match VerifiedObject::tree(&file, &self.store_dir, &name, method, SMALL) {
                Ok(Some(object)) => {
                    batch.push(index, object);
                    if batch.is_full() && batches.send(std::mem::take(&mut batch)).is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => self.import(SourceTree {
                    file,
                    expected: ExpectedPath::Name(name),
                    method,
                    references: SortedSet::new(),
                }),
                Err(error) => Err(error),
            };
            lock(results)[index] = Some(added.map(|info| info.path.clone()));
        }
        if !batch.objects.is_empty() {
            // The receiver is gone only if it has panicked.
            let _ = batches.send(batch);
        }
    }

    fn record(&self, batch: &Batch, added: Vec<Result<(), StoreError>>, results: &Results) {
        let mut results = lock(results);
        for &(file, position) in &batch.same {
            results[file] = Some(match &added[position] {
                Ok(()) => Ok(batch.objects[position].path().clone()),
                Err(error) => Err(again(&self.uri, error)),
            });
        }
        for ((file, object), added) in batch.files.iter().zip(&batch.objects).zip(added) {
            results[*file] = Some(added.map(|()| object.path().clone()));
        }
    }
}

// Each result is set atomically, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
