//! Registering trees that are on the store's file system already: what a builder on this machine
//! has made.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use nix_compat::content_address::ContentAddress;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use rustix::fs::CWD;

use super::add::{NewPath, Tree};
use super::files::{open_directory, remove_tree};
use super::{LocalStore, OutputLocks, Scratch};
use crate::StoreError;
use crate::blocking::blocking;
use crate::object::derivation_outputs;
use crate::verify::check_address;
use tvix_tree::{TreeError, TreeScan, canonicalise};

/// A tree that a build has made, before anybody has looked at it.
#[derive(Debug, Clone)]
pub struct OutputTree {
    /// Where it is: on the store's file system, as anything below [`LocalStore::scratch`] is.
    pub scratch: PathBuf,
    /// The user that all of it must belong to.
    pub owner: u32,
    /// The store path that it is to become.
    pub path: StorePath,
    /// The derivation that was built.
    pub deriver: Option<StorePath>,
    /// Its content address, if it has one.
    pub ca: Option<ContentAddress>,
}

/// A canonical tree of which all is known that a store wants to know.
#[derive(Debug, Clone)]
pub struct ScannedTree {
    /// Where it is, on the store's file system.
    pub scratch: PathBuf,
    /// What it becomes: [`TreeScan`] and more. Nothing of it is checked again but the path
    /// against the content address.
    pub info: PathInfo,
}

impl OutputTree {
    /// Makes the tree canonical, hashes it and finds which of `candidates` and of its own path it
    /// refers to. Blocks.
    ///
    /// # Errors
    ///
    /// As [`canonicalise`].
    pub fn scan(self, candidates: &[StorePath]) -> Result<ScannedTree, TreeError> {
        let own_path = std::iter::once(&self.path);
        let TreeScan {
            nar_hash,
            nar_size,
            references,
        } = canonicalise(&self.scratch, self.owner, own_path.chain(candidates))?;
        let mut info = PathInfo::new(self.path, nar_hash, nar_size);
        info.references = references;
        info.deriver = self.deriver;
        info.ca = self.ca;
        info.ultimate = true;
        Ok(ScannedTree {
            scratch: self.scratch,
            info,
        })
    }
}

impl LocalStore {
    /// A place for a build on the store's file system, that no other user can enter.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`].
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Ok(self.0.scratch()?.reserve())
    }

    /// [`OutputTree::scan`] on all of `outputs`, then [`register_trees`](Self::register_trees).
    /// Each may refer to `candidates`, to itself and to the other outputs.
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] for what cannot be stored, and as
    /// [`register_trees`](Self::register_trees).
    pub async fn import_outputs(
        &self,
        outputs: Vec<OutputTree>,
        candidates: Vec<StorePath>,
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        let mut candidates = candidates;
        candidates.extend(outputs.iter().map(|output| output.path.clone()));
        let scanned = blocking(&self.0.uri, move || {
            let scan = |output: OutputTree| {
                let (file, path) = (output.scratch.clone(), output.path.clone());
                output
                    .scan(&candidates)
                    .map_err(|error| StoreError::Source {
                        file,
                        path,
                        source: error.into(),
                    })
            };
            outputs.into_iter().map(scan).collect::<Result<Vec<_>, _>>()
        })
        .await?;
        self.register_trees(scanned).await
    }

    /// Moves trees into place and makes them valid, all in one transaction: they may refer to each
    /// other, though not in a cycle, which Nix refuses too because nothing in it could ever be
    /// deleted. Trees whose paths are valid already are removed.
    ///
    /// The infos are believed: they have to come from [`OutputTree::scan`] or be verified.
    ///
    /// Returns what is valid now, in the same order. When it fails nothing is registered, and
    /// trees may be gone. If the future is dropped, it happens or not.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidReference`], [`StoreError::Cycle`], [`StoreError::AddressMismatch`],
    /// [`StoreError::ReadOnly`], [`StoreError::Backend`] also if a tree is on another file system.
    pub async fn register_trees(
        &self,
        trees: Vec<ScannedTree>,
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        self.register_locked(trees, OutputLocks::default()).await
    }

    /// As [`register_trees`](Self::register_trees), for paths that the caller has locked: what he
    /// has not is locked here. Gives the locks back when it is done.
    ///
    /// # Errors
    ///
    /// As [`register_trees`](Self::register_trees).
    pub async fn register_locked(
        &self,
        trees: Vec<ScannedTree>,
        locks: OutputLocks,
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        self.0.scratch()?;
        for tree in &trees {
            check_address(&self.0.store_dir, &tree.info)?;
        }
        let paths = trees.iter().map(|tree| &tree.info.path);
        let free = paths.filter(|path| !locks.paths().contains(path));
        let guards = self.0.locks.lock_all(free).await;
        let inner = self.0.clone();
        blocking(&self.0.uri, move || {
            let mut new = Vec::with_capacity(trees.len());
            let mut unused = Vec::with_capacity(trees.len());
            for tree in trees {
                let path = tree.info.path.clone();
                let new_path = inner
                    .new_path(tree)
                    .map_err(|error| inner.file_error("opening the tree of", &path, error))?;
                if let Tree::Callers { parent, name } = &new_path.scratch {
                    unused.push((parent.try_clone(), name.clone()));
                }
                new.push(new_path);
            }
            let registered = inner.register_new(new, locks.paths())?;
            // Held until here, even if nobody waits for it any more.
            drop((guards, locks));
            // Those that were moved are not there any more.
            for (parent, name) in unused {
                if let Ok(parent) = parent {
                    let _ = remove_tree(parent.as_fd(), &name);
                }
            }
            Ok(registered)
        })
        .await
    }
}

impl super::Inner {
    fn new_path(&self, tree: ScannedTree) -> std::io::Result<NewPath> {
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
        let parent = tree.scratch.parent().ok_or_else(invalid)?;
        let name = tree.scratch.file_name().ok_or_else(invalid)?;
        let outputs = if tree.info.path.is_derivation() && tree.scratch.is_file() {
            derivation_outputs(&self.store_dir, &tree.info.path, &fs::read(&tree.scratch)?)
        } else {
            Vec::new()
        };
        Ok(NewPath {
            outputs,
            scratch: Tree::Callers {
                parent: open_directory(CWD, parent)?,
                name: CString::new(name.as_bytes())?,
            },
            info: tree.info,
        })
    }
}
