//! Adding paths: what every way of doing so has in common, and the one that takes a NAR.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use nix_compat::derivation::OutputName;
use nix_compat::nar::{Event, NarError};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_tree::{RestoreOptions, Unpacker};

use super::Inner;
use super::db::Registration;
use super::files::{exists, move_tree, remove_tree};
use super::locks::PathGuard;
use super::scratch::Scratch;
use crate::blocking::{Abandoned, Chunks, consume};
use crate::memory::now;
use crate::object::derivation_outputs;
use crate::verify::{NarVerifier, check_address, malformed};
use crate::{NarStream, StoreError};

/// No derivation is nearly as large.
const MAX_DERIVATION: usize = 64 << 20;

/// A canonical tree in its scratch place, and what it is to become.
pub(super) struct NewPath {
    pub info: PathInfo,
    pub outputs: Vec<(OutputName, StorePath)>,
    pub scratch: Tree,
}

/// Where a tree is that is to be moved into place.
pub(super) enum Tree {
    /// In a place of ours, which removes it if it comes to nothing.
    Ours(Scratch),
    /// In a directory of the caller's.
    Callers {
        parent: std::os::fd::OwnedFd,
        name: CString,
    },
}

impl Inner {
    /// Adds `info.path`, which is not valid, with the contents of `nar`. The caller has locked it.
    pub(super) async fn add_nar(
        self: &Arc<Self>,
        info: PathInfo,
        nar: NarStream,
        guard: PathGuard,
    ) -> Result<(), StoreError> {
        check_address(&self.store_dir, &info)?;
        let permit = self.additions.clone().acquire_owned().await;
        let inner = self.clone();
        consume(&self.uri, nar, move |chunks| {
            // Held until it is done, even if nobody waits for it any more.
            let _held = (permit, guard);
            inner.unpack_and_register(info, chunks)
        })
        .await
    }

    fn unpack_and_register(&self, info: PathInfo, mut chunks: Chunks) -> Result<(), StoreError> {
        // Before it is unpacked: whoever waits for a lock is likely to find it valid afterwards.
        let scratch = self.scratch()?.reserve();
        let options = RestoreOptions::default().canonical(true);
        let unpacker = Unpacker::new(scratch.path(), options);
        let mut unpacker = unpacker.map_err(|error| self.unpack_error(&info.path, error))?;
        let mut verifier = NarVerifier::new(&info);
        let mut derivation = info.path.is_derivation().then(Vec::new);
        while let Some(chunk) = chunks
            .next()
            .map_err(|Abandoned| self.abandoned(&info.path))?
        {
            verifier.update(&chunk, |event| {
                collect_derivation(&mut derivation, event);
                unpacker
                    .event(event)
                    .map_err(|error| self.unpack_error(&info.path, error))
            })?;
        }
        verifier.finish()?;
        unpacker
            .finish()
            .map_err(|error| self.unpack_error(&info.path, error))?;
        let outputs = derivation
            .map(|contents| derivation_outputs(&self.store_dir, &info.path, &contents))
            .unwrap_or_default();
        self.register_new(
            vec![NewPath {
                info,
                outputs,
                scratch: Tree::Ours(scratch),
            }],
            &[],
        )?;
        Ok(())
    }

    /// Moves trees into place and makes them valid, all or none. Blocks. Returns what is valid
    /// under their paths now. The caller holds the locks of the paths `locked`.
    pub(super) fn register_new(
        &self,
        new: Vec<NewPath>,
        locked: &[StorePath],
    ) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        let order: Vec<StorePath> = new.iter().map(|new| new.info.path.clone()).collect();
        let free: Vec<StorePath> = order
            .iter()
            .filter(|it| !locked.contains(it))
            .cloned()
            .collect();
        // Locks beside a root are not collected either.
        self.hold(&order)?;
        let _locks = self.lock_files(&free)?;
        let registration_time = now();
        let mut registrations = Vec::with_capacity(new.len());
        let mut moved = Vec::with_capacity(new.len());
        let mut known = Vec::new();
        for NewPath {
            mut info,
            outputs,
            scratch,
        } in new
        {
            // Another process may have been faster.
            if let Some(info) = self.database.path_info(&info.path)? {
                known.push(info);
                continue;
            }
            let placed = self.move_into_place(&info.path, &scratch);
            if let Err(error) = placed {
                self.remove_moved(&moved);
                return Err(self.file_error("moving into the store", &info.path, error));
            }
            moved.push(info.path.clone());
            info.registration_time = Some(registration_time);
            let info = Arc::new(info);
            known.push(info.clone());
            registrations.push(Registration { info, outputs });
        }
        if let Err(error) = self.database.register(registrations) {
            self.remove_moved(&moved);
            return Err(error);
        }
        let found = order.iter().filter_map(|path| {
            let info = known.iter().find(|info| info.path == *path);
            info.cloned()
        });
        Ok(found.collect())
    }

    pub(super) fn move_into_place(&self, path: &StorePath, scratch: &Tree) -> io::Result<()> {
        let name = CString::new(path.to_string()).map_err(io::Error::other)?;
        let store = self.store_fd.as_fd();
        // What is there without being valid is what a process left that was killed.
        if exists(store, &name)? {
            remove_tree(store, &name)?;
        }
        let from = match scratch {
            Tree::Ours(scratch) => scratch.place(),
            Tree::Callers { parent, name } => (parent.as_fd(), name.as_c_str()),
        };
        Ok(move_tree(from, (store, &name))?)
    }

    /// Nobody has seen them: they were never valid.
    pub(super) fn remove_moved(&self, paths: &[StorePath]) {
        for path in paths {
            if let Ok(name) = CString::new(path.to_string()) {
                // Left over, they are removed when the path is added again.
                let _ = remove_tree(self.store_fd.as_fd(), &name);
            }
        }
    }

    /// What went wrong between a NAR and the file system.
    fn unpack_error(&self, path: &StorePath, error: NarError) -> StoreError {
        match error {
            NarError::Malformed { .. } | NarError::Unwritable { .. } => malformed(path, error),
            error => StoreError::Backend {
                store: self.uri.clone(),
                action: format!("unpacking '{path}'"),
                retryable: false,
                source: error.into(),
            },
        }
    }

    pub(super) fn file_error(
        &self,
        action: &str,
        path: &StorePath,
        error: io::Error,
    ) -> StoreError {
        StoreError::Backend {
            store: self.uri.clone(),
            action: format!("{action} '{path}'"),
            retryable: false,
            source: error.into(),
        }
    }

    fn abandoned(&self, path: &StorePath) -> StoreError {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        self.file_error("receiving", path, error)
    }
}

/// Keeps the contents of a derivation as they come; gives up on what cannot be one.
fn collect_derivation(derivation: &mut Option<Vec<u8>>, event: Event<'_>) {
    match (event, derivation.as_mut()) {
        (Event::Contents(bytes), Some(contents))
            if contents.len() + bytes.len() <= MAX_DERIVATION =>
        {
            contents.extend_from_slice(bytes);
        }
        (Event::Contents(_) | Event::DirectoryStart | Event::Symlink { .. }, _) => {
            *derivation = None;
        }
        _ => {}
    }
}
