//! Store paths on the command line.

use std::path::{Path, PathBuf};

use nix_compat::store_path::StorePath;
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{LocalPath, Store as _, StoreError, StoreExt as _};

use crate::error::CliError;

/// A store path, and what is meant below it.
#[derive(Debug)]
pub struct Named {
    pub path: StorePath,
    pub below: PathBuf,
}

/// What a text names: `/nix/store/…`, the name of a store path alone, or a file or link of this
/// machine that is, or leads to, something in the store.
pub fn parse(store: &LocalStore, text: &str) -> Result<Named, CliError> {
    if let Ok((path, below)) = store.store_dir().parse_below(text) {
        use std::os::unix::ffi::OsStrExt as _;
        let below = Path::new(std::ffi::OsStr::from_bytes(below)).to_owned();
        return Ok(Named { path, below });
    }
    if let Ok(path) = StorePath::from_base_name(text) {
        let below = PathBuf::new();
        return Ok(Named { path, below });
    }
    let unknown = || CliError::NotInStore {
        text: text.to_owned(),
        store: store.uri().clone(),
    };
    let file = std::fs::canonicalize(text).map_err(|_| unknown())?;
    let directory = std::fs::canonicalize(store.real_store_dir()).map_err(|_| unknown())?;
    let inside = file.strip_prefix(directory).map_err(|_| unknown())?;
    let mut names = inside.components();
    let base = names.next().ok_or_else(unknown)?;
    use std::os::unix::ffi::OsStrExt as _;
    let path = StorePath::from_base_name(base.as_os_str().as_bytes()).map_err(|_| unknown())?;
    let below = names.as_path().to_owned();
    Ok(Named { path, below })
}

/// As [`parse`], of what may not be below a store path.
pub fn parse_whole(store: &LocalStore, text: &str) -> Result<StorePath, CliError> {
    let named = parse(store, text)?;
    match named.below.as_os_str().is_empty() {
        true => Ok(named.path),
        false => Err(CliError::NotInStore {
            text: text.to_owned(),
            store: store.uri().clone(),
        }),
    }
}

/// All of these.
pub fn parse_all(store: &LocalStore, texts: &[String]) -> Result<Vec<StorePath>, CliError> {
    texts.iter().map(|text| parse_whole(store, text)).collect()
}

/// The file on this machine that is meant, and what keeps it there. No link on the way is followed:
/// it could lead out of the store.
pub async fn file(store: &LocalStore, named: &Named) -> Result<(PathBuf, LocalPath), CliError> {
    if !store.is_valid(&named.path).await.map_err(CliError::store)? {
        return Err(CliError::store(StoreError::NotFound {
            store: store.uri().clone(),
            path: named.path.clone(),
        }));
    }
    let root = store
        .local_path(&named.path)
        .await
        .map_err(CliError::store)?;
    let mut file = root.as_ref().to_owned();
    for part in named.below.components() {
        if file.is_symlink() {
            return Err(CliError::File {
                action: "look below",
                source: std::io::Error::other("it is a symlink"),
                file,
            });
        }
        match part {
            std::path::Component::Normal(name) => file.push(name),
            std::path::Component::CurDir => {}
            _ => {
                let source = std::io::Error::other("'..' leads out of it");
                let action = "look below";
                return Err(CliError::File {
                    action,
                    file,
                    source,
                });
            }
        }
    }
    Ok((file, root))
}
