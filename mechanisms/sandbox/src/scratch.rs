//! The directories that a process writes to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::EngineError;
use super::janitor::{Chore, Janitor};
use super::slots::{Point, Slot, Slots};
use super::spec::{Access, HostIds, Mount};

/// The directories of one process, below [`EngineOptions::scratch`](super::EngineOptions::scratch):
/// a build directory, one for temporary files, and a store directory for the outputs.
///
/// Dropping it removes their contents. Keep it until the process is dead (pass a clone of an `Arc` of
/// it to [`Engine::spawn_holding`](super::Engine::spawn_holding)) and the outputs have been moved.
pub struct Scratch {
    slot: Option<Slot>,
    slots: Arc<Slots>,
    janitor: Janitor,
}

impl Scratch {
    /// Unused directories, which `janitor` empties when they are dropped.
    pub(super) fn new(slots: &Arc<Slots>, janitor: &Janitor) -> Result<Self, EngineError> {
        Ok(Self {
            slot: Some(slots.take()?),
            slots: slots.clone(),
            janitor: janitor.clone(),
        })
    }

    fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("present until dropped")
    }

    /// Returns directories that no process has used, without emptying them.
    pub fn put_back(mut self) {
        if let Some(slot) = self.slot.take() {
            self.slots.put_back(slot);
        }
    }

    /// The user and group of the host that own these directories, if the engine runs as root.
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

    /// The directory of the outputs on the host.
    pub fn store_dir(&self) -> PathBuf {
        self.slot().store()
    }

    /// Restores the permissions of the directories that a process may have changed. Call it after the
    /// process is dead, before reading outputs.
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

    /// Changes the owner of a file or directory to the user of the process.
    pub fn give_to_builder(&self, path: &Path) -> io::Result<()> {
        match self.host_ids() {
            Some(ids) => std::os::unix::fs::lchown(path, Some(ids.uid), Some(ids.gid)),
            None => Ok(()),
        }
    }

    /// Mounts of a build: `/build`, `/tmp`, and the store directory `store` (a path inside the sandbox)
    /// with exactly these inputs (paths on the host, each visible under its own name).
    pub fn mounts(&mut self, store: &Path, inputs: &[PathBuf]) -> Result<Vec<Mount>, EngineError> {
        let slot = self.slot.as_mut().expect("present until dropped");
        let mut mounts = Vec::with_capacity(inputs.len() + 3);
        mounts.push(Mount::bind(slot.build(), "/build", Access::ReadWrite));
        mounts.push(Mount::bind(slot.tmp(), "/tmp", Access::ReadWrite));
        // A store below one of these, as under a temporary directory, is mounted into it.
        for (inside, directory) in [("/build", slot.build()), ("/tmp", slot.tmp())] {
            if let Ok(below) = store.strip_prefix(inside) {
                let point = directory.join(below);
                fs::create_dir_all(&point)
                    .map_err(EngineError::setup(format!("creating {}", point.display())))?;
            }
        }
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
