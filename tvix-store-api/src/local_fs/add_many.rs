//! Adding many small objects at once.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use nix_compat::nar::{Parser, RestoreOptions, Unpacker};
use nix_compat::store_path::StorePath;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::add::Tree;
use super::db::Registration;
use super::files::remove_tree;
use super::locks::FileLock;
use super::{Inner, LocalStore};
use crate::blocking::blocking;
use crate::memory::now;
use crate::{StoreError, StoreUri, VerifiedObject};

/// Objects that are locked and registered together. Each lock is an open file, and of those a
/// process has 1024 by default.
const GROUP: usize = 128;

impl LocalStore {
    /// All of it on one thread, in groups of one transaction each.
    pub(super) async fn add_verified(
        &self,
        objects: Vec<VerifiedObject>,
    ) -> Vec<Result<(), StoreError>> {
        let guards = self
            .0
            .locks
            .lock_all(objects.iter().map(VerifiedObject::path));
        let guards = guards.await;
        let permit = self.0.additions.clone().acquire_owned().await;
        let (inner, count) = (self.0.clone(), objects.len());
        let added = blocking(&self.0.uri, move || {
            // Held until it is done, even if nobody waits for it any more.
            let _held = (permit, guards);
            let groups = Groups { rest: &objects };
            Ok(groups.flat_map(|group| inner.add_group(group)).collect())
        });
        added.await.unwrap_or_else(|error| {
            let failed = (0..count).map(|_| Err(again(&self.0.uri, &error)));
            failed.collect()
        })
    }
}

/// Objects by the group. No path is twice in one.
struct Groups<'a> {
    rest: &'a [VerifiedObject],
}

impl<'a> Iterator for Groups<'a> {
    type Item = &'a [VerifiedObject];

    fn next(&mut self) -> Option<Self::Item> {
        let mut paths = HashSet::new();
        let new = self.rest.iter().take(GROUP);
        let len = new.take_while(|it| paths.insert(it.path())).count();
        let (group, rest) = self.rest.split_at(len);
        self.rest = rest;
        (len > 0).then_some(group)
    }
}

impl Inner {
    fn add_group(&self, objects: &[VerifiedObject]) -> Vec<Result<(), StoreError>> {
        let added = self.add_together(objects);
        match added {
            Ok(()) => objects.iter().map(|_| Ok(())).collect(),
            Err(error) if objects.len() == 1 => vec![Err(error)],
            // The next would wait just as long for the database.
            Err(error) if error.is_retryable() => objects
                .iter()
                .map(|_| Err(again(&self.uri, &error)))
                .collect(),
            // One of them is to blame, and those that refer to it.
            Err(_) => {
                let each = objects.iter().map(std::slice::from_ref);
                each.map(|object| self.add_together(object)).collect()
            }
        }
    }

    /// Adds all or none.
    fn add_together(&self, objects: &[VerifiedObject]) -> Result<(), StoreError> {
        if let Some(other) = objects.iter().find(|it| *it.store_dir() != self.store_dir) {
            return Err(StoreError::OtherStoreDir {
                store: self.uri.clone(),
                actual: self.store_dir.clone(),
                expected: other.store_dir().clone(),
            });
        }
        let paths: Vec<StorePath> = objects.iter().map(|it| it.path().clone()).collect();
        if self.scratch.is_none() {
            let valid = self.database.valid_paths(&paths)?.len();
            return match valid == paths.len() {
                true => Ok(()),
                false => self.scratch().map(drop),
            };
        }
        self.hold(&paths)?;
        let _locks = self.lock_files(&paths)?;
        // Other processes may have been faster.
        let valid = self.database.valid_paths(&paths)?;
        let new = objects.iter().filter(|it| !valid.contains(it.path()));
        let mut placed = Vec::new();
        let registered = self.place_and_register(new, &mut placed);
        if registered.is_err() {
            self.remove_moved(&placed);
        }
        registered
    }

    fn place_and_register<'a>(
        &self,
        objects: impl Iterator<Item = &'a VerifiedObject>,
        placed: &mut Vec<StorePath>,
    ) -> Result<(), StoreError> {
        let registration_time = now();
        let mut registrations = Vec::new();
        for object in objects {
            let path = object.path();
            placed.push(path.clone());
            match object.single_file() {
                Some((executable, contents)) => self.write_file(path, executable, contents),
                None => self.unpack_into_place(object),
            }
            .map_err(|error| self.file_error("writing", path, error))?;
            let mut info = object.info().clone();
            info.registration_time = Some(registration_time);
            registrations.push(Registration {
                info: Arc::new(info),
                outputs: object.outputs().to_vec(),
            });
        }
        self.database.register(registrations)
    }

    /// Locks in the order of paths, so that two processes never wait for each other.
    pub(super) fn lock_files(&self, paths: &[StorePath]) -> Result<Vec<FileLock>, StoreError> {
        let mut paths: Vec<&StorePath> = paths.iter().collect();
        paths.sort_unstable();
        let lock = |path| {
            let lock = FileLock::acquire(&self.store_fd, path);
            lock.map_err(|error| self.file_error("locking", path, error))
        };
        paths.into_iter().map(lock).collect()
    }

    /// Writes a file where it belongs: whoever has the path's lock may, and nobody looks at what
    /// is not registered.
    fn write_file(&self, path: &StorePath, executable: bool, contents: &[u8]) -> io::Result<()> {
        let name = CString::new(path.to_string()).map_err(io::Error::other)?;
        let store = self.store_fd.as_fd();
        let mode = Mode::from_raw_mode(if executable { 0o555 } else { 0o444 });
        let mut file = match create(store, &name, mode) {
            // What is there without being valid is what a process left that was killed.
            Err(Errno::EXIST) => {
                remove_tree(store, &name)?;
                create(store, &name, mode)?
            }
            created => created?,
        };
        file.write_all(contents)?;
        // The umask may have taken something away.
        rustix::fs::fchmod(&file, mode)?;
        rustix::fs::futimens(&file, &CANONICAL_TIMES)?;
        Ok(())
    }

    fn unpack_into_place(&self, object: &VerifiedObject) -> io::Result<()> {
        let scratch = self.scratch().map_err(io::Error::other)?.reserve();
        let options = RestoreOptions::default().canonical(true);
        let mut unpacker = Unpacker::new(scratch.path(), options).map_err(io::Error::other)?;
        let mut parser = Parser::new();
        let mut rest = &object.nar()[..];
        loop {
            let step = parser.feed(rest).map_err(io::Error::other)?;
            rest = &rest[step.consumed..];
            let Some(event) = step.event else { break };
            unpacker.event(event).map_err(io::Error::other)?;
        }
        unpacker.finish().map_err(io::Error::other)?;
        self.move_into_place(object.path(), &Tree::Ours(scratch))
    }
}

const CANONICAL_TIMES: Timestamps = Timestamps {
    last_access: Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    },
    last_modification: Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    },
};

fn create(store: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(store, name, flags, mode).map(File::from)
}

/// The same trouble, for another one that it concerns.
fn again(store: &StoreUri, error: &StoreError) -> StoreError {
    match error {
        StoreError::Backend {
            action,
            retryable,
            source,
            ..
        } => StoreError::Backend {
            store: store.clone(),
            action: action.clone(),
            retryable: *retryable,
            source: source.to_string().into(),
        },
        error => StoreError::Bug {
            store: store.clone(),
            message: error.to_string(),
        },
    }
}
