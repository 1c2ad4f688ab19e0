//! The directories a build writes to.
//!
//! Creating and removing directories is the slowest thing a file system does (a `rmdir` takes as
//! long as a dozen mounts), so scratch directories are used again: after a build what it left is
//! removed, and of the store directory's mount points those stay that the next build needs too.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

use super::directory::EngineDirectory;
use super::error::EngineError;
use super::process::{Chore, Janitor};
use super::remove::remove_contents;
use super::spec::{Access, HostIds, Mount};

/// What a mount point in the store directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    Directory,
    File,
}

/// A scratch directory, in use or not.
#[derive(Debug)]
pub(super) struct Slot {
    path: PathBuf,
    host_ids: Option<HostIds>,
    points: BTreeMap<OsString, Point>,
}

/// The scratch directories of an engine.
#[derive(Debug)]
pub(super) struct Slots {
    directory: PathBuf,
    _engine_directory: Arc<EngineDirectory>,
    /// Where host users start, when the engine may choose them.
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
    pub(super) fn take(self: &Arc<Self>, janitor: &Janitor) -> Result<Scratch, EngineError> {
        let scratch = |slot| Scratch {
            slot: Some(slot),
            slots: self.clone(),
            janitor: janitor.clone(),
        };
        let number = {
            let mut state = self.lock();
            if let Some(slot) = state.idle.pop() {
                return Ok(scratch(slot));
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
        Ok(scratch(slot))
    }

    /// Removes what a build left in a slot and makes it available again.
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
    fn build(&self) -> PathBuf {
        self.path.join("build")
    }

    fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    fn store(&self) -> PathBuf {
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

    /// Gives the directories the owner and mode that a build is to find.
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
}

/// Opens a directory of ours whose mode a builder may have changed.
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

/// The directories of one build, on the file system that the engine was given: a place to build
/// in, one for temporary files, and a store directory that receives the outputs.
///
/// Dropping it removes what is in them. Keep it until the process that uses it is dead (pass a
/// clone of an `Arc` of it to [`Engine::spawn_holding`](super::Engine::spawn_holding)) and what is
/// wanted has been moved away.
pub struct Scratch {
    slot: Option<Slot>,
    slots: Arc<Slots>,
    janitor: Janitor,
}

impl Scratch {
    fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("present until dropped")
    }

    /// Gives back directories that nothing has used, as they are.
    pub fn put_back(mut self) {
        if let Some(slot) = self.slot.take() {
            self.slots.lock().idle.push(slot);
        }
    }

    /// The host's user and group that own these directories, when the engine runs as root.
    pub fn host_ids(&self) -> Option<HostIds> {
        self.slot().host_ids
    }

    /// The build directory on the host; `/build` inside.
    pub fn build_dir(&self) -> PathBuf {
        self.slot().build()
    }

    /// The directory for temporary files on the host; `/tmp` inside.
    pub fn tmp_dir(&self) -> PathBuf {
        self.slot().tmp()
    }

    /// The directory on the host that holds the outputs once they are built.
    pub fn store_dir(&self) -> PathBuf {
        self.slot().store()
    }

    /// Gives the directories the permissions again that their owner needs, after a process that has
    /// changed them. To be called once it is dead, before anything is looked for in them.
    pub fn reclaim(&self) -> io::Result<()> {
        for path in self.directories() {
            let mode = fs::symlink_metadata(&path)?.permissions().mode();
            if mode & 0o700 != 0o700 {
                // It lies in a directory that only we can change, so it is no link.
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777 | 0o700))?;
            }
        }
        Ok(())
    }

    /// All of these directories, for [`SandboxSpec::counted`](super::SandboxSpec::counted).
    pub fn directories(&self) -> Vec<PathBuf> {
        vec![self.build_dir(), self.tmp_dir(), self.store_dir()]
    }

    /// Makes a file or directory in [`Scratch::build_dir`] the builder's own.
    pub fn give_to_builder(&self, path: &Path) -> io::Result<()> {
        match self.host_ids() {
            Some(ids) => std::os::unix::fs::lchown(path, Some(ids.uid), Some(ids.gid)),
            None => Ok(()),
        }
    }

    /// Mounts for a build: `/build` and `/tmp`, and the store directory `store` (a path inside)
    /// with exactly these inputs in it (paths on the host, each visible under its own name).
    pub fn mounts(&mut self, store: &Path, inputs: &[PathBuf]) -> Result<Vec<Mount>, EngineError> {
        let slot = self.slot.as_mut().expect("present until dropped");
        let mut mounts = Vec::with_capacity(inputs.len() + 3);
        mounts.push(Mount::bind(slot.build(), "/build", Access::ReadWrite));
        mounts.push(Mount::bind(slot.tmp(), "/tmp", Access::ReadWrite));
        mounts.push(Mount::bind(slot.store(), store, Access::ReadWrite));

        let mut wanted = BTreeMap::new();
        let mut links = Vec::new();
        for input in inputs {
            let name = input.file_name().ok_or_else(|| {
                EngineError::InvalidSpec(format!("{} has no name", input.display()))
            })?;
            let metadata = fs::symlink_metadata(input)
                .map_err(EngineError::setup(format!("reading {}", input.display())))?;
            if metadata.is_symlink() {
                // Nothing can be mounted on a link: it is copied.
                links.push((name, input));
                continue;
            }
            let point = if metadata.is_dir() {
                Point::Directory
            } else {
                Point::File
            };
            wanted.insert(name.to_owned(), point);
            mounts.push(Mount::bind(input, store.join(name), Access::ReadOnly));
        }
        slot.set_points(wanted)?;
        for (name, input) in links {
            let copy = || symlink(fs::read_link(input)?, slot.store().join(name));
            copy().map_err(EngineError::setup(format!("copying {}", input.display())))?;
        }
        Ok(mounts)
    }
}

impl Slot {
    fn set_points(&mut self, wanted: BTreeMap<OsString, Point>) -> Result<(), EngineError> {
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

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.janitor.give(Chore::Clean(slot, self.slots.clone()));
        }
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Scratch").field(&self.slot).finish()
    }
}
