//! What a daemon does for the store as a whole: roots, collection, verification, signatures, logs.

use std::path::{Path, PathBuf};

use nix_compat::signature::Signature;
use nix_compat::store_path::StorePath;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tvix_worker_protocol::{
    AddBuildLog, AddIndirectRoot, AddSignatures, BaseName, Call, CollectGarbage, FindRoots,
    GcAction, GcPaths, OptimiseStore, QueryAllValidPaths, VerifyStore,
};

use super::DaemonStore;
use super::connection::CallError;
use super::pool::Purpose;
use crate::blocking::blocking;
use crate::links;
use crate::{Store as _, StoreError};

/// Bytes of a log that are sent at once.
const PIECE: usize = 64 * 1024;

/// The action of [`DaemonStore::collect_garbage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CollectionAction {
    /// Delete garbage.
    #[default]
    Delete,
    /// List the paths that would be deleted.
    ListDead,
    /// List the paths that would stay.
    ListLive,
}

/// The result of [`DaemonStore::collect_garbage`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// The paths that were deleted, would be deleted, or would stay, depending on the action.
    pub paths: Vec<StorePath>,
    /// Other files of the store directory with which the same was done, as the daemon names them.
    pub strays: Vec<String>,
    /// Freed disk space, in bytes.
    pub bytes_freed: u64,
}

/// A root of a daemon's garbage collector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct DaemonRoot {
    /// The path that is kept together with its closure.
    pub path: StorePath,
    /// The link, or the process, that refers to it; `{censored}` for clients that are not trusted.
    pub link: String,
}

impl DaemonStore {
    /// All valid paths, sorted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn all_valid_paths(&self) -> Result<Vec<StorePath>, StoreError> {
        let paths = self.query(&QueryAllValidPaths {}).await;
        let paths = paths.map_err(|error| self.failed("list the valid paths", error))?;
        Ok(paths.into_iter().collect())
    }

    /// Where a file of the store is on this machine, if the daemon is on this machine.
    pub fn real_path(&self, path: &StorePath) -> Option<PathBuf> {
        let name = path.to_string();
        self.real_store_dir().map(|dir| dir.join(name))
    }

    /// The directory with the files of store paths, if the daemon is on this machine.
    pub fn real_store_dir(&self) -> Option<PathBuf> {
        let root = self.0.pool.options().root.as_ref()?;
        let logical = self.store_dir().as_path();
        Some(root.join(logical.strip_prefix("/").unwrap_or(logical)))
    }

    /// Makes `link` a symlink to `path`, which must be valid, and registers it with the daemon as a
    /// root for as long as it exists. Atomically replaces a symlink into a store, and refuses to
    /// replace anything else. The daemon must be on this machine.
    ///
    /// Daemons accept only links that lead into the store directory, so the link of a store with
    /// another root leads to the logical location.
    ///
    /// If the future is dropped, the link is registered or not.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`]; [`StoreError::Backend`], also if something else exists at `link`, or
    /// the daemon is on another machine.
    pub async fn add_root(&self, link: &Path, path: &StorePath) -> Result<(), StoreError> {
        let action = format!("link '{}' to '{path}'", link.display());
        let Some(files) = self.real_store_dir() else {
            let message = "the files of this store are on another machine";
            return Err(self.failed(action, std::io::Error::other(message).into()));
        };
        if self.path_info(path).await?.is_none() {
            return Err(self.not_found(path));
        }
        let (dir, target) = (self.store_dir().clone(), self.store_dir().absolute(path));
        let link = std::path::absolute(link);
        let (store, failed_action) = (self.clone(), action.clone());
        let made = blocking(self.uri(), move || {
            let placed = link
                .and_then(|link| links::place(&link, &[&files, dir.as_path()]))
                .and_then(|link| links::replace(&link, &target).map(|()| link));
            placed.map_err(|error| store.failed(failed_action, error.into()))
        });
        let link = made.await?;
        let link = std::os::unix::ffi::OsStringExt::into_vec(link.into_os_string()).into();
        let added = self.change(&AddIndirectRoot { link }).await;
        added.map_err(|error| self.failed(action, error))?;
        Ok(())
    }

    /// The roots that the daemon knows, sorted.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn roots(&self) -> Result<Vec<DaemonRoot>, StoreError> {
        let found = self.query(&FindRoots {}).await;
        let found = found.map_err(|error| self.failed("find the roots", error))?;
        let mut roots: Vec<_> = found
            .into_iter()
            .map(|root| DaemonRoot {
                path: root.path,
                link: root.link.to_string(),
            })
            .collect();
        roots.sort();
        roots.dedup();
        Ok(roots)
    }

    /// Collects garbage, or lists paths. `max_freed` is the disk space, in bytes, after which the
    /// collection stops. Derivers and outputs of live paths are kept as the daemon's settings say.
    /// Paths that this store has looked up are temporary roots.
    ///
    /// If the future is dropped, the collection ends soon.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn collect_garbage(
        &self,
        action: CollectionAction,
        max_freed: Option<u64>,
    ) -> Result<Collected, StoreError> {
        let request = CollectGarbage {
            action: match action {
                CollectionAction::Delete => GcAction::DeleteDead,
                CollectionAction::ListDead => GcAction::ReturnDead,
                CollectionAction::ListLive => GcAction::ReturnLive,
            },
            paths: GcPaths::WholeStore,
            ignore_liveness: false,
            max_freed: max_freed.unwrap_or(u64::MAX),
        };
        let done = self.change(&request).await;
        let done = done.map_err(|error| self.failed("collect garbage", error))?;
        let mut collected = Collected {
            bytes_freed: done.bytes_freed,
            ..Collected::default()
        };
        for path in done.paths {
            match self.store_dir().parse(&path) {
                Ok(path) => collected.paths.push(path),
                Err(_) => collected.strays.push(path.to_string()),
            }
        }
        Ok(collected)
    }

    /// Has the daemon verify the store: the files, and with `contents` their hashes. With `repair`,
    /// which needs trust, it replaces damaged paths. Returns whether the store is intact.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn verify_store(&self, contents: bool, repair: bool) -> Result<bool, StoreError> {
        let request = VerifyStore {
            check_contents: contents,
            repair,
        };
        let errors = self.change(&request).await;
        let errors = errors.map_err(|error| self.failed("verify the store", error))?;
        Ok(!errors)
    }

    /// Has the daemon replace equal files by hard links.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn optimise(&self) -> Result<(), StoreError> {
        let done = self.change(&OptimiseStore {}).await;
        done.map(drop)
            .map_err(|error| self.failed("optimise the store", error))
    }

    /// Adds signatures to a valid path.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], [`StoreError::Backend`].
    pub async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: Vec<Signature>,
    ) -> Result<(), StoreError> {
        if self.path_info(path).await?.is_none() {
            return Err(self.not_found(path));
        }
        let request = AddSignatures {
            path: path.clone(),
            signatures,
        };
        let done = self.change(&request).await;
        done.map(drop)
            .map_err(|error| self.failed(format!("sign '{path}'"), error))
    }

    /// Gives the log of a build to the daemon, which then shows it to all clients. Needs trust. The
    /// log is read in pieces.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn add_build_log(
        &self,
        drv_path: &StorePath,
        mut log: impl AsyncRead + Send + Unpin,
    ) -> Result<(), StoreError> {
        let added = async {
            let mut connection = self.0.pool.acquire(Purpose::Request).await?;
            let request = AddBuildLog {
                drv: BaseName(drv_path.clone()),
            };
            connection.sender.request(&request)?;
            let mut piece = vec![0; PIECE];
            loop {
                match log.read(&mut piece).await? {
                    0 => break,
                    length => connection.sender.frames(&piece[..length]).await?,
                }
            }
            connection.sender.end();
            connection.sender.flush().await?;
            connection.receiver.answer::<AddBuildLog>().await
        };
        let added: Result<_, CallError> = added.await;
        added
            .map(drop)
            .map_err(|error| self.failed(format!("add the log of '{drv_path}'"), error))
    }

    /// Makes a request that changes something, once.
    async fn change<C: Call + Sync>(&self, call: &C) -> Result<C::Answer, CallError> {
        let mut connection = self.0.pool.acquire(Purpose::Request).await?;
        connection.call(call).await
    }
}
