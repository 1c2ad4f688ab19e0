//! Creating roots.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix_compat::nixbase32;
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::StorePath;

use super::Places;
use crate::StoreError;
use crate::blocking::blocking;
use crate::links::{self, replace};
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
    let link = links::place(link, &[places.store, places.dir.as_path()])?;
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
