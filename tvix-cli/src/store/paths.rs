//! Store paths on the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_compat::store_path::StorePath;
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{LocalPath, Store, StoreExt as _};

use super::AnyStoreOption;
use crate::caches::{self, Access};
use crate::error::CliError;
use crate::stores;

/// A store path, and what is meant below it.
#[derive(Debug)]
pub struct Named {
    pub path: StorePath,
    pub below: PathBuf,
}

/// A store of any kind that is read.
pub struct Readable {
    pub store: Arc<dyn Store>,
    /// Where its files are, if they are on this file system.
    files: Option<PathBuf>,
}

impl Readable {
    /// Opens it. What a cache says need not be signed: it is only shown.
    pub async fn open(option: AnyStoreOption) -> Result<Self, CliError> {
        let uri = option.store.unwrap_or_else(stores::usual);
        if uri.local_root().is_some() {
            let store = stores::open_to_read(Some(uri)).await?;
            let files = Some(store.real_store_dir().to_owned());
            let store = Arc::new(store);
            return Ok(Self { store, files });
        }
        let access = Access::ANYTHING;
        let store = caches::open_cache(uri, access, option.netrc.network()).await?;
        Ok(Self {
            store: Arc::new(store),
            files: None,
        })
    }

    /// What a text names in it: see [`parse`].
    pub fn parse(&self, text: &str) -> Result<Named, CliError> {
        parse(&*self.store, self.files.as_deref(), text)
    }

    /// As [`Readable::parse`], of what may not be below a store path.
    pub fn parse_whole(&self, text: &str) -> Result<StorePath, CliError> {
        whole(&*self.store, text, self.parse(text)?)
    }
}

/// What a text names: `/nix/store/…`, the name of a store path alone, or a file or link of this
/// machine that is, or leads to, something in the store, whose files are in `files`.
fn parse(store: &dyn Store, files: Option<&Path>, text: &str) -> Result<Named, CliError> {
    use std::os::unix::ffi::OsStrExt as _;
    if let Ok((path, below)) = store.store_dir().parse_below(text) {
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
    let directory = files.and_then(|files| std::fs::canonicalize(files).ok());
    let directory = directory.ok_or_else(unknown)?;
    let file = std::fs::canonicalize(text).map_err(|_| unknown())?;
    let inside = file.strip_prefix(directory).map_err(|_| unknown())?;
    let mut names = inside.components();
    let base = names.next().ok_or_else(unknown)?;
    let path = StorePath::from_base_name(base.as_os_str().as_bytes()).map_err(|_| unknown())?;
    let below = names.as_path().to_owned();
    Ok(Named { path, below })
}

fn whole(store: &dyn Store, text: &str, named: Named) -> Result<StorePath, CliError> {
    match named.below.as_os_str().is_empty() {
        true => Ok(named.path),
        false => Err(CliError::BelowStorePath {
            text: text.to_owned(),
            path: store.store_dir().path_text(&named.path),
        }),
    }
}

/// The store path that a text names, and nothing below one.
pub fn parse_whole(store: &LocalStore, text: &str) -> Result<StorePath, CliError> {
    let named = parse(store, Some(store.real_store_dir()), text)?;
    whole(store, text, named)
}

/// All of these.
pub fn parse_all(store: &LocalStore, texts: &[String]) -> Result<Vec<StorePath>, CliError> {
    texts.iter().map(|text| parse_whole(store, text)).collect()
}

/// The file on this machine that is meant, and what keeps it there. No link on the way is followed:
/// it could lead out of the store.
pub async fn file(store: &dyn Store, named: &Named) -> Result<(PathBuf, LocalPath), CliError> {
    store.require(&named.path).await.map_err(CliError::store)?;
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
