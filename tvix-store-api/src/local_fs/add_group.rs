//! Adding a group of small objects, in two steps: placing the files, then registering the paths.
//!
//! With two steps, one group can be placed while the previous one is registered.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use nix_compat::nar::Parser;
use nix_compat::store_path::StorePath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tvix_tree::{RestoreOptions, Unpacker, set_canonical_times};

use super::Inner;
use super::add::Tree;
use super::db::Registration;
use super::files::remove_tree;
use super::locks::FileLock;
use crate::memory::now;
use crate::{StoreError, StoreUri, VerifiedObject};

/// Objects with files in place and locks held, not registered yet.
pub(super) struct Placed {
    outcomes: Vec<Outcome>,
    locks: Vec<FileLock>,
}

/// The state of an object.
enum Outcome {
    Valid,
    New(Registration),
    Failed(StoreError),
}

impl Inner {
    /// Locks objects and writes their files. No path may occur twice. Blocks. An error leaves all
    /// objects unchanged.
    pub(super) fn place(&self, objects: &[VerifiedObject]) -> Result<Placed, StoreError> {
        let paths: Vec<StorePath> = objects.iter().map(|it| it.path().clone()).collect();
        let mut locks = Vec::new();
        if self.scratch.is_some() {
            self.hold(&paths)?;
            locks = self.lock_files(&paths)?;
        }
        // Another process may have added some of them.
        let valid = self.database.valid_paths(&paths)?;
        let registration_time = now();
        let place = |object: &VerifiedObject| match valid.contains(object.path()) {
            _ if *object.store_dir() != self.store_dir => {
                Outcome::Failed(StoreError::OtherStoreDir {
                    store: self.uri.clone(),
                    actual: self.store_dir.clone(),
                    expected: object.store_dir().clone(),
                })
            }
            true => Outcome::Valid,
            false => match self.scratch().and_then(|_| self.place_one(object)) {
                Err(error) => Outcome::Failed(error),
                Ok(()) => {
                    let mut info = object.info().clone();
                    info.registration_time = Some(registration_time);
                    Outcome::New(Registration {
                        info: Arc::new(info),
                        outputs: object.outputs().to_vec(),
                    })
                }
            },
        };
        Ok(Placed {
            outcomes: objects.iter().map(place).collect(),
            locks,
        })
    }

    /// Makes placed objects valid in one transaction, and unlocks them. A refused object is removed
    /// and does not prevent the addition of others. Blocks.
    pub(super) fn register(&self, placed: Placed) -> Vec<Result<(), StoreError>> {
        let Placed { outcomes, locks } = placed;
        let new = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::New(registration) => Some(registration.clone()),
            _ => None,
        });
        let new: Vec<Registration> = new.collect();
        let count = new.len();
        let together = match count {
            0 => Ok(()),
            _ => self.database.register(new),
        };
        let register = |outcome| {
            let registration = match outcome {
                Outcome::Valid => return Ok(()),
                Outcome::Failed(error) => return Err(error),
                Outcome::New(registration) => registration,
            };
            let path = registration.info.path.clone();
            let registered = match &together {
                Ok(()) => return Ok(()),
                // The next object would wait for the database just as long.
                Err(error) if error.is_retryable() => Err(again(&self.uri, error)),
                // The error is about one of the objects, or about its referrers.
                Err(_) => self.database.register(vec![registration]),
            };
            if registered.is_err() {
                self.remove_moved(std::slice::from_ref(&path));
            }
            registered
        };
        let results = outcomes.into_iter().map(register).collect();
        drop(locks);
        results
    }

    fn place_one(&self, object: &VerifiedObject) -> Result<(), StoreError> {
        let path = object.path();
        let placed = match object.single_file() {
            Some((executable, contents)) => self.write_file(path, executable, contents),
            None => self.unpack_into_place(object),
        };
        placed.map_err(|error| {
            self.remove_moved(std::slice::from_ref(path));
            self.file_error("write", path, error)
        })
    }

    /// Takes locks in the order of paths, so that two processes cannot deadlock.
    pub(super) fn lock_files(&self, paths: &[StorePath]) -> Result<Vec<FileLock>, StoreError> {
        let mut paths: Vec<&StorePath> = paths.iter().collect();
        paths.sort_unstable();
        let lock = |path| {
            let lock = FileLock::acquire(&self.store_fd, &self.layout.store, path);
            lock.map_err(|error| self.file_error("lock", path, error))
        };
        paths.into_iter().map(lock).collect()
    }

    /// Writes a file at its final place. The lock of the path permits that, and readers ignore
    /// paths that are not registered.
    fn write_file(&self, path: &StorePath, executable: bool, contents: &[u8]) -> io::Result<()> {
        let name = CString::new(path.to_string()).map_err(io::Error::other)?;
        let store = self.store_fd.as_fd();
        let mode = Mode::from_raw_mode(if executable { 0o555 } else { 0o444 });
        let mut file = match create(store, &name, mode) {
            // Files of a path that is not valid are left from a process that was killed.
            Err(Errno::EXIST) => {
                remove_tree(store, &name)?;
                create(store, &name, mode)?
            }
            created => created?,
        };
        file.write_all(contents)?;
        // The umask or a default ACL of the directory may have changed the mode.
        if Mode::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != mode {
            rustix::fs::fchmod(&file, mode)?;
        }
        set_canonical_times(&file)?;
        Ok(())
    }

    fn unpack_into_place(&self, object: &VerifiedObject) -> io::Result<()> {
        let scratch = self.scratch().map_err(io::Error::other)?.reserve();
        let options = RestoreOptions::default().with_canonical(true);
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

fn create(store: BorrowedFd<'_>, name: &CStr, mode: Mode) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(store, name, flags, mode).map(File::from)
}

/// The same error, for another object that it affects.
pub(super) fn again(store: &StoreUri, error: &StoreError) -> StoreError {
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
        StoreError::ReadOnly { .. } => StoreError::ReadOnly {
            store: store.clone(),
        },
        error => StoreError::Bug {
            store: store.clone(),
            message: error.to_string(),
        },
    }
}
