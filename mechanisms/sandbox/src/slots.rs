//! Scratch directories, in use or not.
//!
//! Creating and removing directories is slow (a `rmdir` takes as long as a dozen mounts), so scratch
//! directories are reused: after a process their contents are removed, and mount points in the store
//! directory that the next process needs too stay.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use super::directory::EngineDirectory;
use super::error::EngineError;
use super::remove::remove_contents;
use super::spec::HostIds;

/// The kind of a mount point in the store directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Directory,
    File,
}

/// A scratch directory, in use or not.
#[derive(Debug)]
pub(super) struct Slot {
    path: PathBuf,
    pub(super) host_ids: Option<HostIds>,
    points: BTreeMap<OsString, Point>,
}

/// The scratch directories of an engine.
#[derive(Debug)]
pub(super) struct Slots {
    directory: PathBuf,
    _engine_directory: Arc<EngineDirectory>,
    /// The first host user, if the engine may choose users.
    first_id: Option<u32>,
    state: Mutex<SlotsState>,
}

#[derive(Debug, Default)]
struct SlotsState {
    idle: Vec<Slot>,
    made: u32,
}

impl Slots {
    /// Keeps the slots in `directory`, which exists and lies in the engine's.
    pub(super) fn new(
        directory: PathBuf,
        engine_directory: Arc<EngineDirectory>,
        first_id: Option<u32>,
    ) -> Arc<Self> {
        Arc::new(Slots {
            directory,
            _engine_directory: engine_directory,
            first_id,
            state: Mutex::default(),
        })
    }

    /// An unused slot, made if there is none.
    pub(super) fn take(&self) -> Result<Slot, EngineError> {
        let number = {
            let mut state = self.lock();
            if let Some(slot) = state.idle.pop() {
                return Ok(slot);
            }
            state.made += 1;
            state.made
        };
        let slot = Slot {
            path: self.directory.join(number.to_string()),
            host_ids: self.first_id.map(|first| HostIds {
                uid: first + number,
                gid: first + number,
            }),
            points: BTreeMap::new(),
        };
        slot.create().map_err(EngineError::setup(format!(
            "creating the scratch directory {}",
            slot.path.display()
        )))?;
        Ok(slot)
    }

    /// Makes a slot available again that no process has used.
    pub(super) fn put_back(&self, slot: Slot) {
        self.lock().idle.push(slot);
    }

    /// Empties a slot and makes it available again.
    pub(super) fn clean(&self, mut slot: Slot) {
        // What cannot be cleaned now is removed with the engine; nobody else gets it.
        if slot.clean().is_ok() {
            self.lock().idle.push(slot);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SlotsState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    pub(super) fn build(&self) -> PathBuf {
        self.path.join("build")
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    pub(super) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.path)?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))?;
        for directory in [self.build(), self.tmp(), self.store()] {
            fs::create_dir(directory)?;
        }
        self.reset()
    }

    /// Sets the owner and mode of the directories.
    fn reset(&self) -> io::Result<()> {
        let reset = |path: PathBuf, mode, owned| {
            let directory = File::open(path)?;
            if let Some(ids) = self.host_ids {
                let uid = if owned { ids.uid } else { 0 };
                std::os::unix::fs::fchown(&directory, Some(uid), Some(ids.gid))?;
            }
            directory.set_permissions(fs::Permissions::from_mode(mode))
        };
        reset(self.build(), 0o700, true)?;
        reset(self.tmp(), 0o1777, true)?;
        // As in Nix: outputs can be created, and mount points and inputs not touched.
        reset(self.store(), 0o1775, false)
    }

    fn clean(&mut self) -> io::Result<()> {
        for path in [self.build(), self.tmp()] {
            remove_contents(open_regardless(&path)?.as_fd(), |_, _| false)?;
        }
        let mut found = HashSet::new();
        let points = &self.points;
        remove_contents(open_regardless(&self.store())?.as_fd(), |name, kind| {
            let name = OsStr::from_bytes(name.to_bytes());
            let same = match points.get(name) {
                Some(Point::Directory) => kind == FileType::Directory,
                Some(Point::File) => kind == FileType::RegularFile,
                None => false,
            };
            if same {
                found.insert(name.to_owned());
            }
            same
        })?;
        self.points.retain(|name, _| found.contains(name));
        self.reset()
    }

    /// Creates and removes mount points until exactly these are there.
    pub(super) fn set_points(
        &mut self,
        wanted: BTreeMap<OsString, Point>,
    ) -> Result<(), EngineError> {
        let store = self.store();
        let step = |what: &str, name: &OsStr| {
            EngineError::setup::<io::Error>(format!("{what} {}", store.join(name).display()))
        };
        for (name, point) in &self.points {
            if wanted.get(name) != Some(point) {
                let path = store.join(name);
                match point {
                    Point::Directory => fs::remove_dir(&path),
                    Point::File => fs::remove_file(&path),
                }
                .map_err(step("removing", name))?;
            }
        }
        for (name, point) in &wanted {
            if self.points.get(name) != Some(point) {
                let path = store.join(name);
                match point {
                    Point::Directory => fs::create_dir(&path),
                    Point::File => fs::write(&path, ""),
                }
                .map_err(step("creating", name))?;
            }
        }
        self.points = wanted;
        Ok(())
    }
}

/// Opens a directory of the engine after a builder may have changed its mode.
fn open_regardless(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // The directory lies in one that only we can change, so it is no link.
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
            File::open(path)
        }
        result => result,
    }
}
