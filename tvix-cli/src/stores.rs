//! The store of a command: one on this file system, or a daemon.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_compat::store_path::StorePath;
use tvix_store_api::daemon::DaemonStore;
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{OpenOptions, OpenedStore, Store, StoreError, StoreUri};

use crate::default_store::{self, directory_of_user};
use crate::error::CliError;

/// A store that builds go to, with roots. Clones are handles on the same store.
#[derive(Debug, Clone)]
pub enum MainStore {
    Local(Arc<LocalStore>),
    Daemon(Arc<DaemonStore>),
}

impl Deref for MainStore {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Local(store) => &**store,
            Self::Daemon(store) => &**store,
        }
    }
}

impl MainStore {
    /// The store as one of any kind.
    pub fn any(&self) -> Arc<dyn Store> {
        match self {
            Self::Local(store) => store.clone(),
            Self::Daemon(store) => store.clone(),
        }
    }

    /// The directory with the files of store paths, unless that is on another machine.
    pub fn files(&self) -> Option<PathBuf> {
        match self {
            Self::Local(store) => Some(store.real_store_dir().to_owned()),
            Self::Daemon(store) => store.real_store_dir(),
        }
    }

    /// Where this program keeps logs of builds: where Nix does. A daemon keeps its own, so with one it is a directory
    /// of the user.
    pub fn logs(&self) -> PathBuf {
        match self {
            Self::Local(store) => store.log_dir().join("drvs"),
            Self::Daemon(_) => {
                directory_of_user("XDG_STATE_HOME", ".local/state").join("tvix/log/drvs")
            }
        }
    }

    /// Where directories of failed builds are kept: on the file system that builds write to, as they are moved there.
    pub fn failed_builds(&self) -> PathBuf {
        match self {
            Self::Local(store) => store.state_dir().join("tvix-failed"),
            Self::Daemon(_) => directory_of_user("XDG_CACHE_HOME", ".cache").join("tvix/failed"),
        }
    }

    /// Makes a link to a path a root. Of a store on another machine there is none: nothing is linked then, as in Nix.
    pub async fn add_root(&self, link: &Path, path: &StorePath) -> Result<(), StoreError> {
        match self {
            Self::Local(store) => store.add_root(link, path).await,
            Self::Daemon(store) if store.real_store_dir().is_none() => Ok(()),
            Self::Daemon(store) => store.add_root(link, path).await,
        }
    }

    /// All valid paths.
    pub async fn all_valid_paths(&self) -> Result<Vec<StorePath>, StoreError> {
        match self {
            Self::Local(store) => store.all_valid_paths().await,
            Self::Daemon(store) => store.all_valid_paths().await,
        }
    }
}

/// Where builds for a daemon write.
pub fn directory_of_builds() -> PathBuf {
    directory_of_user("XDG_CACHE_HOME", ".cache").join("tvix/builds")
}

/// Opens a store that can be written to; without a URI the default one.
pub async fn open(uri: Option<StoreUri>) -> Result<MainStore, CliError> {
    open_as(uri, false).await
}

/// Opens it for reading: it may belong to another user, or be on a read-only file system.
pub async fn open_to_read(uri: Option<StoreUri>) -> Result<MainStore, CliError> {
    open_as(uri, true).await
}

async fn open_as(uri: Option<StoreUri>, read_only: bool) -> Result<MainStore, CliError> {
    let uri = default_store::resolve(uri)?;
    if !is_main(&uri) {
        return Err(CliError::UnsupportedStore(uri));
    }
    let options = OpenOptions::new()
        .with_read_only(read_only)
        .with_temporary_roots(!read_only)
        .with_ssh_arguments(ssh_arguments());
    match tvix_store_api::open_kind(&uri, options).await? {
        OpenedStore::Local(store) => Ok(MainStore::Local(Arc::new(store))),
        OpenedStore::Daemon(store) => Ok(MainStore::Daemon(Arc::new(store))),
        _ => Err(CliError::UnsupportedStore(uri)),
    }
}

/// Whether builds can go to stores of this kind.
pub fn is_main(uri: &StoreUri) -> bool {
    matches!(uri.scheme(), "local" | "daemon" | "unix" | "ssh-ng")
}

/// The directory below which the files of a store are on this machine, if that is not `/`.
pub fn root(uri: &StoreUri) -> Option<PathBuf> {
    let root = match uri.scheme() {
        "daemon" | "unix" => uri.parameter("root").map(PathBuf::from),
        _ => uri.local_root(),
    };
    root.filter(|root| root.as_os_str() != "/")
}

/// Options of `ssh`, from the environment as for Nix.
pub fn ssh_arguments() -> Vec<String> {
    let arguments = std::env::var("NIX_SSHOPTS").unwrap_or_default();
    arguments.split_whitespace().map(str::to_owned).collect()
}
