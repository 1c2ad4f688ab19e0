//! Access checks of pure and restricted mode.

use std::os::unix::ffi::OsStrExt;

use nix_compat::store_path::StorePath;
use rustc_hash::FxHashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::fetch::is_pseudo_url;
use crate::interp::Interp;
use crate::paths;
use crate::select::current_folder;

use super::Links;
use super::lossy;

impl<'h> Interp<'h> {
    /// Whether the environment and most files are hidden.
    #[inline]
    pub(crate) fn is_confined(&self) -> bool {
        let settings = &self.world.settings;
        settings.pure || settings.allowed_paths.is_some()
    }

    /// Fails if evaluation may not read `path`.
    pub(crate) fn check_access(&self, path: &[u8]) -> Result<()> {
        if !self.is_confined() || self.is_allowed(path) {
            return Ok(());
        }
        let mode = match self.world.settings.pure {
            true => "in pure evaluation mode (use '--impure' to override)",
            false => "in restricted mode",
        };
        let path = lossy(path);
        Err(Error::new(
            ErrorKind::Forbidden,
            format!("access to absolute path '{path}' is forbidden {mode}"),
        ))
    }

    /// Whether evaluation may see a path. These are the readable paths and their parent
    /// directories.
    pub(super) fn is_allowed(&self, path: &[u8]) -> bool {
        if self.may_read_all(path) {
            return true;
        }
        let allowed = self.world.allowed.get_or_init(|| self.allowed_paths());
        let store = self.world.settings.store_dir.as_str().as_bytes();
        allowed.iter().any(|root| is_below(root, path))
            || (is_below(store, path) && !self.world.allowed_objects.borrow().is_empty())
    }

    /// Whether evaluation may read a path and everything below it.
    pub(super) fn may_read_all(&self, path: &[u8]) -> bool {
        let allowed = self.world.allowed.get_or_init(|| self.allowed_paths());
        allowed.iter().any(|root| is_below(path, root))
            || self.embedded(path).is_some()
            || self.made_contents(path).is_some()
            || self.object_of(path).is_some_and(|object| {
                let objects = self.world.allowed_objects.borrow();
                objects.contains(object)
            })
    }

    /// Allows reads of a store object that evaluation has made.
    pub(crate) fn allow(&self, path: &StorePath) {
        if self.is_confined() {
            let text = self.world.settings.store_dir.display(path).to_string();
            let mut allowed = self.world.allowed_objects.borrow_mut();
            allowed.insert(text.into_bytes());
        }
    }

    /// Allows reads of a store path that was built for this evaluation, and of its closure. If no
    /// store can tell its references, the closure of the derivation's inputs is used instead.
    pub(super) fn allow_built(&self, built: &StorePath, drv_path: &StorePath) -> Result<()> {
        if !self.is_confined() {
            return Ok(());
        }
        if self.world.valid_paths.is_some() {
            let closure = self.closure_of(built)?;
            closure.iter().for_each(|path| self.allow(path));
            return Ok(());
        }
        self.allow(built);
        let dir = self.world.settings.store_dir.clone();
        let mut seen: FxHashSet<StorePath> = FxHashSet::default();
        let mut rest = vec![drv_path.clone()];
        while let Some(path) = rest.pop() {
            let Some(known) = self.derivations.get(&path) else {
                continue;
            };
            let derivation = &known.derivation;
            for (output, _) in derivation.outputs.iter() {
                if let Some(path) = derivation.output_path(&dir, output) {
                    self.allow(&path);
                }
            }
            derivation
                .input_srcs
                .iter()
                .for_each(|path| self.allow(path));
            let inputs = derivation.input_drvs.iter().map(|(input, _)| input);
            rest.extend(
                inputs
                    .filter(|input| seen.insert((*input).clone()))
                    .cloned(),
            );
        }
        Ok(())
    }

    /// The directories outside the store that may be read.
    fn allowed_paths(&self) -> Vec<Vec<u8>> {
        let settings = &self.world.settings;
        let given = settings.allowed_paths.iter().flatten();
        let mut allowed: Vec<Vec<u8>> = given
            .map(|path| paths::canonical(path.as_os_str().as_bytes()))
            .collect();
        // Pure mode has no search path.
        if !settings.pure {
            let entries = settings.search_path.iter();
            let entries = entries.filter(|(_, path)| !is_pseudo_url(path));
            allowed.extend(entries.map(|(_, path)| absolute(path.as_bytes())));
            self.allow_closures(&mut allowed);
        }
        allowed
    }

    /// Adds the closures of paths in the store.
    fn allow_closures(&self, allowed: &mut Vec<Vec<u8>>) {
        let dir = &self.world.settings.store_dir;
        let objects = allowed.iter().filter_map(|path| dir.parse_below(path).ok());
        let objects: Vec<StorePath> = objects.map(|(object, _)| object).collect();
        for object in objects {
            // An invalid path has no closure.
            let closure = self.closure_of(&object).unwrap_or_default();
            let others = closure.iter().filter(|path| **path != object);
            allowed.extend(others.map(|path| dir.path_text(path).into_bytes()));
        }
    }

    /// Fails if evaluation may not fetch `uri`.
    pub(crate) fn check_uri(&self, uri: &str) -> Result<()> {
        let settings = &self.world.settings;
        if settings.allowed_paths.is_none() {
            return Ok(());
        }
        if settings
            .allowed_uris
            .iter()
            .any(|prefix| covers(prefix, uri))
        {
            return Ok(());
        }
        if uri.starts_with('/') {
            return self.check_access(&paths::canonical(uri.as_bytes()));
        }
        if let Some(path) = crate::fetch::file_path(uri) {
            return self.check_real_path(path.as_os_str().as_bytes());
        }
        Err(Error::new(
            ErrorKind::Forbidden,
            format!("access to URI '{uri}' is forbidden in restricted mode"),
        ))
    }

    /// Fails if a path, or its target after all links are resolved, may not be read. Fetchers
    /// follow links and then `..`.
    fn check_real_path(&self, path: &[u8]) -> Result<()> {
        let canonical = paths::canonical(path);
        self.check_access(&canonical)?;
        if canonical != path {
            let message = format!("path '{}' is not canonical", lossy(path));
            return Err(Error::new(ErrorKind::Forbidden, message));
        }
        let resolved = self.resolve(path, Links::All)?;
        self.check_access(&resolved)
    }
}

fn is_below(path: &[u8], root: &[u8]) -> bool {
    root == b"/"
        || path
            .strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Whether a prefix allows a URI: the same URI, a URI below it, or any URI of its scheme.
fn covers(prefix: &str, uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix(prefix) else {
        return false;
    };
    let is_scheme = || {
        prefix.strip_suffix(':').is_some_and(|scheme| {
            let mut letters = scheme.bytes();
            letters
                .next()
                .is_some_and(|first| first.is_ascii_alphabetic())
                && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        })
    };
    rest.is_empty()
        || (!prefix.is_empty() && (prefix.ends_with('/') || rest.starts_with('/') || is_scheme()))
}

fn absolute(path: &[u8]) -> Vec<u8> {
    match path.first() {
        Some(b'/') => paths::canonical(path),
        _ => paths::canonical(&[&current_folder(), b"/".as_slice(), path].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn allowed_uris() {
        for (prefix, uri, wanted) in [
            ("https://github.co", "https://github.com/a", false),
            ("https://github.com", "https://github.com/a", true),
            ("https://github.com/", "https://github.com/a", true),
            ("https:", "https://github.com/a", true),
            ("https://g", "https://github.com", false),
            ("", "https://github.com", false),
            ("http://a/b", "http://a/b", true),
            ("/a:", "/a:b", false),
        ] {
            assert_eq!(covers(prefix, uri), wanted, "{prefix} {uri}");
        }
    }
}
