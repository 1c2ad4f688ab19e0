//! Creating roots.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix_compat::nixbase32;
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::StorePath;

use super::Places;
use crate::StoreError;
use crate::blocking::blocking;
use crate::local_fs::LocalStore;

/// The subdirectory of `gcroots` with a second link for each link that real Nix would not follow.
///
/// Nix only accepts links to `/nix/store` as roots, regardless of the location of the files. A link
/// for users leads to the actual files. So in a store with another root directory, each registered
/// link has a direct root for Nix of the same name. The collector of this crate removes it when the
/// registered link is gone or leads elsewhere.
pub(super) const MIRRORED: &str = "tvix";

impl LocalStore {
    /// Makes `link` a symlink to the files of `path`, which must be valid, and a garbage-collector
    /// root for as long as it exists. A link in `gcroots` or `profiles` is a root by itself; for
    /// any other link, `gcroots/auto` gets a link to it, as Nix does for `result`. Atomically
    /// replaces a symlink into a store, and refuses to replace anything else.
    ///
    /// If the future is dropped, the root is created or not.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], [`StoreError::ReadOnly`]; [`StoreError::Backend`], also if
    /// something else exists at `link`, or `link` is in the store itself.
    pub async fn add_root(&self, link: &Path, path: &StorePath) -> Result<(), StoreError> {
        self.0.scratch()?;
        let (inner, path) = (self.0.clone(), path.clone());
        let failed_link = link.to_owned();
        let link = std::path::absolute(link);
        blocking(&self.0.uri, move || {
            inner.hold(std::slice::from_ref(&path))?;
            if !inner.database.is_valid(&path)? {
                let store = inner.uri.clone();
                return Err(StoreError::NotFound { store, path });
            }
            let made = link.and_then(|link| make(&inner.places(), &link, &path));
            made.map_err(|error| {
                let action = format!("link '{}' to '{path}'", failed_link.display());
                inner.layout.failed(action, error)
            })?;
            // Nix reads links first and temporary roots second. A collector that has not seen the
            // link yet may find the temporary roots of this process gone.
            inner.hold_again(std::slice::from_ref(&path))
        })
        .await
    }
}

impl LocalStore {
    /// Makes the symlink `link`, which a user has created or will create, a root for as long as it leads to a path:
    /// `gcroots/auto` gets a link to it, named as by Nix.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`], [`StoreError::Backend`].
    pub async fn register_root(&self, link: &Path) -> Result<(), StoreError> {
        self.0.scratch()?;
        let (inner, link) = (self.0.clone(), link.to_owned());
        blocking(&self.0.uri, move || {
            let auto = inner.layout.state.join("gcroots/auto");
            let name = registered_name(&link);
            let made = fs::create_dir_all(&auto).and_then(|()| replace(&auto.join(name), &link));
            made.map_err(|error| {
                let action = format!("register the root '{}'", link.display());
                inner.layout.failed(action, error)
            })
        })
        .await
    }
}

/// The name of a registered link, as by Nix.
fn registered_name(link: &Path) -> String {
    let hash = NixHash::digest(HashAlgo::Sha1, link.as_os_str().as_bytes());
    nixbase32::encode(hash.digest_bytes())
}

fn make(places: &Places<'_>, link: &Path, path: &StorePath) -> io::Result<()> {
    // The directory may be reached through symlinks, which may change. The registered link has its
    // real location.
    let (folder, name) = match (link.parent(), link.file_name()) {
        (Some(folder), Some(name)) => (fs::canonicalize(folder)?, name),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let link = folder.join(name);
    if link.starts_with(places.store) || link.starts_with(places.dir.as_path()) {
        return Err(io::Error::other("a root cannot be in the store"));
    }
    match fs::read_link(&link) {
        Ok(target) if leads_to_a_store(&target) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(_) => {
            let message = "a link to something that is in no store is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Err(_) => {
            let message = "something that is not a link is there";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }
    let logical = places.dir.absolute(path);
    let gcroots = places.state.join("gcroots");
    if link.starts_with(&gcroots) || link.starts_with(places.state.join("profiles")) {
        return replace(&link, &logical);
    }
    let file = places.store.join(path.to_string());
    replace(&link, &file)?;
    let name = registered_name(&link);
    let auto = gcroots.join("auto");
    fs::create_dir_all(&auto)?;
    replace(&auto.join(&name), &link)?;
    let mirror = gcroots.join(MIRRORED).join(&name);
    if file != logical {
        fs::create_dir_all(gcroots.join(MIRRORED))?;
        replace(&mirror, &logical)?;
    }
    Ok(())
}

/// Whether a symlink target is in any store.
fn leads_to_a_store(target: &Path) -> bool {
    let mut names = target.components().map(|name| name.as_os_str().as_bytes());
    names.any(|name| StorePath::from_base_name(name).is_ok())
}

/// Creates or atomically replaces a symlink.
fn replace(link: &Path, target: &Path) -> io::Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut temporary = link.as_os_str().to_owned();
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    temporary.push(format!(".tmp-{}-{number}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &temporary)?;
    fs::rename(&temporary, link).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}
