//! The search path: `<name>`.

use crate::error::{Error, ErrorKind, Result};
use crate::fetch::is_pseudo_url;
use crate::interp::Interp;
use crate::paths;

use super::import::FETCHURL;
use super::{Links, join, lossy};

impl<'h> Interp<'h> {
    /// The first match of a name in the search path.
    pub(crate) fn find_file(&self, entries: &[(Vec<u8>, Vec<u8>)], name: &[u8]) -> Result<Vec<u8>> {
        for (prefix, path) in entries {
            let Some(rest) = rest_of(prefix, name) else {
                continue;
            };
            let Some(root) = self.search_entry(path)? else {
                continue;
            };
            let found = join(&root, &paths::canonical(rest)[1..]);
            let found = self.resolve(&paths::canonical(&found), Links::All)?;
            if self.visible_kind(&found)?.is_some() {
                return Ok(found);
            }
            self.check_access(&found)?;
        }
        if name == b"nix/fetchurl.nix" {
            return Ok(FETCHURL.to_vec());
        }
        let name = lossy(name);
        let message = match self.world.settings.pure {
            true => format!(
                "cannot look up '<{name}>' in pure evaluation mode (use '--impure' to override)"
            ),
            false => format!(
                "file '{name}' was not found in the Nix search path (add it using $NIX_PATH or -I)"
            ),
        };
        Err(Error::new(ErrorKind::Thrown, message))
    }

    /// The location of a search path entry; `None` if it does not exist.
    fn search_entry(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(known) = self.world.looked_up.borrow().get(path) {
            return Ok(known.clone());
        }
        let found = match std::str::from_utf8(path) {
            Ok(url) if is_pseudo_url(url) => self.search_entry_at(url)?,
            Ok(url) if url.starts_with("flake:") => return Err(no_flakes()),
            _ => self.search_entry_in(path)?,
        };
        let mut looked_up = self.world.looked_up.borrow_mut();
        looked_up.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    fn search_entry_at(&self, url: &str) -> Result<Option<Vec<u8>>> {
        let settings = &self.world.settings;
        // Expressions can construct entries of their own.
        if !settings.search_path.iter().any(|(_, known)| known == url) {
            self.check_uri(url)?;
        }
        match self.fetch_pseudo_url(url) {
            Ok(path) => Ok(Some(path)),
            Err(error) if error.kind == ErrorKind::Build => {
                self.warn(format!(
                    "Nix search path entry '{url}' cannot be downloaded, ignoring: {}",
                    error.message
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn search_entry_in(&self, entry: &[u8]) -> Result<Option<Vec<u8>>> {
        let path = if entry.first() == Some(&b'/') {
            entry.to_vec()
        } else {
            let here = std::env::current_dir().map_err(|error| {
                Error::new(ErrorKind::Io, format!("no current folder: {error}"))
            })?;
            use std::os::unix::ffi::OsStrExt;
            join(here.as_os_str().as_bytes(), entry)
        };
        let path = paths::canonical(&path);
        let resolved = self.resolve(&path, Links::All)?;
        if self.visible_kind(&resolved)?.is_none() {
            self.check_access(&path)?;
            self.warn(format!(
                "Nix search path entry '{}' does not exist, ignoring",
                lossy(entry)
            ));
            return Ok(None);
        }
        Ok(Some(path))
    }
}

/// The error for a path that is a flake reference.
#[cold]
pub(crate) fn no_flakes() -> Box<Error> {
    Error::new(
        ErrorKind::Unsupported,
        "experimental Nix feature 'flakes' is disabled; add '--extra-experimental-features flakes' to enable it",
    )
}

/// The remainder of a name after a prefix.
fn rest_of<'n>(prefix: &[u8], name: &'n [u8]) -> Option<&'n [u8]> {
    if prefix.is_empty() {
        return Some(name);
    }
    match name.strip_prefix(prefix)? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}
