//! Adding paths: the steps common to all additions, and the addition of a NAR.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use nix_compat::derivation::OutputName;
use nix_compat::nar::{Event, NarError};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_tree::{RestoreOptions, TreeError, Unpacker};

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

/// Size limit of a derivation that is parsed, in bytes. Real ones are far smaller.
const MAX_DERIVATION: usize = 64 << 20;

/// A canonical tree outside the store directory, and its info.
pub(super) struct NewPath {
    pub info: PathInfo,
    pub outputs: Vec<(OutputName, StorePath)>,
    pub scratch: Tree,
}

/// The location of a tree that is to be moved into place.
pub(super) enum Tree {
    /// In a scratch place of this process, which removes it unless it is moved away.
    Ours(Scratch),
    /// In a directory of the caller.
    Callers {
        parent: std::os::fd::OwnedFd,
        name: CString,
    },
}

impl Inner {
    /// Adds `info.path`, which is not valid, with the contents of `nar`. The caller holds its lock.
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
            // Held until the addition has ended, even if the future is dropped.
            let _held = (permit, guard);
            inner.unpack_and_register(info, chunks)
        })
        .await
    }

    fn unpack_and_register(&self, info: PathInfo, mut chunks: Chunks) -> Result<(), StoreError> {
        // Unpacks before it takes the file lock. A process that waited for the lock usually finds
        // the path valid afterwards.
        let scratch = self.scratch()?.reserve();
        let options = RestoreOptions::default().with_canonical(true);
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

    /// Moves trees into place and makes them valid, all or none. Blocks. Returns the infos that are
    /// now valid under their paths. The caller holds the locks of the paths `locked`.
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
        // A temporary root also keeps the lock file beside the path from being collected.
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
            // Another process may have added the path meanwhile.
            if let Some(info) = self.database.path_info(&info.path)? {
                known.push(info);
                continue;
            }
            let placed = self.move_into_place(&info.path, &scratch);
            if let Err(error) = placed {
                self.remove_moved(&moved);
                return Err(self.file_error("move into the store", &info.path, error));
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
        // Files of a path that is not valid are left from a process that was killed.
        if exists(store, &name)? {
            remove_tree(store, &name)?;
        }
        let from = match scratch {
            Tree::Ours(scratch) => scratch.place(),
            Tree::Callers { parent, name } => (parent.as_fd(), name.as_c_str()),
        };
        Ok(move_tree(from, (store, &name))?)
    }

    /// Removes trees that were moved into place and never became valid, so no reader has seen them.
    pub(super) fn remove_moved(&self, paths: &[StorePath]) {
        for path in paths {
            if let Ok(name) = CString::new(path.to_string()) {
                // A tree that stays is removed when the path is added again.
                let _ = remove_tree(self.store_fd.as_fd(), &name);
            }
        }
    }

    /// Tells errors in the NAR from errors of the file system.
    fn unpack_error(&self, path: &StorePath, error: TreeError) -> StoreError {
        match error {
            TreeError::Nar(
                error @ (NarError::Malformed { .. } | NarError::InvalidWrite { .. }),
            ) => malformed(path, error),
            error => StoreError::Backend {
                store: self.uri.clone(),
                action: format!("unpack '{path}'"),
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
        self.file_error("receive", path, error)
    }
}

/// Collects the contents of a derivation, chunk by chunk; `None` as soon as the archive cannot be
/// one.
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
