//! Registering trees that are already on the store's file system, such as the outputs of a local
//! build.

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

/// An output of a build, not scanned yet.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OutputTree {
    /// The location of the tree: on the store's file system, such as below [`LocalStore::scratch`].
    pub scratch: PathBuf,
    /// The required owner of all files (a user id).
    pub owner: u32,
    /// The store path of the output.
    pub path: StorePath,
    /// The derivation that was built.
    pub deriver: Option<StorePath>,
    /// The content address, if there is one.
    pub ca: Option<ContentAddress>,
}

/// A canonical tree with a complete info.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ScannedTree {
    /// The location of the tree, on the store's file system.
    pub scratch: PathBuf,
    /// The info. The store trusts it, except that it checks the path against the content address.
    pub info: PathInfo,
}

impl ScannedTree {
    /// A tree with its info.
    pub fn new(scratch: impl Into<PathBuf>, info: PathInfo) -> Self {
        Self {
            scratch: scratch.into(),
            info,
        }
    }
}

impl OutputTree {
    /// A tree without deriver and content address.
    pub fn new(scratch: impl Into<PathBuf>, owner: u32, path: StorePath) -> Self {
        Self {
            scratch: scratch.into(),
            owner,
            path,
            deriver: None,
            ca: None,
        }
    }

    /// Sets the derivation that was built.
    #[must_use]
    pub fn with_deriver(mut self, deriver: impl Into<Option<StorePath>>) -> Self {
        self.deriver = deriver.into();
        self
    }

    /// Sets the content address.
    #[must_use]
    pub fn with_ca(mut self, ca: impl Into<Option<ContentAddress>>) -> Self {
        self.ca = ca.into();
        self
    }

    /// Makes the tree canonical, hashes it, and scans it for references to `candidates` and to its
    /// own path. Blocks.
    ///
    /// # Errors
    ///
    /// Those of [`canonicalise`].
    pub fn scan(self, candidates: &[StorePath]) -> Result<ScannedTree, TreeError> {
        let own_path = std::iter::once(&self.path);
        let TreeScan {
            nar_hash,
            nar_size,
            references,
            ..
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
    /// A scratch place for a build, on the store's file system, that other users cannot enter.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`].
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Ok(self.0.scratch()?.reserve())
    }

    /// Runs [`OutputTree::scan`] on all of `outputs`, then
    /// [`register_trees`](Self::register_trees). Each output may refer to `candidates`, to itself
    /// and to the other outputs.
    ///
    /// # Errors
    ///
    /// [`StoreError::Source`] for a tree that cannot be stored, and those of
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

    /// Moves trees into place and makes them valid, all in one transaction. They may refer to each
    /// other, but not in a cycle: Nix refuses cycles too, because their paths could never be
    /// deleted. Trees of paths that are valid already are removed.
    ///
    /// The infos are trusted: they must come from [`OutputTree::scan`] or be verified.
    ///
    /// Returns the infos that are now valid, in the same order. If it fails, nothing is registered,
    /// and the trees may be gone. If the future is dropped, the registration happens completely or
    /// not at all.
    ///
    /// # Errors
    ///
    /// [`StoreError::InvalidReference`], [`StoreError::Cycle`], [`StoreError::AddressMismatch`],
    /// [`StoreError::ReadOnly`]; [`StoreError::Backend`], also if a tree is on another file system.
    pub async fn register_trees(
        &self,
        trees: Vec<ScannedTree>,
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        self.register_locked(trees, OutputLocks::default()).await
    }

    /// As [`register_trees`](Self::register_trees), with locks that the caller holds. Locks of
    /// other paths are taken here. Releases all locks at the end.
    ///
    /// # Errors
    ///
    /// Those of [`register_trees`](Self::register_trees).
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
                    .map_err(|error| inner.file_error("open the tree of", &path, error))?;
                if let Tree::Callers { parent, name } = &new_path.scratch {
                    unused.push((parent.try_clone(), name.clone()));
                }
                new.push(new_path);
            }
            let registered = inner.register_new(new, locks.paths())?;
            // Held until here, even if the future is dropped.
            drop((guards, locks));
            // Removes the trees that were not moved.
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
