//! Restoring the contents of a valid path.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;

use nix_compat::nixhash::NixHash;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use tvix_tree::{RestoreOptions, TreeError, Unpacker};

use super::files::move_tree;
use super::scratch::Scratch;
use super::{Inner, LocalStore};
use crate::blocking::{Abandoned, Chunks, consume};
use crate::verify::NarVerifier;
use crate::{Store, StoreError};

impl LocalStore {
    /// Replaces the files of `path`, which is valid, by the contents of another store. The contents
    /// must match the info in this store exactly: the result of another build is refused, because
    /// referrers may depend on this one. The replacement is atomic, if the file system and the
    /// permissions allow that.
    ///
    /// If the future is dropped, the path is repaired or unchanged.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the path is not valid in one of the stores,
    /// [`StoreError::HashMismatch`] if the other store has different contents,
    /// [`StoreError::ReadOnly`], and the errors of reading there and writing here.
    pub async fn repair(&self, path: &StorePath, from: &dyn Store) -> Result<(), StoreError> {
        self.0.scratch()?;
        let guard = self.0.locks.lock(path).await;
        let not_found = |store: &crate::StoreUri| StoreError::NotFound {
            store: store.clone(),
            path: path.clone(),
        };
        let ours = self.path_info(path).await?;
        let ours = ours.ok_or_else(|| not_found(&self.0.uri))?;
        let theirs = from.path_info(path).await?;
        let theirs = theirs.ok_or_else(|| not_found(from.uri()))?;
        if theirs.nar_hash != ours.nar_hash {
            return Err(StoreError::HashMismatch {
                path: path.clone(),
                expected: NixHash::Sha256(ours.nar_hash),
                actual: NixHash::Sha256(theirs.nar_hash),
            });
        }
        let nar = from.nar(path).await?;
        // The row may be so old that it has no size.
        let mut info = PathInfo::clone(&ours);
        info.nar_size = theirs.nar_size;
        let inner = self.0.clone();
        consume(&self.0.uri, nar, move |chunks| {
            let _held = guard;
            inner.unpack_and_replace(&info, chunks)
        })
        .await
    }
}

impl Inner {
    fn unpack_and_replace(&self, info: &PathInfo, mut chunks: Chunks) -> Result<(), StoreError> {
        let path = &info.path;
        let failed = |error: TreeError| StoreError::Backend {
            store: self.uri.clone(),
            action: format!("unpack '{path}'"),
            retryable: false,
            source: error.into(),
        };
        let scratch = self.scratch()?.reserve();
        let options = RestoreOptions::default().with_canonical(true);
        let mut unpacker = Unpacker::new(scratch.path(), options).map_err(failed)?;
        let mut verifier = NarVerifier::new(info);
        while let Some(chunk) = chunks.next().map_err(|Abandoned| {
            self.file_error("receive", path, io::ErrorKind::UnexpectedEof.into())
        })? {
            verifier.update(&chunk, |event| unpacker.event(event).map_err(failed))?;
        }
        verifier.finish()?;
        unpacker.finish().map_err(failed)?;
        let _locks = self.lock_files(std::slice::from_ref(path))?;
        let replaced = self.replace(path, &scratch);
        replaced.map_err(|error| self.file_error("replace", path, error))
    }

    /// The old files are removed with the scratch place.
    fn replace(&self, path: &StorePath, scratch: &Scratch) -> io::Result<()> {
        let name = CString::new(path.to_string()).map_err(io::Error::other)?;
        let store = self.store_fd.as_fd();
        let (directory, new) = scratch.place();
        let exchange = RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(directory, new, store, &name, exchange) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => return Ok(move_tree((directory, new), (store, &name))?),
            // An ordinary user cannot exchange read-only directories, and some file systems do not
            // support exchange. In these cases the path is missing for a moment.
            Err(Errno::ACCESS | Errno::INVAL | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        let old = self.scratch().map_err(io::Error::other)?.reserve();
        move_tree((store, &name), old.place())?;
        Ok(move_tree((directory, new), (store, &name))?)
    }
}
