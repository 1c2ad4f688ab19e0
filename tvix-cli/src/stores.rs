//! Local stores on the command line.

use std::path::{Path, PathBuf};

use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{OpenOptions, OpenedStore, StoreUri};

use crate::error::CliError;

/// Opens a local store for writing; without a URI the default one.
pub async fn open(uri: Option<StoreUri>) -> Result<LocalStore, CliError> {
    open_as(uri, false).await
}

/// Opens it for reading: it may belong to another user, or be on a read-only file system.
pub async fn open_to_read(uri: Option<StoreUri>) -> Result<LocalStore, CliError> {
    open_as(uri, true).await
}

async fn open_as(uri: Option<StoreUri>, read_only: bool) -> Result<LocalStore, CliError> {
    let uri = uri.unwrap_or_else(usual);
    if uri.local_root().is_none() {
        return Err(CliError::UnsupportedStore(uri));
    }
    let options = OpenOptions::new().with_read_only(read_only);
    match tvix_store_api::open_kind(&uri, options).await? {
        OpenedStore::Local(store) => Ok(store),
        _ => Err(CliError::UnsupportedStore(uri)),
    }
}

/// The default store: the system's for its owner, otherwise one in the home directory, as in Nix.
pub fn usual() -> StoreUri {
    let system = Path::new("/nix/var/nix/db");
    let writable = std::fs::metadata(system).map_or(is_root(), |metadata| {
        !metadata.permissions().readonly() && (is_root() || owned_by_me(&metadata))
    });
    if writable {
        StoreUri::local("/")
    } else {
        StoreUri::local(home_root())
    }
}

fn home_root() -> PathBuf {
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    data.unwrap_or_else(std::env::temp_dir).join("nix/root")
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    })
}

fn owned_by_me(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == metadata.uid())
}
