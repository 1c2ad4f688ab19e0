//! `<name>`: the search path.

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::paths;

use super::import::FETCHURL;
use super::{join, lossy};

impl<'h> Interp<'h> {
    /// The first path of the search path that a name stands for.
    pub(crate) fn find_file(&self, entries: &[(Vec<u8>, Vec<u8>)], name: &[u8]) -> Result<Vec<u8>> {
        for (prefix, path) in entries {
            let Some(rest) = rest_of(prefix, name) else {
                continue;
            };
            let Some(root) = self.search_entry(path)? else {
                continue;
            };
            let found = if rest.is_empty() {
                root
            } else {
                join(&root, rest)
            };
            if self.resolve_links(&found)?.is_some() {
                return Ok(paths::canonical(&found));
            }
        }
        if name == b"nix/fetchurl.nix" {
            return Ok(FETCHURL.to_vec());
        }
        let name = lossy(name);
        Err(Error::new(
            ErrorKind::Thrown,
            format!(
                "file '{name}' was not found in the Nix search path (add it using $NIX_PATH or -I)"
            ),
        ))
    }

    /// Where an entry of the search path is; `None` if it is nowhere.
    fn search_entry(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let path = if path.first() == Some(&b'/') {
            path.to_vec()
        } else {
            let here = std::env::current_dir().map_err(|error| {
                Error::new(ErrorKind::Io, format!("no current folder: {error}"))
            })?;
            use std::os::unix::ffi::OsStrExt;
            join(here.as_os_str().as_bytes(), path)
        };
        let path = paths::canonical(&path);
        Ok(self.resolve_links(&path)?.map(|_| path))
    }
}

/// What of a name is below a prefix.
fn rest_of<'n>(prefix: &[u8], name: &'n [u8]) -> Option<&'n [u8]> {
    if prefix.is_empty() {
        return Some(name);
    }
    match name.strip_prefix(prefix)? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}
