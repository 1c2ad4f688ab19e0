//! Scratch places for trees on their way into the store.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Dir, FlockOperation, Mode};
use rustix::io::Errno;

use super::files::{open_directory, remove_tree};

/// The directory with the scratch places of all processes. It is outside the store directory if
/// possible: Nix's garbage collector removes unknown entries of the store directory, even if they
/// are in use.
const COMMON: &CStr = c"tmp-tvix";

/// The scratch place of this process on the store's file system, which other users cannot enter. It
/// is locked as long as it is in use, which distinguishes it from the leftovers of dead processes.
#[derive(Debug)]
pub(super) struct ScratchRoot {
    /// The directory of all processes, open for as long as its lock is needed.
    common: File,
    /// The name of this process's directory in it.
    name: CString,
    own: File,
    path: PathBuf,
    counter: AtomicU64,
}

/// A scratch place outside every store path, but on the same file system, so that its contents can
/// be moved into place. Dropping it removes the place with all its contents, and blocks.
#[derive(Debug)]
pub struct Scratch {
    root: Arc<ScratchRoot>,
    name: CString,
    path: PathBuf,
}

impl ScratchRoot {
    /// Creates the scratch place of this process: in the directory `state`, or in the store
    /// directory if the two are on different file systems. First removes the places of dead
    /// processes.
    pub fn create(store: BorrowedFd<'_>, store_path: &Path, state: &Path) -> io::Result<Self> {
        let state_fd = open_directory(rustix::fs::CWD, state)?;
        let (store_stat, state_stat) = (rustix::fs::fstat(store)?, rustix::fs::fstat(&state_fd)?);
        let (parent, parent_path) = if store_stat.st_dev == state_stat.st_dev {
            (state_fd.as_fd(), state)
        } else {
            (store, store_path)
        };
        // If the directory is removed meanwhile (by Nix's garbage collector), the lock is void.
        let common = loop {
            match rustix::fs::mkdirat(parent, COMMON, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(common) = lock_directory(parent, COMMON, FlockOperation::LockShared)? {
                break common;
            }
        };
        remove_stale(&common)?;
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let (name, own) = loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let text = format!("{}-{number}", std::process::id());
            let name = CString::new(text).map_err(io::Error::other)?;
            match rustix::fs::mkdirat(&common, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made?,
            }
            // Until it is locked, another process may consider it stale.
            let operation = FlockOperation::NonBlockingLockExclusive;
            if let Some(own) = lock_directory(common.as_fd(), &name, operation)? {
                break (name, own);
            }
        };
        let path = parent_path
            .join(COMMON.to_string_lossy().as_ref())
            .join(name.to_string_lossy().as_ref());
        Ok(Self {
            common,
            name,
            own,
            path,
            counter: AtomicU64::new(0),
        })
    }

    /// A new, unique name in the scratch place.
    pub fn reserve(self: &Arc<Self>) -> Scratch {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let text = number.to_string();
        Scratch {
            root: self.clone(),
            path: self.path.join(&text),
            name: CString::new(text).unwrap_or_default(),
        }
    }
}

impl Drop for ScratchRoot {
    fn drop(&mut self) {
        // Leftovers are removed at the next opening.
        let _ = remove_tree(self.common.as_fd(), &self.name);
    }
}

impl Scratch {
    /// The path of the place. Nothing exists there yet: the caller creates a file or directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that contains the place, and the name in it.
    pub(super) fn place(&self) -> (BorrowedFd<'_>, &CStr) {
        (self.root.own.as_fd(), &self.name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Leftovers are removed with the scratch place of the process.
        let _ = remove_tree(self.root.own.as_fd(), &self.name);
    }
}

/// `None` if the directory is gone, was replaced, or is locked elsewhere.
fn lock_directory(
    parent: BorrowedFd<'_>,
    name: &CStr,
    operation: FlockOperation,
) -> io::Result<Option<File>> {
    let directory: OwnedFd = match open_directory(parent, name) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    loop {
        match rustix::fs::flock(&directory, operation) {
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            locked => break locked?,
        }
    }
    let locked = rustix::fs::fstat(&directory)?;
    match rustix::fs::statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => {
            Ok(Some(File::from(directory)))
        }
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn remove_stale(common: &File) -> io::Result<()> {
    let mut listing = Dir::read_from(common)?;
    while let Some(entry) = listing.read() {
        let name = entry?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let operation = FlockOperation::NonBlockingLockExclusive;
        // A file is left from the removal of a deep tree.
        let stale = match lock_directory(common.as_fd(), &name, operation) {
            Ok(stale) => stale.is_some(),
            Err(_) => false,
        };
        if stale {
            remove_tree(common.as_fd(), &name)?;
        }
    }
    Ok(())
}
